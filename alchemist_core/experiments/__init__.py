"""Experiments: arms × retentions × seeds driven through the stages, each finished arm found again. `README.md` says what each file does."""

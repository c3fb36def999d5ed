"""Experiments: arms × retentions × seeds run through the stages, which reuse finished arms. `README.md` describes the files."""

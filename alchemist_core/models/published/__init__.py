"""Published checkpoints: maps between their keys and ours, loading and exporting. No code of the publishers is needed."""

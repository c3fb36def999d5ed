"""The embedded default: what runs on one machine without any server of its own."""

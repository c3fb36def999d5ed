"""Tar shards and their storage: list, read, decode and write records. Uses no database."""

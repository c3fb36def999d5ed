"""Tar shards and where they lie: index, read, decode, write. Knows no database and no stage."""

"""Published dataset layouts: each a generator of records, read in a stream and written to tar shards."""

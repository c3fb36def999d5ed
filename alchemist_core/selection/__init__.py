"""Which samples are selected: ranks, keys, strategies and sampling. Ranks in, indices out; no I/O, no torch."""

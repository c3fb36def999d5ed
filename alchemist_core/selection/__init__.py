"""Which pairs are kept: ranks, keys, strategies and the draw. Ranks in, indices out; no I/O, no torch."""

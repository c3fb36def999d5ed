"""What owns a device: rater training, scoring, downstream training, checkpoints. accelerate is imported only here."""

import os

# One OpenMP thread, as torchrun has it: at this size two that sleep lose 20 % on idle cores and 50 % beside a busy process
# (a rater step: 95 ms with one, idle or not; 115 and 140 ms with two that sleep, 62 and up to 400 with two that spin).
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Threads that wait for their team should sleep, not spin: with one core busy elsewhere, two spinning threads made a training
# step 9 times slower (0.67 s against 0.07 s, 2 cores). It must stand before torch loads its OpenMP.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
# cuBLAS repeats its sums only with a workspace of its own; torch refuses deterministic kernels without it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

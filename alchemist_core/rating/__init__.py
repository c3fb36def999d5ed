"""Rating: the paper's equations as pure functions, and the rater network. It takes tensors and returns tensors."""

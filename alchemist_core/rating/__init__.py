"""Rating: the paper's equations as pure functions, and the rater network. Tensors in, tensors out."""

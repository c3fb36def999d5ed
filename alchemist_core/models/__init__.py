"""Networks: STAR with its image tokenizer and text encoders, FLUX-mini, and the networks of metrics."""

"""Models: the scale-wise autoregressive family, its image tokenizer and its text encoders."""

"""Embeddings that scorers computed: where they are kept, reading them, and what is found by them."""

"""What owns a device: rater training, scoring, downstream training, checkpoints. accelerate is imported only here."""

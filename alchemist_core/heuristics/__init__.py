"""Numbers about a picture that need no rater: image in, number out. Pure numpy; each value is of one picture alone."""

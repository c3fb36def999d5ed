"""Scores of an image that need no rater. Pure numpy; each value depends on one image only."""

"""Data checks of nights and subsets by Great Expectations, and score drift."""

"""Data checks: Great Expectations suites over one night's slice, and the gate that they are."""

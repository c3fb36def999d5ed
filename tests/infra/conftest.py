"""A program of these tests, which reads its arguments when it is loaded, holds no tests."""

collect_ignore = ["run_pods.py"]

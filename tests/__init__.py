"""The tests, in the folders of `alchemist_core`. A package, so that a dependency's own `tests` package is not imported instead."""

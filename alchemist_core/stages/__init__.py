"""The eight stages, one file each with a function `run(config) -> Result`, and how a stage is executed."""

"""Loops: what owns a device and takes long. Accelerate is used here and nowhere else."""

"""Published checkpoints: what their keys are called here, and the way in and out. No foreign code is needed to read one."""

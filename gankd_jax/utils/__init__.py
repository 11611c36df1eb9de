"""Infrastructure that holds no model code: files, checkpoints, logs, devices, processes."""

"""What numbers do not depend on: files, checkpoints, logs, locks, signals, devices, processes."""

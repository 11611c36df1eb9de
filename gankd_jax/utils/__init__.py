"""Infrastructure that holds no model code: files, checkpoints, logs, devices, processes."""

VERSION = "0.1.0"  # of the package; read here, since a checkout need not be installed

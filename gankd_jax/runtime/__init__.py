"""Files a run keeps: checkpoints and logs."""

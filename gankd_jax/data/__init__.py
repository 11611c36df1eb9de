"""Data sets: how they are prepared, read and cut into batches."""

"""Readers of the original files of data sets."""

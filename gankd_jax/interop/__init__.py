"""Weights and files of other frameworks."""

"""Scores of sets of images; each formula names its reference."""

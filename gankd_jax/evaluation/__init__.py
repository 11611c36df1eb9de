"""Scores of generators and of image sets: feature extractors, classifiers, sampling."""

"""Configs of a study: fields, recipes, presets, validation. Imports no JAX."""

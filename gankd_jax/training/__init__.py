"""Losses, train steps, and the loop around them."""

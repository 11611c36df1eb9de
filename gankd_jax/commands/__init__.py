"""The commands: what each takes, what is said of it, and what it calls."""

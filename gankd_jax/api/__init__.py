"""Functions of the public API that compose a whole study."""

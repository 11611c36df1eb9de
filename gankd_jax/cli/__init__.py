"""The command line: `gankd COMMAND`."""

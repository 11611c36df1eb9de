"""`python -m gankd_jax`: the same as `gankd`."""

from gankd_jax.cli.main import main

if __name__ == "__main__":
    main()

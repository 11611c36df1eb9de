"""`python -m gankd_jax`: the same as `gankd`."""

from gankd_jax.cli import main

if __name__ == "__main__":
    main()

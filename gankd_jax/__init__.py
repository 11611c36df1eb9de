"""GAN compression by knowledge distillation in JAX and Flax (arXiv 1902.00159)."""

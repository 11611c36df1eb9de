"""GAN compression by knowledge distillation in JAX and Flax (arXiv 1902.00159)."""

import os

# tensorboardX and scikit-learn set these when they are imported, which is late, to start soon; by
# then XLA's threads read the environment, and one that reads while it grows can crash (glibc's
# setenv moves it).  Set before the first thread, to their own values, they are left alone.
os.environ.setdefault("CRC32C_SW_MODE", "auto")
os.environ.setdefault("KMP_DUPLICATE_LIB_OK", "True")
os.environ.setdefault("KMP_INIT_AT_FORK", "FALSE")

"""Flax networks; a family of generators registers itself when its module is imported here."""

from gankd_jax.models import dcgan as dcgan
from gankd_jax.models import resnet as resnet

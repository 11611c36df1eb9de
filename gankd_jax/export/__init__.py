"""Trained generators as files; a format registers itself when its module is imported here."""

from gankd_jax.export import onnx as onnx
from gankd_jax.export import safetensors as safetensors
from gankd_jax.export import stablehlo as stablehlo
from gankd_jax.export import torch as torch

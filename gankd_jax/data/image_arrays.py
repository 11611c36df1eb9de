"""Sets of images as arrays: `.npy`, `.npz` as image generators of other programs save them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from gankd_jax.utils import atomic_io
from gankd_jax.utils.errors import UserError

_IMAGES = "arr_0"  # as np.savez names a first array, and guided-diffusion its samples


def holds_images(path: Path) -> bool:
    """Returns whether an .npz holds images, and not statistics, which may have images beside."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False
    return f"{_IMAGES}.npy" in names and "mu.npy" not in names


def read_image_array(path: Path) -> UInt8[np.ndarray, "n h w c"]:
    """Reads the images of an .npy, or those of `arr_0` in an .npz.

    An .npy is mapped into memory, not read, so it may be larger than the memory.

    Args:
        path: The file, of images as `check_image_array` takes them.

    Raises:
        UserError: The file is missing or damaged, or holds no such images.
    """
    try:
        if path.suffix.lower() == ".npz":
            images = atomic_io.read_npz(path)[_IMAGES]
        else:
            images = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} has no array of images: {error}") from error
    return check_image_array(images, str(path))


def check_image_array(images: np.ndarray, name: str) -> UInt8[np.ndarray, "n h w c"]:
    """Returns images as a batch, the channels last.

    Args:
        images: uint8 images `(n, h, w, c)` with 1 or 3 channels, or grey ones `(n, h, w)`.
        name: Names them in messages.

    Raises:
        UserError: They have another type or shape.
    """
    shape = images.shape
    if images.dtype != np.uint8:
        raise UserError(f"{name} holds {images.dtype}; images must be uint8, from 0 to 255")
    if images.ndim == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3):
        raise UserError(f"{name} has the shape {shape}: put the channels last, (n, h, w, c)")
    is_grey = images.ndim == 3 and shape[2] > 4  # else it would be one image in colour
    if not (is_grey or (images.ndim == 4 and shape[3] in (1, 3))) or 0 in shape[1:]:
        raise UserError(
            f"{name} has the shape {shape}; images must be (n, h, w, c) with 1 or 3 channels,"
            " or (n, h, w)"
        )
    return images[..., None] if is_grey else images

"""Image files: which files of a folder are images, and how each is decoded to 8 bits a channel."""

import collections
import functools
import io
import logging
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8, UInt32
from PIL import Image, ImageOps

from gankd_jax.utils.errors import UserError

logger = logging.getLogger(__name__)

ImageStream = io.BytesIO | io.BufferedReader

IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"),
    *(".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
_FOLDER = "folder"
_MACOS_SIDECARS = "__MACOSX"  # the folder of them in a zip that macOS made
# Pillow keeps the high byte of 16 bits.  The same bytes in the other order give the low byte.
_SWAPPED_ORDER = {"16B": "16L", "16L": "16B", "16N": {"little": "16B", "big": "16L"}[sys.byteorder]}
_GREY_ALPHA = "LA;16B"  # Pillow's name for grey and alpha of 16 bits
_MAX_16_BIT = 0xFFFF
_ORIENTATION_KEYS = {"exif", "xmp"}  # of Pillow's `info`, where a rotation may stand
_BITS_TAG, _PHOTOMETRIC_TAG, _PLANES_TAG = 258, 262, 284  # of TIFF


def find_images(folder: Path, *, recursive: bool = False, min_count: int = 1) -> list[Path]:
    """Lists the image files of a folder by their suffixes, and logs in a line what is left out.

    Hidden files and macOS's sidecars are never images.

    Args:
        folder: The folder.
        recursive: Whether to read its sub-folders too, those behind links included.
        min_count: Fewer images are refused.

    Returns:
        The files, sorted by path.

    Raises:
        UserError: There are too few images.
    """
    entries = [
        (path, _kind_beside_images(path)) for path in _walk(folder, recursive=recursive, parents=())
    ]
    hint = "" if recursive else " (--recursive reads folders)"
    return _select_images(folder, entries, min_count=min_count, folder_hint=hint)


def find_packed_images(archive: Path, names: Iterable[str], *, min_count: int = 1) -> list[str]:
    """Lists the images among the names in an archive, as `find_images` does for a folder.

    Args:
        archive: The archive, for messages.
        names: The paths of its files.
        min_count: Fewer images are refused.

    Raises:
        UserError: There are too few images.
    """
    entries = [(name, _kind_of_name(name)) for name in sorted(names)]
    return _select_images(archive, entries, min_count=min_count)


_Entry = TypeVar("_Entry", Path, str)


def _select_images(
    source: Path, entries: Iterable[tuple[_Entry, str]], *, min_count: int, folder_hint: str = ""
) -> list[_Entry]:
    """Returns the entries whose kind is "", an image; logs how many there are of other kinds."""
    images = []
    left_out: collections.Counter[str] = collections.Counter()
    for entry, kind in entries:
        if kind:
            left_out[kind] += 1
        else:
            images.append(entry)
    others = ", ".join(f"{n} {kind}{'s' * (n > 1)}" for kind, n in left_out.most_common())
    if left_out[_FOLDER]:
        others += folder_hint
    end = f"; left out: {others}" if others else ""
    if not images:
        raise UserError(f"{source} has no images ({' '.join(IMAGE_SUFFIXES)}){end}")
    if len(images) < min_count:
        count = f"{len(images)} image{'s' * (len(images) > 1)}"
        raise UserError(f"{source} has {count}; {min_count} or more are needed{end}")
    if others:
        logger.info("%s: %d images%s", source, len(images), end)
    return images


def _walk(folder: Path, *, recursive: bool, parents: tuple[Path, ...]) -> Iterator[Path]:
    """Yields the entries of a folder in order, and in place of a sub-folder its entries."""
    parents = (*parents, folder.resolve())
    for path in sorted(folder.iterdir()):
        is_open = recursive and _kind_beside_images(path) == _FOLDER
        if is_open and path.resolve() not in parents:  # a link back would never end
            yield from _walk(path, recursive=True, parents=parents)
        else:
            yield path


def _kind_beside_images(path: Path) -> str:
    """Returns what a folder's entry is if it is no image; "" for an image."""
    if not is_hidden(path.name) and path.is_dir():
        return _FOLDER
    return _kind_of_name(path.name)


def _kind_of_name(name: str) -> str:
    """Returns what a file is, by its name or path below a folder; "" for an image."""
    path = PurePosixPath(name)
    if any(map(is_hidden, path.parts)):
        return "hidden file"
    return "" if path.suffix.lower() in IMAGE_SUFFIXES else f"{path.suffix or 'other'} file"


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder of that name is hidden, or holds macOS's sidecars."""
    return name.startswith(".") or name == _MACOS_SIDECARS


def has_images(folder: Path) -> bool:
    """Returns whether a folder holds an image itself, not in a sub-folder."""
    return not all(_kind_beside_images(path) for path in folder.iterdir())


def read_image(path: Path) -> UInt8[np.ndarray, "_ _ 3"]:
    """Reads an image file as RGB, in its own size, as pytorch-fid does.

    Raises:
        UserError: As `decode_image`.
    """
    with _reading_image(path), path.open("rb") as stream:
        return np.asarray(decode_image(stream, path, "RGB"))


def decode_image(
    stream: ImageStream, name: str | Path, mode: str, *, as_shown: bool = False
) -> Image.Image:
    """Decodes an image file of any format that Pillow reads, to 8 bits a channel.

    Values of 16 bits are divided by 257 and rounded.  Of several frames or pages it is the first.

    Args:
        stream: The file.
        name: Names it in messages.
        mode: 'L' for a grey image, 'RGB' for a colour image.
        as_shown: Whether to turn it as its metadata says, and to lay it on white where it is
            transparent, as a viewer shows it.  Without that, transparency is dropped.

    Raises:
        UserError: It is no image, is damaged or too large, or has values of another kind.
    """
    with _reading_image(name), Image.open(stream) as image:
        pixels = _decode_to_8_bits(image, stream, name)
        if as_shown:
            pixels = _lay_on_white(ImageOps.exif_transpose(pixels))
        return pixels.convert(mode)


def _decode_to_8_bits(image: Image.Image, stream: ImageStream, name: str | Path) -> Image.Image:
    """Decodes an opened file, in its own mode."""
    rawmodes = {_rawmode(tile) for tile in getattr(image, "tile", ())}
    _require_whole_values(image, rawmodes, name)
    image.load()
    if image.mode.startswith("I"):
        values, mode_of_values = _grey_values(image), "L"
    elif rawmodes and all(rawmode.endswith(tuple(_SWAPPED_ORDER)) for rawmode in rawmodes):
        values, mode_of_values = _colour_values(image, stream, rawmodes)
    else:
        return image
    scaled = _scale_to_8_bits(values, mode_of_values, name)
    scaled.info = {key: image.info[key] for key in _ORIENTATION_KEYS & image.info.keys()}
    return scaled


def _lay_on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white


def preprocess(
    image: Image.Image, *, image_size: int, pad: int
) -> UInt8[np.ndarray, "{image_size} {image_size} c"]:
    """Pads an image with zeros, resizes its short side and cuts out the centre square.

    Sizes and offsets are rounded as torchvision's `Resize` and `CenterCrop` do.  The resampling is
    Pillow's antialiased bilinear one; an image whose short side fits is not resampled.

    Args:
        image: Grey or colour; grey images keep one channel.
        image_size: Pixels of the result's side.
        pad: Zero pixels added on each side before the image is resized.
    """
    if pad:
        image = ImageOps.expand(image, border=pad, fill=0)
    short = min(image.size)
    if short != image_size:
        width, height = (image_size * side // short for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (round((side - image_size) / 2) for side in image.size)
    pixels = np.asarray(image.crop((left, top, left + image_size, top + image_size)))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _colour_values(
    image: Image.Image, stream: ImageStream, rawmodes: set[str]
) -> tuple[UInt32[np.ndarray, "h w c"], str]:
    """Returns the values of an image of several channels of 16 bits, and its mode in 8 bits."""
    if rawmodes == {_GREY_ALPHA}:  # without a mode of its own: its four bytes are read as such
        pairs = np.asarray(_decode_as(stream, {_GREY_ALPHA: "RGBA"}), np.uint32)
        return pairs[..., ::2] << 8 | pairs[..., 1::2], "LA"
    swapped = {rawmode: rawmode[:-3] + _SWAPPED_ORDER[rawmode[-3:]] for rawmode in rawmodes}
    low_bytes = np.asarray(_decode_as(stream, swapped), np.uint32)
    return np.asarray(image, np.uint32) << 8 | low_bytes, image.mode


def _rawmode(tile: Any) -> str:
    """Returns Pillow's name for the layout of the bytes of a part of a file."""
    return str(tile.args if isinstance(tile.args, str) else next(iter(tile.args or ()), ""))


def _decode_as(stream: ImageStream, rawmodes: Mapping[str, str]) -> Image.Image:
    """Decodes an image file, its bytes taken to lie in another layout."""

    def replace_rawmode(tile: Any) -> Any:
        rawmode = rawmodes[_rawmode(tile)]
        is_alone = isinstance(tile.args, str)
        return tile._replace(args=rawmode if is_alone else (rawmode, *tile.args[1:]))

    with Image.open(stream) as image:
        image.tile = [replace_rawmode(tile) for tile in image.tile]
        image.load()
        return image


def _require_whole_values(image: Image.Image, rawmodes: set[str], name: str | Path) -> None:
    """Refuses an image whose values Pillow does not give as they are."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS_TAG, ())
    is_in_planes = tags.get(_PLANES_TAG) == 2 and max(bits, default=8) > 8
    if image.mode == "F":
        problem = "floating-point values"
    elif image.mode == "I" and image.format != "PPM":
        problem = "signed values or 32 bits a channel"
    elif "I;12" in rawmodes:
        problem = "12 bits a channel"
    elif is_in_planes:
        problem = "16 bits a channel in separate planes"
    elif any(rawmode.startswith("RGBa;16") for rawmode in rawmodes):
        problem = "16 bits a channel multiplied by its transparency"
    else:
        return
    raise UserError(f"{name} has {problem}; save it with 8 bits a channel")


def _grey_values(image: Image.Image) -> UInt32[np.ndarray, "h w"]:
    """Returns the values of a grey image of 16 bits."""
    values = np.asarray(image, np.uint32)
    is_negative = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC_TAG) == 0
    return _MAX_16_BIT - values if is_negative else values


def _scale_to_8_bits(
    values: UInt32[np.ndarray, "h w"] | UInt32[np.ndarray, "h w c"], mode: str, name: str | Path
) -> Image.Image:
    if 0 < values.max() < 256:
        _warn_of_black(Path(name).parent)
    scaled = ((values + 128) // 257).astype(np.uint8)
    return Image.frombytes(mode, (values.shape[1], values.shape[0]), scaled.tobytes())


@functools.cache  # once for a folder
def _warn_of_black(folder: Path) -> None:
    logger.warning(
        "images of 16 bits a channel without a value above 255 of 65535 are black, such as in %s;"
        " values of 0 to 255 belong in files of 8 bits",
        folder,
    )


@contextmanager
def _reading_image(name: str | Path) -> Iterator[None]:
    """Turns any error of reading into a UserError that names the file, and silences Pillow.

    Its decoders raise errors of many kinds for damaged bytes, hence the broad `except`.  Its
    warnings, but for that of a large image, are about metadata, and would come with every image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        text = re.sub(r" <_io\..*>$", "", " ".join(str(error).split()))  # Pillow names the stream
        reason = getattr(error, "strerror", None) or text[:200]
        raise UserError(f"{name} cannot be read as an image: {reason}") from error

"""Image files: which are read from a folder, and how their values become 8 bits a channel."""

import io
import logging
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gankd_jax.data import image_files
from gankd_jax.data.image_files import decode_image, find_images, read_image
from gankd_jax.utils.errors import UserError

PNG_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # by the number of channels


def values_16_bit(channels: int, seed: int = 0) -> np.ndarray:
    """Random values, the extremes and those beside a rounding boundary among them."""
    values = np.random.default_rng(seed).integers(0, 65536, (5, 7, channels)).astype(np.uint16)
    values[0, :4, 0] = [0, 65535, 128, 129]  # 129 of 257 rounds up
    return values


def png_16_bit(values: np.ndarray) -> bytes:
    """Encodes values as the PNG standard says, without Pillow."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, PNG_COLOUR_TYPES[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def ppm_16_bit(values: np.ndarray) -> bytes:
    height, width, channels = values.shape
    kind = "P6" if channels == 3 else "P5"
    return f"{kind}\n{width} {height}\n65535\n".encode() + values.astype(">u2").tobytes()


def tiff_16_bit(
    values: np.ndarray,
    order: str = "<",
    *,
    deflated: bool = False,
    planes: bool = False,
    photometric: int | None = None,
    extra: int | None = None,
    bits: int = 16,
) -> bytes:
    """Encodes values as a TIFF of one strip, or one strip a plane."""
    height, width, channels = values.shape
    layout = values.transpose(2, 0, 1) if planes else values[None]
    strips = [plane.astype(f"{order}u2").tobytes() for plane in layout]
    if deflated:
        strips = [zlib.compress(strip) for strip in strips]
    if photometric is None:
        photometric = 1 if channels == 1 else 2
    tags = {
        256: [width],
        257: [height],
        258: [bits] * channels,
        259: [8 if deflated else 1],
        262: [photometric],
        273: [0] * len(strips),
        277: [channels],
        278: [height],
        279: [len(strip) for strip in strips],
        284: [2 if planes else 1],
    }
    if extra is not None:
        tags[338] = [extra]
    end = 8 + 2 + 12 * len(tags) + 4
    shorts = {258, 338}
    long_values = {
        tag: struct.pack(order + ("H" if tag in shorts else "I") * len(entries), *entries)
        for tag, entries in tags.items()
    }
    start = end + sum(len(packed) for packed in long_values.values() if len(packed) > 4)
    offsets = [start + sum(map(len, strips[:k])) for k in range(len(strips))]
    long_values[273] = struct.pack(order + "I" * len(strips), *offsets)
    directory, overflow = struct.pack(order + "H", len(tags)), b""
    for tag, entries in tags.items():
        packed = long_values[tag]
        directory += struct.pack(order + "HHI", tag, 3 if tag in shorts else 4, len(entries))
        if len(packed) > 4:
            directory += struct.pack(order + "I", end + len(overflow))
            overflow += packed
        else:
            directory += packed.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return b"".join([magic, struct.pack(order + "I", 8), directory, bytes(4), overflow, *strips])


FILES_16_BIT = {
    "grey.png": png_16_bit(values_16_bit(1)),
    "grey_alpha.png": png_16_bit(values_16_bit(2)),
    "colour.png": png_16_bit(values_16_bit(3)),
    "colour_alpha.png": png_16_bit(values_16_bit(4)),
    "grey.pgm": ppm_16_bit(values_16_bit(1)),
    "colour.ppm": ppm_16_bit(values_16_bit(3)),
    "grey.tif": tiff_16_bit(values_16_bit(1)),
    "big_endian_grey.tif": tiff_16_bit(values_16_bit(1), ">"),
    "colour.tif": tiff_16_bit(values_16_bit(3)),
    "big_endian_colour.tif": tiff_16_bit(values_16_bit(3), ">"),
    "deflated_colour.tif": tiff_16_bit(values_16_bit(3), deflated=True),
    "deflated_big_endian_colour.tif": tiff_16_bit(values_16_bit(3), ">", deflated=True),
    "deflated_grey.tif": tiff_16_bit(values_16_bit(1), deflated=True),
    "colour_alpha.tif": tiff_16_bit(values_16_bit(4), extra=2),
    "colour_and_padding.tif": tiff_16_bit(values_16_bit(4), extra=0),
}


@pytest.mark.parametrize("name", FILES_16_BIT)
def test_16_bits_a_channel_are_divided_by_257_and_rounded(name, tmp_path):
    (tmp_path / name).write_bytes(FILES_16_BIT[name])
    channels = 1 if "grey" in name else 3
    values = values_16_bit(
        channels if "alpha" not in name and "padding" not in name else channels + 1
    )
    expected = np.rint(values[..., :channels] / 257.0)
    pixels = read_image(tmp_path / name)
    np.testing.assert_array_equal(pixels, np.broadcast_to(expected, (5, 7, 3)))


def test_inverted_grey_of_16_bits_is_turned(tmp_path):
    values = values_16_bit(1)
    (tmp_path / "white_is_zero.tif").write_bytes(tiff_16_bit(values, photometric=0))
    pixels = read_image(tmp_path / "white_is_zero.tif")
    np.testing.assert_array_equal(pixels[..., :1], np.rint((65535 - values.astype(int)) / 257))


@pytest.mark.parametrize("channels", [1, 3])
def test_8_bit_values_times_257_are_read_as_the_8_bit_values(channels, tmp_path):
    values = np.arange(256, dtype=np.uint16).reshape(16, 16, 1).repeat(channels, axis=2)
    (tmp_path / "a.png").write_bytes(png_16_bit(values * 257))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[..., :channels], values)


UNUSUAL_VALUES = {
    "planes.tif": (
        tiff_16_bit(values_16_bit(3), planes=True),
        "16 bits a channel in separate planes",
    ),
    "deflated_planes.tif": (
        tiff_16_bit(values_16_bit(3), planes=True, deflated=True),
        "16 bits a channel in separate planes",
    ),
    "premultiplied.tif": (
        tiff_16_bit(values_16_bit(4), extra=1),
        "16 bits a channel multiplied by its transparency",
    ),
}


@pytest.mark.parametrize("name", UNUSUAL_VALUES)
def test_values_that_pillow_would_change_are_refused(name, tmp_path):
    content, message = UNUSUAL_VALUES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} has {message}; save it with 8 bits"):
        read_image(tmp_path / name)


@pytest.mark.parametrize(
    ("mode", "message"), [("F", "floating-point values"), ("I", "signed values or 32 bits")]
)
def test_floating_point_and_32_bit_images_are_refused(mode, message, tmp_path):
    Image.new(mode, (4, 4), 7).save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match=rf"a\.tiff has {message}"):
        read_image(tmp_path / "a.tiff")


def test_8_bit_values_in_a_16_bit_file_give_one_warning_for_a_folder(tmp_path, caplog):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png_16_bit(values_16_bit(3) % 256))
        assert read_image(tmp_path / name).max() == 1
    [message] = caplog.messages
    assert f"are black, such as in {tmp_path}" in message


@pytest.mark.parametrize(
    "suffix", [".png", ".bmp", ".ppm", ".tiff", ".webp", ".gif", ".jfif", ".avif"]
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_8_bit_files_are_read_as_pillow_reads_them(mode, suffix, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (9, 6, 3), np.uint8)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise).convert(mode).save(path)
    assert find_images(tmp_path) == [path]
    with Image.open(path) as image:
        np.testing.assert_array_equal(read_image(path), np.asarray(image.convert("RGB")))


def test_the_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "a.png", "a.webp", "a.tiff"):
        options = {"lossless": True} if name == "a.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(read_image(tmp_path / name), np.asarray(frames[0]), name)


def test_grey_transparent_palette_bit_and_cmyk_files_are_read_as_colour(tmp_path):
    blue = Image.new("RGB", (4, 4), (0, 0, 255))
    blue.quantize(2).save(tmp_path / "palette.png")
    blue.convert("RGBA").save(tmp_path / "alpha.png")
    blue.convert("CMYK").save(tmp_path / "cmyk.tiff")
    Image.new("1", (4, 4), 1).save(tmp_path / "bit.png")
    Image.new("L", (4, 4), 7).save(tmp_path / "grey.png")
    alpha, bit, cmyk, grey, palette = map(read_image, sorted(tmp_path.iterdir()))
    for pixels in (alpha, palette, cmyk):
        assert pixels.tolist() == np.asarray(blue).tolist()
    assert bit.min() == 255
    assert set(grey.ravel()) == {7}


def test_pillows_warnings_are_not_printed(tmp_path, recwarn):
    palette = Image.new("P", (4, 4))
    palette.putpalette([0, 0, 0, 255, 255, 255])
    palette.save(tmp_path / "a.png", transparency=b"\x80\xff")  # warns when it is made colour
    with warnings.catch_warnings(), Image.open(tmp_path / "a.png") as image:
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="Palette images with Transparency"):
            image.convert("RGB")
    warnings.simplefilter("always")
    read_image(tmp_path / "a.png")
    assert recwarn.list == []


def test_a_large_image_is_refused(tmp_path, monkeypatch):
    Image.new("L", (20, 20)).save(tmp_path / "a.png")
    for limit in (300, 100):  # Pillow warns above the limit, and refuses above twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(UserError, match=r"a\.png cannot be read as an image: .*bomb"):
            read_image(tmp_path / "a.png")


def encoded(suffix: str) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (9, 6, 3), np.uint8)
    Image.fromarray(noise).save(buffer, suffix)
    return buffer.getvalue()


@pytest.mark.parametrize("name", [*FILES_16_BIT, "8.png", "8.tiff", "8.gif", "8.webp", "8.jpeg"])
def test_a_damaged_image_is_read_or_refused_in_one_line(name):
    """No change or cut of bytes gives another error."""
    content = FILES_16_BIT.get(name) or encoded(name.split(".")[1])
    rng = np.random.default_rng(0)
    messages = []
    for _ in range(100):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), 3):
            damaged[position] = rng.integers(0, 256)
        size = len(content) if rng.random() < 0.7 else rng.integers(0, len(content))
        try:
            decode_image(io.BytesIO(bytes(damaged[:size])), name, "RGB")
        except UserError as error:
            messages.append(str(error))
    assert messages
    assert all(text.startswith(name) and "\n" not in text for text in messages)


# What a folder holds


def write_images(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(folder / name, "png")


@pytest.fixture
def untidy(tmp_path) -> Path:
    """Two images among what systems and people leave beside images."""
    write_images(tmp_path, "b.png", "a.PNG", ".hidden.png", "._a.png", "__MACOSX/._b.png")
    write_images(tmp_path, "cat/d.png", "cat/e/f.png", ".thumbs.png/a.png", "g.png/h.png")
    for name in (".DS_Store", "labels.csv", "Thumbs.db", "README", "cat/notes.csv"):
        (tmp_path / name).write_text("x")
    return tmp_path


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "gankd_jax")
    return caplog


def test_folders_hidden_files_and_sidecars_are_left_out(untidy, lines):
    assert [path.name for path in find_images(untidy)] == ["a.PNG", "b.png"]
    [line] = lines.messages
    assert line == (
        f"{untidy}: 2 images; left out: 5 hidden files, 2 folders, 1 other file, 1 .db file,"
        " 1 .csv file (--recursive reads folders)"
    )


def test_recursive_reads_the_folders_too(untidy, lines):
    names = [str(path.relative_to(untidy)) for path in find_images(untidy, recursive=True)]
    assert names == ["a.PNG", "b.png", "cat/d.png", "cat/e/f.png", "g.png/h.png"]
    [line] = lines.messages
    assert "5 images; left out: 5 hidden files, 2 .csv files" in line
    assert "folder" not in line


def test_a_folder_of_images_alone_gives_no_line(tmp_path, lines):
    write_images(tmp_path, "b.png", "a.png")
    assert [path.name for path in find_images(tmp_path)] == ["a.png", "b.png"]
    assert lines.messages == []


def test_links_are_followed_and_a_circle_of_links_ends(tmp_path):
    write_images(tmp_path, "real/a.png", "elsewhere/b.png")
    (tmp_path / "real" / "classes").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "real" / "back").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "c.png").symlink_to(tmp_path / "elsewhere" / "b.png")
    names = [path.name for path in find_images(tmp_path / "real", recursive=True)]
    assert names == ["a.png", "c.png", "b.png"]


def test_a_folder_without_images_says_what_it_has(tmp_path):
    write_images(tmp_path, "cat/a.png", "dog/a.png", ".hidden.png")
    message = r"has no images \(.*\.webp\); left out: 2 folders, 1 hidden file \(--recursive reads"
    with pytest.raises(UserError, match=message):
        find_images(tmp_path)
    with pytest.raises(UserError, match="cat has 1 image; 2 or more are needed"):
        find_images(tmp_path / "cat", min_count=2)
    assert not image_files.has_images(tmp_path)
    assert image_files.has_images(tmp_path / "cat")


def decode_as_shown(content: bytes) -> np.ndarray:
    return np.asarray(decode_image(io.BytesIO(content), "a", "RGB", as_shown=True))


def encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_metadata_says(orientation, file_format):
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8], upright[8:, 8:] = (255, 0, 0), (0, 255, 0)
    # What a camera stores, by the EXIF standard: where row 0 and column 0 of the file belong.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright)[:, ::-1][::-1, ::-1][:, ::-1],
        8: np.rot90(upright, -1),
    }
    if orientation == 7:
        stored[7] = upright[::-1, ::-1].transpose(1, 0, 2)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    image = Image.fromarray(np.ascontiguousarray(stored[orientation]))
    content = encode(image, file_format, exif=exif, **options.get(file_format, {}))
    assert np.abs(decode_as_shown(content).astype(int) - upright).max() <= 3


def test_a_16_bit_image_is_turned_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.array([[0, 257 * 7], [257 * 200, 65535]], np.uint16)
    content = encode(Image.fromarray(values), "PNG", exif=exif)
    assert decode_as_shown(content)[..., 0].tolist() == [[200, 0], [255, 7]]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGB key", "P key"])
def test_transparency_is_laid_on_white(mode):
    """Half-transparent black is grey on white, and fully transparent black is white."""
    options = {"transparency": 0} if mode == "P key" else {}
    if mode == "RGB key":
        image, options = Image.new("RGB", (4, 4)), {"transparency": (0, 0, 0)}
    elif mode == "P key":
        image = Image.new("P", (4, 4))
        image.putpalette([0, 0, 0, 255, 255, 255])
    else:
        image = Image.new("LA", (4, 4), (0, 128))
        image = image.convert(mode)
    file_format = "TIFF" if mode == "PA" else "PNG"
    if mode == "PA":
        image = Image.new("PA", (4, 4), (0, 128))
        image.putpalette([0, 0, 0])
    expected = 255 if "key" in mode else 127
    pixels = decode_as_shown(encode(image, file_format, **options))
    assert set(pixels.ravel()) == {expected}

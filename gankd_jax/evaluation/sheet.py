"""A sheet of images for people: enlarged, with margins and a caption."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

MARGIN = 12  # pixels around the images
GAP = 4  # pixels between two images
MIN_IMAGE_SIDE = 64  # smaller images are enlarged by a whole factor, pixel by pixel
FONT_SIZE = 14
LINE_HEIGHT = 20


def draw_sheet(
    images: UInt8[np.ndarray, "n s s c"], columns: int, caption: str
) -> UInt8[np.ndarray, "h w c"]:
    """Draws images in rows on white, with a caption below them.

    Args:
        images: Of one or three channels.
        columns: Images in a row.
        caption: A line of text; what does not fit is cut off.
    """
    factor = image_scale(images.shape[1])
    side, rows = images.shape[1] * factor, -(-len(images) // columns)
    step = side + GAP
    width, bottom = 2 * MARGIN + columns * step - GAP, 2 * MARGIN + rows * step - GAP
    sheet = np.full((bottom + LINE_HEIGHT, width, images.shape[3]), 255, np.uint8)
    for index, image in enumerate(images.repeat(factor, axis=1).repeat(factor, axis=2)):
        top, left = (MARGIN + step * k for k in divmod(index, columns))
        sheet[top : top + side, left : left + side] = image
    return _write_caption(sheet, caption, bottom)


def image_scale(size: int) -> int:
    """Returns by which factor images of that many pixels a side are enlarged."""
    return -(-MIN_IMAGE_SIDE // size)


def _write_caption(
    sheet: UInt8[np.ndarray, "h w c"], caption: str, top: int
) -> UInt8[np.ndarray, "h w c"]:
    canvas = Image.fromarray(sheet[..., 0] if sheet.shape[2] == 1 else sheet)
    black = 0 if sheet.shape[2] == 1 else (0, 0, 0)
    font = ImageFont.load_default(FONT_SIZE)
    ImageDraw.Draw(canvas).text((MARGIN, top - MARGIN // 2), caption, fill=black, font=font)
    return np.asarray(canvas).reshape(sheet.shape)

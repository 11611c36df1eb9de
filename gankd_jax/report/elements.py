"""The page's elements as HTML: lists, tables, figures and strips of pictures."""

import base64
import io
from collections.abc import Iterable
from html import escape

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from gankd_jax.report.formatting import Cell, Table
from gankd_jax.report.sheets import Strip

VERDICTS = ("student ahead", "baseline ahead")
LOSSY = 90  # quality of WebP, in 0..100


def paragraphs(lines: Iterable[str]) -> str:
    """Return a paragraph for each line of text."""
    return "\n".join(f"<p>{escape(line)}</p>" for line in lines)


def note(text: str) -> str:
    """Return a paragraph in small print."""
    return f'<p class="note">{escape(text)}</p>'


def bullets(lines: Iterable[str]) -> str:
    """Return a list."""
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def details(title: str, content: str) -> str:
    """Return what is shown after a click on its title."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def titled(table: Table, *, wrap: bool = False) -> str:
    """Return a table below its title and its note."""
    about = note(table.note) if table.note else ""
    return f"<h3>{escape(table.title)}</h3>{about}{table_html(table, wrap=wrap)}"


def table_html(table: Table, *, wrap: bool = False) -> str:
    """Return a table that sorts and copies; with `wrap`, one of text that may be long."""
    columns = [[row[k] for row in table.rows] for k in range(len(table.header))]
    right = [any(cell.value is not None for cell in column) for column in columns]
    head = "".join(map(_heading, table.header, right))
    body = "\n".join(f"<tr>{''.join(map(_cell, row, right))}</tr>" for row in table.rows)
    return (
        f'<div class="scroll{" wrap" if wrap else ""}"><table><thead><tr>{head}</tr></thead>'
        f'<tbody>{body}</tbody></table></div><button class="copy">Copy as CSV</button>'
    )


def _heading(title: str, right: bool) -> str:
    return f"<th{_class('n' if right else '')}><button>{escape(title)}</button></th>"


def _cell(cell: Cell, right: bool) -> str:
    sort = "" if cell.value is None else f' data-v="{cell.value!r}"'
    verdict = cell.text.replace(" ", "-") if cell.text in VERDICTS else ""
    return f"<td{sort}{_class('n' if right else verdict)}>{escape(cell.text)}</td>"


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def figure(label: str, drawing: str) -> str:
    """Return an SVG with what it shows in words."""
    return f'<figure role="img" aria-label="{escape(label)}">{drawing}</figure>'


def figures(shown: Iterable[str]) -> str:
    """Lay out figures side by side."""
    return f'<div class="figures">{"".join(shown)}</div>'


def later(text: str) -> str:
    """Return a box in the place of a figure that is not there yet."""
    return f'<div class="later">{escape(text)}</div>'


def sheets_html(shown: Iterable[Iterable[Strip]], *, lossy: bool) -> str:
    """Lay out sheets of strips."""
    drawn = "\n".join(
        f"<div>{''.join(_strip(strip, lossy=lossy) for strip in strips)}</div>" for strips in shown
    )
    return f'<div class="sheets">{drawn}</div>'


def _strip(strip: Strip, *, lossy: bool) -> str:
    images = '<span class="note">no pictures yet</span>'
    if strip.images is not None:
        source = picture_url(strip.images, lossy=lossy)
        images = f'<img alt="{escape(strip.about)}" src="{source}">'
    kind = "strip pinned" if strip.pinned else "strip first" if strip.first else "strip"
    return f'<div class="{kind}"><span>{escape(strip.label)}</span>{images}</div>'


def picture_url(images: UInt8[np.ndarray, "n h w c"], *, lossy: bool = False) -> str:
    """Return images side by side, a grey line between them, as one `data:` address.

    It is a PNG, or with `lossy` a WebP of a fifth of its size.
    """
    ruled = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=128)
    strip = np.concatenate(list(ruled), axis=1)[:, :-1]
    picture = Image.fromarray(strip[..., 0] if strip.shape[-1] == 1 else strip)
    out = io.BytesIO()
    if lossy:
        picture.save(out, "WebP", quality=LOSSY, method=6)
    else:
        picture.save(out, "PNG", optimize=True)
    kind = "webp" if lossy else "png"
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode('ascii')}"

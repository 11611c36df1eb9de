"""How the report writes numbers, names and tables."""

import math
import textwrap
from dataclasses import dataclass

import tabulate

TEXT_WIDTH = 100  # columns of a terminal
MAX_CELL_WIDTH = 16  # columns: longer cells are shortened on a terminal
_TERMINAL_FORMAT = tabulate.TableFormat(
    lineabove=None,
    linebelowheader=tabulate.Line("", "-", "--", ""),
    linebetweenrows=None,
    linebelow=None,
    headerrow=tabulate.DataRow("", "  ", ""),
    datarow=tabulate.DataRow("", "  ", ""),
    padding=0,
    with_header_hide=None,
)


def model_name(kind: str, recipe: str) -> str:
    """Returns the name of a model in reports.

    Args:
        kind: teacher, student or baseline.
        recipe: The recipe's name, to which a student's adds that it is one.
    """
    return f"{recipe} student" if kind == "student" else recipe


def format_number(value: float) -> str:
    """Writes a number with about three significant digits; "-" for NaN."""
    if value == 0:
        return "0"
    return "-" if math.isnan(value) else f"{value:{_number_format(value)}}"


def format_with_std(value: float, std: float | None) -> str:
    """Writes a number and its standard deviation with the same number of decimals.

    Args:
        value: The number; NaN is written "-".
        std: Its standard deviation; None leaves it out.
    """
    if std is None or math.isnan(value):
        return format_number(value)
    return f"{format_number(value)} ± {std:{_number_format(value)}}"


def format_difference(value: float, margin: float | None, scale: float) -> str:
    """Writes a signed difference and its margin of error.

    Args:
        value: The difference; NaN is written "-".
        margin: Half of its confidence interval; None leaves it out.
        scale: A number whose decimals are used, such as one of the numbers subtracted.
    """
    if math.isnan(value):
        return "-"
    text = f"{value:+{_number_format(scale)}}"
    return text if margin is None else f"{text} ± {margin:{_number_format(scale)}}"


def _number_format(value: float) -> str:
    if value != 0 and abs(value) < 0.001:
        return ".1e"
    decimals_from = ((1000, 0), (100, 1), (1, 2), (0.1, 3), (0.01, 4))
    return f",.{next((digits for least, digits in decimals_from if abs(value) >= least), 5)}f"


def format_seeds(count: int, planned: int) -> str:
    """Writes how many seeds there are, and of how many if some are missing ("1 of 3").

    Args:
        count: How many have a score.
        planned: How many the config has.
    """
    return f"{count}" if count == planned else f"{count} of {planned}"


def format_percent(fraction: float | None) -> str:
    """Writes a fraction as a whole percentage; "-" for None."""
    return "-" if fraction is None else f"{100 * fraction:.0f}%"


def format_ratio(value: float | None) -> str:
    """Writes a ratio as in the paper ("1669:1"), with one decimal below 10; "-" for None."""
    if value is None:
        return "-"
    return f"{value:.0f}:1" if value >= 10 else f"{value:.1f}:1"


def format_bytes(count: int) -> str:
    """Writes a number of bytes in kB or MB."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.0f} kB"


@dataclass(frozen=True)
class Cell:
    """A table cell: its text, and the number to sort by (None: sort by the text)."""

    text: str
    value: int | float | None = None


@dataclass(frozen=True)
class Table:
    """A table for a terminal, Markdown or the page.

    Attributes:
        title: Its heading.
        note: How to read it, for Markdown and the page.
        header: The names of the columns.
        rows: The cells, as many in each row as columns.
        terminal_columns: How many of the first columns a terminal shows.
    """

    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    terminal_columns: int


def count_cell(value: int) -> Cell:
    """Returns a cell with a whole number, with thousands separators; "-" for 0, not known."""
    return Cell(f"{value:,}", value) if value else Cell("-")


def number_cell(value: float | None) -> Cell:
    """Returns a cell with a number as `format_number` writes it; "-" for None."""
    return Cell("-") if value is None else Cell(format_number(value), value)


def wrap_line(line: str, indent: str = "") -> str:
    """Breaks a line to the width of a terminal.

    Args:
        line: The text.
        indent: Put before the first line; further lines are indented by two more columns.
    """
    return textwrap.fill(line, TEXT_WIDTH, initial_indent=indent, subsequent_indent=indent + "  ")


def format_text_table(table: Table) -> str:
    """Returns a table as plain text for a terminal."""
    rows = [table.header, *(tuple(cell.text for cell in row) for row in table.rows)]
    header, *body = (tuple(map(_shorten_cell, row[: table.terminal_columns])) for row in rows)
    # The header goes in as a row: tabulate would pad its columns by two more characters.
    text = tabulate.tabulate(
        [header, tabulate.SEPARATING_LINE, *body],
        tablefmt=_TERMINAL_FORMAT,
        stralign="right",
        disable_numparse=True,
    )
    return f"{table.title}\n{text}"


def _shorten_cell(text: str) -> str:
    return text if len(text) <= MAX_CELL_WIDTH else f"{text[: MAX_CELL_WIDTH - 1]}…"


def format_markdown_table(table: Table) -> str:
    """Returns a table as Markdown."""
    rows = [table.header, ("---",) * len(table.header)]
    rows += [tuple(cell.text for cell in row) for row in table.rows]
    return "\n".join(f"| {' | '.join(text.replace('|', '/') for text in row)} |" for row in rows)

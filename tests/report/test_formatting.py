import math

from gankd_jax.report.formatting import (
    Cell,
    Table,
    format_bytes,
    format_difference,
    format_markdown_table,
    format_number,
    format_ratio,
    format_text_table,
    format_with_std,
)

TABLE = Table(
    "Sizes", "", ("d", "model"), ((Cell("32"), Cell("a|b")), (Cell("4"), Cell("x" * 20))), 2
)


def test_numbers_have_about_three_significant_digits():
    values = (12345.6, 123.45, 1.234, 0.1234, 0.01234, 0.00123, 0.00001)
    texts = ["12,346", "123.5", "1.23", "0.123", "0.0123", "0.00123", "1.0e-05"]
    assert [format_number(value) for value in values] == texts
    assert format_number(math.nan) == "-"


def test_margins_have_the_decimals_of_their_number():
    assert format_with_std(5.123, 0.456) == "5.12 ± 0.46"
    assert format_difference(0.5, 0.25, 1000.0) == "+0 ± 0"
    assert format_difference(-0.5, None, 7.0) == "-0.50"


def test_ratios_and_bytes():
    ratios = [format_ratio(1669.25), format_ratio(3.25), format_ratio(None)]
    assert ratios == ["1669:1", "3.2:1", "-"]
    assert (format_bytes(189_299_716), format_bytes(113_404)) == ("189.3 MB", "113 kB")


def test_terminal_table_is_aligned_and_cut():
    lines = format_text_table(TABLE).splitlines()
    assert lines == [
        "Sizes",
        " d             model",
        "-" * 20,
        "32               a|b",
        " 4  xxxxxxxxxxxxxxx…",
    ]


def test_markdown_table_has_no_stray_bars():
    assert format_markdown_table(TABLE).splitlines()[:3] == [
        "| d | model |",
        "| --- | --- |",
        "| 32 | a/b |",
    ]

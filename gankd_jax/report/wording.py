"""How the report writes numbers and names."""

import math


def model_name(kind: str, recipe: str) -> str:
    """Name a model by its recipe, which for a student does not say that it is one."""
    return f"{recipe} student" if kind == "student" else recipe


def number(value: float) -> str:
    """Write a number with about three digits that matter; '-' for not a number."""
    if value == 0:
        return "0"
    return "-" if math.isnan(value) else f"{value:{_format(value)}}"


def spread(value: float, margin: float | None) -> str:
    """Write a number ± its margin, both to the number's last decimal."""
    if margin is None or math.isnan(value):
        return number(value)
    return f"{number(value)} ± {margin:{_format(value)}}"


def difference(value: float, margin: float | None, like: float) -> str:
    """Write a difference with its sign, as `spread`, to the last decimal of the number `like`."""
    if math.isnan(value):
        return "-"
    text = f"{value:+{_format(like)}}"
    return text if margin is None else f"{text} ± {margin:{_format(like)}}"


def _format(value: float) -> str:
    if value != 0 and abs(value) < 0.001:
        return ".1e"
    steps = ((1000, 0), (100, 1), (1, 2), (0.1, 3), (0.01, 4))
    return f",.{next((digits for least, digits in steps if abs(value) >= least), 5)}f"


def percent(part: float | None) -> str:
    """Write a share in whole percent."""
    return "-" if part is None else f"{100 * part:.0f}%"


def ratio(value: float | None) -> str:
    """Write a ratio as the paper does, with a decimal where it is small."""
    if value is None:
        return "-"
    return f"{value:.0f}:1" if value >= 10 else f"{value:.1f}:1"


def size(count: int) -> str:
    """Write a number of bytes."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.0f} kB"

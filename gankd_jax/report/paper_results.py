"""The paper's table and its way of counting parameters, as data.

Source: Aguinaldo, Chiang, Gain, Patil, Pearson, Feizi, "Compressing GANs using Knowledge
Distillation", arXiv 1902.00159 (2019). Its images are 64x64; its "depth d" is called width here.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperResult:
    """One cell of the table: a width on a data set; None where the paper prints a dash."""

    ratio: int | None  # the teacher's parameters to the student's, as printed ("1669:1")
    student: float
    baseline: float | None


@dataclass(frozen=True)
class PaperRow:
    """One line of the table: a width, and its result on each data set that it was tried on."""

    width: int
    parameters: int
    results: dict[str, PaperResult]


# What `student` and `baseline` are on each data set. The network that judged is not named.
PAPER_METRIC = {"mnist": "Inception Score", "cifar10": "FID", "celeb_a": "FID"}

# Derived from the printed ratios.
PAPER_TEACHER_WIDTH = {"mnist": 256, "cifar10": 64, "celeb_a": 128}

# Derived: the student of width 2 (5.80) is said to keep 83 % of it. The others are not given.
PAPER_TEACHER_SCORE = {"mnist": 6.99}

PAPER_ROWS = (
    PaperRow(
        2,
        28_351,
        {
            "mnist": PaperResult(1669, 5.80, 1.86),
            "cifar10": PaperResult(126, 11.76, 38.72),
            "celeb_a": PaperResult(446, 12.15, 45.49),
        },
    ),
    PaperRow(
        4,
        62_077,
        {
            "mnist": PaperResult(762, 6.41, 3.63),
            "cifar10": PaperResult(58, 11.00, 14.28),
            "celeb_a": PaperResult(204, 10.97, 18.72),
        },
    ),
    PaperRow(
        8,
        145_657,
        {
            "mnist": PaperResult(325, 6.60, 4.73),
            "cifar10": PaperResult(25, 9.57, 11.85),
            "celeb_a": PaperResult(87, 8.78, 11.06),
        },
    ),
    PaperRow(
        16,
        377_329,
        {
            "mnist": PaperResult(125, 6.83, 5.07),
            "cifar10": PaperResult(9, 8.39, 9.90),
            "celeb_a": PaperResult(34, 6.29, 9.14),
        },
    ),
    PaperRow(
        32,
        1_098_721,
        {
            "mnist": PaperResult(43, 6.87, 6.08),
            "cifar10": PaperResult(3, 7.80, 7.86),
            "celeb_a": PaperResult(12, 4.84, 5.05),
        },
    ),
    PaperRow(
        48,
        2_164_177,
        {"cifar10": PaperResult(2, 7.58, None), "celeb_a": PaperResult(6, 4.54, None)},
    ),
    PaperRow(64, 3_573_697, {"mnist": PaperResult(None, 6.93, 6.51)}),
    PaperRow(128, 12_652_417, {"mnist": PaperResult(4, 6.97, 6.63)}),
)


def paper_result(data: str, width: int) -> PaperResult | None:
    """Return the paper's result for a data set and a width, or None where it has none."""
    return next((row.results.get(data) for row in PAPER_ROWS if row.width == width), None)

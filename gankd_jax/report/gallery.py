"""The page's sections of pictures: samples, paths, nearest training images, blur."""

from dataclasses import dataclass

from gankd_jax.report.blur import blur_sheet
from gankd_jax.report.elements import note, sheets_html, titled
from gankd_jax.report.likeness import nearest_sheets, nearest_table
from gankd_jax.report.player import KEEP
from gankd_jax.report.sheets import Detail, Strip, interpolations, samples
from gankd_jax.report.study_results import StudyResults

SAME = (
    "Every column is one latent; the teacher's images stay in view. A baseline has a map of its "
    "own: only its quality compares. Of several seeds the lowest is shown."
)
BETWEEN = "From left to right the latent moves from one point to another, the same way for all."
NEAREST = (
    "Of 64 images of the teacher and of each widest model those that come nearest to a training "
    "image, and that training image below; nearest in the features of the scores' network, without "
    "classes among 10,000 training images."
)
UNKNOWN = (
    "They were not looked for: without labels or FID layers there is no network to look by. With "
    f"one, {KEEP}."
)
BLUR = (
    "Beside each model the mean sharpness (variance of the Laplacian) of its 64 images, the most "
    "blurred model first; of each the most blurred images at the left, the sharpest at the right."
)
LOSSY = (
    "Pictures are compressed with a small loss, to keep the page small; each run's samples.npz "
    "has them as they are."
)


@dataclass(frozen=True)
class Pictures:
    """How many pictures are shown, and whether they may lose a little."""

    detail: Detail
    lossy: bool


def gallery(study: StudyResults, pictures: Pictures) -> list[tuple[str, str]]:
    """Return each section's title and content."""
    detail = pictures.detail
    blurred = blur_sheet(study, detail)
    return [
        (
            "The same latents through every generator",
            _sheets(samples(study, detail), SAME, pictures),
        ),
        ("Between latents", _sheets(interpolations(study, detail), BETWEEN, pictures)),
        ("Nearest training images", _nearest(study, pictures)),
        ("Blurred and sharp", _sheets([blurred] if blurred else [], BLUR, pictures)),
    ]


def _sheets(shown: list[list[Strip]], about: str, pictures: Pictures) -> str:
    if not shown:
        return ""
    said = f"{about} {LOSSY}" if pictures.lossy else about
    return f"{note(said)}{sheets_html(shown, lossy=pictures.lossy)}"


def _nearest(study: StudyResults, pictures: Pictures) -> str:
    table = nearest_table(study)
    if table is not None:
        sheets = nearest_sheets(study, pictures.detail)
        return f"{_sheets(sheets, NEAREST, pictures)}{titled(table)}"
    if any(run.grid is not None for run in study.runs):
        return note(UNKNOWN)
    return ""

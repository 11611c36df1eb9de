import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import fake_study
import numpy as np
import pytest
from PIL import Image

from gankd_jax.report.drawing import COLOURS, INK
from gankd_jax.report.elements import picture_url
from gankd_jax.report.figures import thinned, together
from gankd_jax.report.page import LIMIT, write_report

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects the elements and the text of a page; fails on elements that do not nest."""

    def __init__(self, path: Path):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.headings: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.found if name == tag]


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return write_report(fake_study.write_study(tmp_path_factory.mktemp("full"), widths=(2, 8)))


@pytest.fixture(scope="module")
def page(path) -> Page:
    return Page(path)


def test_the_files_are_written_whole(path):
    written = {file.name for file in path.parent.iterdir() if file.is_file()}
    report = {"table.md", "table.csv", "grid.png", "answers.md", "answers.png", "report.html"}
    assert written == {"config.json", "teacher.json"} | report


def test_the_page_needs_nothing_else(page):
    assert page.all("link") == []
    for tag, attrs in page.found:
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            if name in attrs:
                assert str(attrs[name]).startswith(("data:image/png;base64,", "#")), (tag, name)
    style = "".join(page.words)
    assert "@import" not in style
    assert "url(" not in style


def test_the_page_is_for_phones_and_dark_rooms(page):
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all(
        "meta"
    )
    assert "prefers-color-scheme: dark" in page.text


def test_the_answers_stand_in_order(page):
    assert page.headings == [
        *("What was compressed", "Scores", "Score against size and time", "Where the limit lies"),
        *("The same latents through every generator", "Between latents", "Nearest training images"),
        *("Blurred and sharp", "How each number was made", "Each run"),
    ]
    words = ("a compression of 256:1", "This student draws here", "Sizes", "How to read them")
    places = [page.text.index(word) for word in words]
    assert places == sorted(places)
    sections = [f"#{section['id']}" for section in page.all("section")]
    assert [link["href"] for link in page.all("a")] == sections


def test_cells_carry_the_numbers_they_are_sorted_by(page):
    values = [float(cell["data-v"]) for cell in page.all("td") if "data-v" in cell]
    assert any(value == pytest.approx(5.1 / 8) for value in values)
    assert all(np.isfinite(values))
    assert [cell for cell in page.all("td") if cell.get("class") == "baseline-ahead"]


def test_drawings_follow_the_pages_colours(path, page):
    content = path.read_text(encoding="utf-8")
    assert not any(colour in content for colour in (INK, *COLOURS))
    # 4 scores against parameters and bytes; 2 curves each of teacher, mse, joint, baseline
    assert len(page.all("svg")) == 4 * 2 + 2 * 4
    ids = [str(attrs["id"]) for _, attrs in page.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#(\w+)\)", content))
    used |= {str(attrs["xlink:href"])[1:] for attrs in page.all("use")}
    assert used <= set(ids)


def test_every_model_is_shown_on_the_same_latents(page):
    labels = [str(image["alt"]) for image in page.all("img")]
    models = [
        f"{name}-d{d}-s0" for d in (2, 8) for name in ("student-mse", "student-joint", "baseline")
    ]
    sheet = ["images of the real test set", "the teacher's samples"]
    sheet += [f"samples of {model}" for model in models]
    assert labels[:16] == sheet * 2
    path = ["the teacher along a path"]
    path += [f"images along a path of {model}" for model in models if "student" in model]
    assert labels[16:26] == path * 2
    assert labels[26:28] == [
        "images of teacher that come nearest to training images",
        "the training images they come near to",
    ]
    assert len(labels) == 26 + 2 * 4 + 8  # pairs of the teacher and three of d=8; all in the blur


def test_pictures_are_the_runs_own_pixels(path, page):
    with np.load(path.parent / "student-mse-d8-s0" / "samples.npz") as arrays:
        grid = arrays["grid"]
    shown = [image for image in page.all("img") if image["alt"] == "samples of student-mse-d8-s0"]
    strips = np.concatenate([decoded(str(image["src"])) for image in shown], axis=0)
    for index in range(16):
        down, across = divmod(index, 8)
        tile = strips[16 * down : 16 * down + 16, 17 * across : 17 * across + 16]
        np.testing.assert_array_equal(tile, grid[index, ..., 0])


def test_coloured_images_keep_their_channels():
    images = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    strip = decoded(picture_url(images))
    np.testing.assert_array_equal(strip[:, :4], images[0])
    np.testing.assert_array_equal(strip[:, 5:], images[1])


def test_a_page_of_many_large_pictures_stays_small(tmp_path, monkeypatch):
    """Noise, which cannot be compressed well, at the paper's size, widths and losses."""
    monkeypatch.setattr(fake_study, "_draw_discs", noise)
    made = fake_study.write_study(
        tmp_path, seeds=(0,), widths=(2, 4, 8), data="celeb_a", size=64, channels=3
    )
    monkeypatch.setattr("gankd_jax.report.page.charts", lambda study: "")
    monkeypatch.setattr("gankd_jax.report.page.each_run", lambda study: "")
    path = write_report(made)
    assert path.stat().st_size <= LIMIT
    assert "compressed with a small loss" in path.read_text(encoding="utf-8")


def noise(places: np.ndarray, size: int, channels: int, blur: int) -> np.ndarray:
    rng = np.random.default_rng(blur)
    coarse = rng.normal(128, 30, (len(places), size // 2, size // 2, channels))
    fine = coarse.repeat(2, axis=1).repeat(2, axis=2) + rng.normal(0, 4, (size, size, channels))
    return fine.clip(0, 255).astype(np.uint8)


def decoded(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))


def test_how_the_numbers_were_made_is_said_once(page):
    assert page.text.count("sha256:00ff") == 2  # of the models, and of the real images
    assert page.text.count("made-up:test") == 1


def test_runs_that_were_scored_in_another_way_are_counted(tmp_path):
    fake_study.write_study(tmp_path, seeds=(0,), widths=(2,), students=("mse",))
    for log in tmp_path.glob("*/log.jsonl"):
        log.unlink()
    scores = tmp_path / "baseline-d2-s0" / "scores.json"
    scores.write_text(scores.read_text().replace("00ff", "ff00"))
    assert "sha256:00ff (in 2); sha256:ff00 (in 1)" in Page(write_report(tmp_path)).text


def test_the_same_study_gives_the_same_file(path):
    before = path.read_bytes()
    assert write_report(path.parent).read_bytes() == before


def test_an_unfinished_study_is_shown_as_far_as_it_came(tmp_path):
    fake_study.write_unfinished_study(tmp_path)
    (tmp_path / "baseline-d4-s0" / "samples.npz").unlink()
    page = Page(write_report(tmp_path))
    assert "Unfinished: 5 of 9 runs have scores, 1 failed." in page.text
    assert "student-mse-d4-s1: at step 300 of 1,000" in page.text
    assert "baseline-d2-s0: failed at step 120: the critic's loss is not finite" in page.text
    assert page.text.count("no pictures yet") == 2  # of one model on two sheets


def test_a_study_without_a_teacher_has_a_page(tmp_path):
    page = Page(write_report(fake_study.write_study_without_teacher(tmp_path)))
    assert "no teacher has been chosen yet" in page.text
    assert "No student is scored yet, so none runs here." in page.text
    assert len(page.all("svg")) == 2  # the teacher's curves so far


def test_a_study_without_classifier_scores_has_a_page(tmp_path):
    made = fake_study.write_study(
        tmp_path, seeds=(0,), widths=(2,), students=("mse",), scores=("sharpness",), channels=3
    )
    page = Page(write_report(made))
    assert "Sharpness against parameters" not in page.text
    assert "Inception Score" not in page.text
    assert "d=2 baseline" in page.text


def test_a_study_of_one_run_says_that_nothing_is_compared(tmp_path):
    fake_study.write_study(tmp_path, seeds=(), widths=(), students=())
    page = Page(write_report(tmp_path))
    assert "One run has scores, so nothing is compared." in page.text
    assert "no student has been scored yet" in page.text
    assert not page.all("canvas")


def test_names_are_escaped(tmp_path):
    fake_study.write_study_without_teacher(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("made-up", "<b>$a & b"))
    assert "<b>$a & b" in Page(write_report(tmp_path)).text


def test_curves_are_thinned_to_means():
    log = [{"step": step, "generator_loss": 2.0 * step} for step in range(1, 1001)]
    steps, values = thinned([*log, {"step": 1001, "generator_loss": None}], "generator_loss")
    assert len(steps) == 100
    assert steps[0] == 5.5
    assert values == [2 * step for step in steps]


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ({1: 1.0, 2: 2.0, 4: 4.0}, [[1], [2], [4]]),
        ({1: 1.0, 2: 1.04, 4: 1.08, 8: 2.0}, [[1, 2, 4], [8]]),
        ({1: 1.06, 2: 1.0, 4: 3.0}, [[1, 2], [4]]),  # the smaller one is the slower one
        ({}, []),
    ],
)
def test_widths_that_lie_close_together_share_a_name(places, expected):
    assert together(places, 0.05 + 0.01) == expected

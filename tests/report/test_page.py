import base64
import dataclasses
import datetime
import importlib.metadata
import io
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import fake_study
import numpy as np
import pytest
import tiny
from PIL import Image

from gankd_jax.report.page import MAX_PAGE_BYTES, render_page, write_report
from gankd_jax.report.page.image_grids import encode_data_url
from gankd_jax.report.page.method import describe_numbers, explain_better_than_real
from gankd_jax.report.page.plots import INK, SERIES_COLORS
from gankd_jax.report.study_results import load_study

VOID = {"meta", "img", "br"}
PAPER_URL = "https://arxiv.org/abs/1902.00159"


class Page(HTMLParser):
    """Collects the elements and the text of a page; fails on elements that do not nest."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.tagged: list[tuple[str, str]] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if self.open:
            self.tagged.append((self.open[-1], data))

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    def texts_of(self, tag: str) -> list[str]:
        """The text of every element of a kind that holds text alone."""
        return [" ".join(text.split()) for name, text in self.tagged if name == tag]

    def find_all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return write_report(fake_study.write_study(tmp_path_factory.mktemp("full"), widths=(2, 8)))


@pytest.fixture(scope="module")
def page(path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def render_workdir(workdir: Path) -> Page:
    return Page(render_page(load_study(workdir)))


def test_report_writes_its_files(path):
    file_names = {file.name for file in path.parent.iterdir() if file.is_file()}
    report = {"table.md", "table.csv", "grid.png", "answers.md", "answers.png", "report.html"}
    assert file_names == {"config.json", "teacher.json"} | report


def test_page_loads_no_other_file(page):
    assert page.find_all("link") == []
    for tag, attrs in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            if name in attrs and (tag, attrs[name]) != ("a", PAPER_URL):  # loads by a click alone
                assert str(attrs[name]).startswith(("data:image/png;base64,", "#")), (tag, name)
    style = "".join(page.texts)
    assert "@import" not in style
    assert "url(" not in style


def test_page_supports_phones_and_dark_mode(page):
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.find_all(
        "meta"
    )
    assert "prefers-color-scheme: dark" in page.text
    assert "prefers-reduced-motion: reduce" in page.text


def test_sections_are_in_order_and_linked(page):
    assert page.texts_of("h2") == [
        *("Result", "Try it", "Scores by width", "Score against size and time"),
        *("The same latents through every generator", "Questions and answers"),
        *("How each number was made", "All scores", "More images", "Settings and provenance"),
        "All runs",
    ]
    phrases = (
        "16:1 smaller, 83% of the teacher's score (d=8, joint).",
        "The smallest, 256:1 smaller, keeps",
        "Baselines of the same size",
        "The student generates its images here",
        "Sizes",
        "How to read them",
    )
    positions = [page.text.index(phrase) for phrase in phrases]
    assert positions == sorted(positions)
    ids = {attrs["id"] for _, attrs in page.elements if "id" in attrs}
    links = [str(link["href"]) for link in page.find_all("a")]
    assert len(links) == 11 + 1
    assert {link[1:] for link in links if link != PAPER_URL} <= ids


@pytest.mark.slow
def test_page_says_where_it_comes_from(path, page):
    (path.parent / "command.txt").write_text("gankd study --config=made-up.py --workdir=<new>\n")
    text = render_workdir(path.parent).text
    (path.parent / "command.txt").unlink()
    assert "gankd study --config=made-up.py --workdir=<new>" in text
    assert f"gankd study --workdir={path.parent.name}" in page.text
    newest = max(file.stat().st_mtime for file in path.parent.glob("*/scores.json"))
    day = datetime.datetime.fromtimestamp(newest, datetime.UTC).strftime("%Y-%m-%d")
    assert page.find_all("time") == [{"datetime": day}]
    assert f"gankd-jax {importlib.metadata.version('gankd-jax')}" in page.text
    assert [link["href"] for link in page.find_all("a")][-1] == PAPER_URL
    assert "gankd report --workdir=..." in page.texts_of("code")


def test_page_has_the_answers_and_says_how_each_number_was_made(path, page):
    answers = re.findall(r"\*\*\d+\. (.*?)\*\* (.*)", (path.parent / "answers.md").read_text())
    terms = page.texts_of("dt")
    assert len(answers) >= 4
    for question, text in answers:
        assert question in terms
        assert text in page.texts_of("dd")
    for number in ("parameters", "ratio", "bytes", "keeps", "verdict", "Inception Score"):
        assert number in terms


def test_images_are_counted_where_it_is_known_of_how_many_a_score_is(study):
    made = study.teacher.provenance | {"FID network": {"samples": 500}}
    scores = study.teacher.scores | {"fid": 3.0, "pixel_error_seen": 1.0}
    teacher = dataclasses.replace(study.teacher, provenance=made, scores=scores)
    runs = (teacher, *study.runs[1:])
    numbers = dict(describe_numbers(dataclasses.replace(study, teacher=teacher, runs=runs)))
    assert numbers["Inception Score"].endswith("; of 1,000 images of each model.")
    assert numbers["FID"].endswith("; of 500 images of each model.")
    assert "images of each model" not in numbers["Pixel error on latents of the training"]


def test_pages_in_the_repository_are_small_and_load_nothing():
    paths = sorted((tiny.REPO / "configs" / "results").glob("*/report.html"))
    assert [path.parent.name for path in paths] == ["digits"]
    for path in paths:
        assert path.stat().st_size < 1_500_000
        sources = [attrs["src"] for _, attrs in Page(path.read_text()).elements if "src" in attrs]
        assert all(source.startswith("data:image/") for source in sources)


def test_a_teacher_nearer_than_real_images_is_explained(path):
    study = load_study(path.parent)
    assert explain_better_than_real(study) == ""  # the teacher's distance is 10, the real one 2
    near = dataclasses.replace(study.teacher, scores={"fd_classifier": 1.5})
    text = explain_better_than_real(dataclasses.replace(study, teacher=near))
    assert "(1.50) is below that of real test images (2.00)" in text
    assert "gets smaller" not in text  # as many images of each
    provenance = study.real_provenance | {"samples": 359}
    few = dataclasses.replace(study, teacher=near, real_provenance=provenance)
    assert "359 test images against 1,000 of each model" in explain_better_than_real(few)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_colors_have_the_contrast_of_wcag_aa(mode):
    text = (files("gankd_jax.report.page") / "templates" / "style.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", text, re.DOTALL)
    colors = {}
    for block in blocks[: 1 + (mode == "dark")]:
        colors |= dict(re.findall(r"(--[\w]+): (#[0-9a-f]+)", block))
    for name in ("--ink", "--faint", "--ahead", "--behind", "--c0"):  # texts; links are --c0
        for background in ("--bg", "--band"):
            assert contrast(colors[name], colors[background]) >= 4.5, (name, background)
    for k in range(8):  # lines of a chart
        assert contrast(colors[f"--c{k}"], colors["--bg"]) >= 3, k


def contrast(color: str, other: str) -> float:
    """Returns the contrast ratio of two colors (WCAG 2)."""
    lighter, darker = sorted(map(relative_luminance, (color, other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def relative_luminance(color: str) -> float:
    """Returns the relative luminance (WCAG 2) of #rgb or #rrggbb."""
    digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
    levels = np.array([int(digits[k : k + 2], 16) for k in (0, 2, 4)]) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_every_picture_and_control_has_a_name(page):
    assert all(image["alt"] for image in page.find_all("img"))
    assert all(canvas["aria-label"] for canvas in page.find_all("canvas"))
    assert all(figure["aria-label"] for figure in page.find_all("figure") if "role" in figure)


def test_cells_have_the_numbers_they_are_sorted_by(page):
    values = [float(cell["data-v"]) for cell in page.find_all("td") if "data-v" in cell]
    assert any(value == pytest.approx(5.1 / 8) for value in values)
    assert all(np.isfinite(values))
    assert [cell for cell in page.find_all("td") if cell.get("class") == "baseline-ahead"]


def test_charts_use_the_colors_of_the_page(path, page):
    content = path.read_text(encoding="utf-8")
    assert not any(color in content for color in (INK, *SERIES_COLORS))
    # 4 scores against parameters, 2 against bytes; 2 curves each of teacher, mse, joint, baseline
    assert len(page.find_all("svg")) == 4 + 2 + 2 * 4
    ids = [str(attrs["id"]) for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    used_ids = set(re.findall(r"url\(#(\w+)\)", content))
    used_ids |= {str(attrs["xlink:href"])[1:] for attrs in page.find_all("use")}
    assert used_ids <= set(ids)


def test_every_model_is_shown_with_a_description(page):
    labels = [str(image["alt"]) for image in page.find_all("img")]
    best = ["student-joint-d8-s0", "baseline-d8-s0", "student-joint-d2-s0", "baseline-d2-s0"]
    headline = ["the teacher's samples", *(f"samples of {name}" for name in best[:3])]
    assert labels[:4] == headline
    lead = ["images of the real test set", "the teacher's samples"]
    lead += [f"samples of {name}" for name in best]
    assert labels[4:10] == lead
    models = [
        f"{name}-d{d}-s0" for d in (2, 8) for name in ("student-mse", "student-joint", "baseline")
    ]
    grid = [*lead[:2], *(f"samples of {model}" for model in models)]
    assert labels[10:26] == grid * 2
    path = ["the teacher along a path"]
    path += [f"images along a path of {model}" for model in best if "student" in model]
    assert labels[26:32] == path * 2
    assert labels[32:34] == [
        "images of teacher nearest to training images",
        "the training images nearest to them",
    ]
    # Pairs of the teacher and of three models of d=8; the sharpness grid shows all models.
    assert len(labels) == 32 + 2 * 4 + 8


def test_shown_samples_equal_the_stored_pixels(path, page):
    with np.load(path.parent / "student-mse-d8-s0" / "samples.npz") as arrays:
        grid = arrays["grid"]
    images = [
        image for image in page.find_all("img") if image["alt"] == "samples of student-mse-d8-s0"
    ]  # in both grids of every model
    strips = np.concatenate([decode_image(str(image["src"])) for image in images], axis=0)
    for index in range(16):
        row, column = divmod(index, 8)
        tile = strips[16 * row : 16 * row + 16, 17 * column : 17 * column + 16]
        np.testing.assert_array_equal(tile, grid[index, ..., 0])


def test_color_images_keep_their_channels():
    images = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    strip = decode_image(encode_data_url(images))
    np.testing.assert_array_equal(strip[:, :4], images[0])
    np.testing.assert_array_equal(strip[:, 5:], images[1])


@pytest.mark.slow
def test_page_with_many_large_images_stays_below_its_limit(tmp_path, monkeypatch):
    """Noise does not compress well; size and widths are the paper's."""
    monkeypatch.setattr(fake_study, "_draw_discs", draw_noise)
    workdir = fake_study.write_study(
        tmp_path, seeds=(0,), widths=(2, 4, 8), data="celeb_a", size=64, channels=3
    )
    monkeypatch.setattr("gankd_jax.report.page.draw_score_charts", lambda study: None)
    monkeypatch.setattr("gankd_jax.report.page.draw_training_curves", lambda study: {})
    html = render_page(load_study(workdir))
    assert len(html.encode()) <= MAX_PAGE_BYTES
    assert "compressed with a small loss" in html


def test_page_beyond_its_limit_is_written_with_a_warning(tmp_path, monkeypatch, caplog):
    study = load_study(fake_study.write_study_without_teacher(tmp_path))
    render_page(study)
    assert caplog.messages == []
    monkeypatch.setattr("gankd_jax.report.page.MAX_PAGE_BYTES", 1000)
    size = f"{len(render_page(study).encode()) / 1e3:,.0f} kB"
    assert caplog.messages == [f"the page has {size}, more than 1 kB, even with the fewest images"]


def draw_noise(positions: np.ndarray, size: int, channels: int, blur: int) -> np.ndarray:
    rng = np.random.default_rng(blur)
    coarse = rng.normal(128, 30, (len(positions), size // 2, size // 2, channels))
    fine = coarse.repeat(2, axis=1).repeat(2, axis=2) + rng.normal(0, 4, (size, size, channels))
    return fine.clip(0, 255).astype(np.uint8)


def decode_image(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))))


def test_equal_provenance_is_shown_once(page):
    cells = page.texts_of("td")
    assert cells.count("sha256:00ff") == 2  # of the models, and of the real images
    assert cells.count("made-up:test") == 1


def test_different_provenance_is_counted(tmp_path):
    fake_study.write_study(tmp_path, seeds=(0,), widths=(2,), students=("mse",))
    for log in tmp_path.glob("*/log.jsonl"):
        log.unlink()
    scores = tmp_path / "baseline-d2-s0" / "scores.json"
    scores.write_text(scores.read_text().replace("00ff", "ff00"))
    assert "sha256:00ff (in 2); sha256:ff00 (in 1)" in render_workdir(tmp_path).text


@pytest.mark.slow
def test_same_study_gives_the_same_bytes(path):
    before = path.read_bytes()
    assert write_report(path.parent).read_bytes() == before


def test_page_of_an_unfinished_study(tmp_path):
    fake_study.write_unfinished_study(tmp_path)
    (tmp_path / "baseline-d4-s0" / "samples.npz").unlink()
    page = render_workdir(tmp_path)
    assert "Unfinished: 5 of 9 runs have scores, 1 failed." in page.text
    assert "student-mse-d4-s1: at step 300 of 1,000" in page.text
    assert "baseline-d2-s0: failed at step 120: the critic's loss is not finite" in page.text
    assert page.text.count("no images yet") == 2  # of one model in two grids of every model


def test_page_of_a_study_without_teacher(tmp_path):
    page = render_workdir(fake_study.write_study_without_teacher(tmp_path))
    assert "no teacher has been chosen yet" in page.text
    assert "No student is scored yet, so none runs here." in page.text
    assert len(page.find_all("svg")) == 2  # the teacher's curves so far


def test_page_of_a_study_without_classifier_scores(tmp_path):
    workdir = fake_study.write_study(
        tmp_path, seeds=(0,), widths=(2,), students=("mse",), scores=("sharpness",), channels=3
    )
    page = render_workdir(workdir)
    assert "Sharpness against parameters" not in page.text
    assert "Inception Score" not in page.text
    assert "baseline d=2" in page.text


def test_page_of_a_study_of_one_run_says_that_nothing_is_compared(tmp_path):
    fake_study.write_study(tmp_path, seeds=(), widths=(), students=())
    page = render_workdir(tmp_path)
    assert "One run has scores, so nothing is compared." in page.text
    assert "no student has been scored yet" in page.text
    assert not page.find_all("canvas")


def test_names_are_escaped(tmp_path):
    fake_study.write_study_without_teacher(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("made-up", "<b>$a & b"))
    assert "<b>$a & b" in render_workdir(tmp_path).text

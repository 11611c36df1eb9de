"""The report in a real browser: images, sorting, copying, and no requests."""

import csv
import io
import json
import re
import shutil

import fake_study
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from browser import Browser, find_browser

from gankd_jax.evaluation import scoring
from gankd_jax.models import sampling
from gankd_jax.models.dcgan import DCGANGenerator
from gankd_jax.models.family import FoldedLayer
from gankd_jax.models.folding import quantize, unfold_generator
from gankd_jax.report.page import write_report
from gankd_jax.report.page.browser_demo import pack_layers
from gankd_jax.study.generators import load_generator
from gankd_jax.utils import atomic_io

pytestmark = pytest.mark.slow

MAX_ERROR = 1e-4  # between images in -1..1
FIRST_STUDENT = "student-mse-d4-s0"
STUDENT_IMAGE = (
    "[...demo.element('student-image').getContext('2d').getImageData(0, 0, 16, 16).data]"
)
FIRST_SLIDER = "document.querySelector('#sliders input')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    path = find_browser()
    if path is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    instance = Browser(path, tmp_path_factory.mktemp("profile"))
    yield instance
    instance.close()


def make_random_generator(size: int, channels: int, width: int) -> sampling.TrainedGenerator:
    """A generator with random variables, running statistics of batch norm included."""
    generator = DCGANGenerator(width, size, channels, latent_dim=fake_study.LATENT)
    latents = jnp.zeros((2, generator.latent_dim))
    shapes = jax.eval_shape(lambda: generator.init(jax.random.key(0), latents, train=False))
    rng = np.random.default_rng(size)

    def sample_leaf(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        is_kernel = len(leaf.shape) == 4
        low, high = (-0.5, 0.5) if is_kernel else (0.3, 0.8)  # scales and variances are above 0
        return rng.uniform(low, high, leaf.shape).astype(np.float32)

    return sampling.TrainedGenerator(generator, jax.tree.map(sample_leaf, shapes))


@pytest.fixture(scope="module")
def student() -> sampling.TrainedGenerator:
    return make_random_generator(16, 1, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, student):
    """A report of a study with latencies; its first student is a real network."""
    workdir = fake_study.write_study(
        tmp_path_factory.mktemp("study"), seeds=(0, 1), widths=(2, 4), students=("mse",)
    )
    fake_study.add_latency(workdir, widths=(2, 4))
    atomic_io.write_npz(workdir / FIRST_STUDENT / "folded.npz", **scoring.folded_arrays(student))
    write_report(workdir)
    return workdir


@pytest.fixture
def page(browser, folder) -> Browser:
    """The page, just opened, in a large window in light mode."""
    browser.set_window(1200, 900)
    browser.open(folder / "report.html")
    browser.wait_for("demo.thumbnails?.length === 16")
    return browser


def list_errors(browser: Browser) -> list[dict]:
    kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    return browser.find_events(*kinds)


def test_page_opens_without_errors_and_requests_nothing_else(page, folder):
    assert list_errors(page) == []
    urls = {request["request"]["url"] for request in page.find_events("Network.requestWillBeSent")}
    assert (folder / "report.html").as_uri() in urls
    other_urls = urls - {(folder / "report.html").as_uri()}
    assert all(url.startswith("data:image/") for url in other_urls)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [16, 32, 64])
def test_generator_js_equals_the_flax_generator(page, size, channels):
    generator = make_random_generator(size, channels, 2)
    arrays = scoring.folded_arrays(generator)
    latents = arrays["latents"][:3]
    expected = np.asarray(sampling.sample_images(*generator, latents))
    images = page.evaluate(
        f"(layers => {json.dumps(latents.tolist())}.map(z => [...generate(layers, z)]))"
        f"({json.dumps(pack_layers(arrays, 3))}.map(unpackLayer))"
    )
    assert expected.std() > 0.1
    assert np.abs(np.reshape(images, expected.shape) - expected).max() < MAX_ERROR


def test_student_generates_images_of_the_stored_latents(page, student):
    expected = sampling.to_uint8(
        sampling.sample_images(*student, sampling.grid_latents(fake_study.LATENT))
    )
    assert page.evaluate("demo.element('student').value").startswith(f"{FIRST_STUDENT}:")
    for k in (0, 5):
        page.evaluate(f"demo.element('stored-latents').children[{k}].click()")
        pixels = np.reshape(page.evaluate(STUDENT_IMAGE), (16, 16, 4))
        for channel in range(3):
            assert np.abs(pixels[..., channel] - expected[k, ..., 0].astype(int)).max() <= 1
        assert (pixels[..., 3] == 255).all()
    assert page.evaluate("/^\\d+\\.\\d ms/.test(demo.element('student-time').textContent)")


TEACHER_IMAGE = STUDENT_IMAGE.replace("student-image", "teacher-image")
DIFFERENCE_IMAGE = STUDENT_IMAGE.replace("student-image", "difference-image")
MOVE_FIRST_SLIDER = f"{FIRST_SLIDER}.value = 3.5; {FIRST_SLIDER}.dispatchEvent(new Event('input'))"


def test_slider_moves_teacher_student_and_difference(page):
    images = (STUDENT_IMAGE, TEACHER_IMAGE, DIFFERENCE_IMAGE)
    before = [page.evaluate(image) for image in images]
    page.evaluate(MOVE_FIRST_SLIDER)
    after = [page.evaluate(image) for image in images]
    assert all(new != old for new, old in zip(after, before, strict=True))
    student, teacher, difference = (np.array(levels).reshape(-1, 4)[:, 0] for levels in after)
    assert np.abs(np.abs(student - teacher) - difference).max() <= 1
    index = page.evaluate(f"Number({FIRST_SLIDER}.name)")
    assert page.evaluate(f"demo.latent[{index}]") == 3.5
    assert page.evaluate(f"{FIRST_SLIDER}.nextElementSibling.textContent") == "3.5"
    page.evaluate("demo.element('reset').click()")
    assert [page.evaluate(image) for image in images] == before


def test_slider_is_moved_by_the_keyboard(page):
    page.evaluate(f"{FIRST_SLIDER}.focus()")
    value = page.evaluate(f"Number({FIRST_SLIDER}.value)")
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key="ArrowRight", windowsVirtualKeyCode=39)
    assert page.evaluate(f"Number({FIRST_SLIDER}.value)") == pytest.approx(value + 0.1)
    index = page.evaluate(f"Number({FIRST_SLIDER}.name)")
    assert page.evaluate(f"demo.latent[{index}]") == pytest.approx(value + 0.1)


def test_teacher_in_the_page_has_the_images_of_int8_weights(page, folder):
    arrays = atomic_io.read_npz(folder / "teacher-d32-s0" / "folded.npz")
    layers = [
        quantize(
            FoldedLayer(arrays[f"kernel{k}"], np.ones(size, np.float32), arrays[f"bias{k}"]), "int8"
        )
        for k, size in enumerate((64, 32, 1))
    ]
    module = DCGANGenerator(32, 16, 1, latent_dim=fake_study.LATENT)
    latents = np.array(page.evaluate("[[...demo.latents[0]]]"), np.float32)
    expected = np.asarray(sampling.sample_images(*unfold_generator(module, layers), latents))
    images = page.evaluate("[...generate(demo.teacherLayers, demo.latents[0])]")
    assert np.abs(np.reshape(images, expected.shape) - expected).max() < MAX_ERROR


def test_saved_student_opens_in_python(page, student, tmp_path):
    content = page.evaluate("demo.studentFile().arrayBuffer().then(b => [...new Uint8Array(b)])")
    path = tmp_path / "student.safetensors"
    path.write_bytes(bytes(content))
    saved = load_generator(path)
    assert np.abs(saved.sample(0, 4) - student.sample(0, 4)).max() < MAX_ERROR
    assert saved.card["run"] == FIRST_STUDENT
    assert saved.card["scores"]["inception_score"] == 6.0


def test_page_without_the_teachers_weights_shows_its_stored_images(browser, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "study")
    (copy / "teacher-d32-s0" / "folded.npz").unlink()
    browser.open(write_report(copy))
    browser.wait_for("demo.thumbnails?.length === 16")
    grid = atomic_io.read_npz(copy / "teacher-d32-s0" / "samples.npz")["grid"]
    browser.evaluate("demo.element('stored-latents').children[3].click()")
    pixels = np.reshape(browser.evaluate(TEACHER_IMAGE), (16, 16, 4))
    assert np.abs(pixels[..., 0] - grid[3, ..., 0].astype(int)).max() <= 1
    browser.evaluate(MOVE_FIRST_SLIDER)
    assert browser.evaluate("demo.element('teacher-image').classList.contains('outdated')")
    assert "no image" in browser.evaluate("demo.element('teacher-latent').textContent")
    assert list_errors(browser) == []


def test_a_click_makes_one_step_where_motion_is_reduced(page):
    page.set_window(1200, 900, reduced_motion=True)
    before = page.evaluate(STUDENT_IMAGE)
    page.evaluate("demo.element('random-walk').click()")
    after = page.evaluate(STUDENT_IMAGE)
    assert after != before
    page.evaluate("new Promise(done => setTimeout(done, 100))")
    assert page.evaluate(STUDENT_IMAGE) == after


def test_random_walk_runs_until_it_is_stopped(page):
    before = page.evaluate(STUDENT_IMAGE)
    page.evaluate("demo.element('random-walk').click()")
    page.wait_for(f"{STUDENT_IMAGE}.some((level, k) => level !== {before}[k])")
    page.evaluate("demo.element('random-walk').click()")
    stopped = page.evaluate(STUDENT_IMAGE)
    page.evaluate("new Promise(done => setTimeout(done, 100))")
    assert page.evaluate(STUDENT_IMAGE) == stopped


def test_other_student_can_be_selected(page):
    before = page.evaluate(STUDENT_IMAGE)
    page.evaluate(
        "demo.element('student').selectedIndex = 1;"
        "demo.element('student').dispatchEvent(new Event('change'))"
    )
    assert page.evaluate("demo.student.name") == "student-mse-d2-s0"
    assert page.evaluate(STUDENT_IMAGE) != before


SCORE_TABLE = (
    "[...document.querySelectorAll('table')].find(t => t.rows[0].textContent.includes('kept'))"
)


def read_column(page: Browser, title: str) -> list[str]:
    return page.evaluate(
        f"(t => {{ const at = [...t.rows[0].cells].findIndex(c => c.textContent === '{title}');"
        f"return [...t.tBodies[0].rows].map(r => r.cells[at].textContent) }})({SCORE_TABLE})"
    )


def click_heading(page: Browser, title: str) -> None:
    heading = f"[...{SCORE_TABLE}.rows[0].cells].find(c => c.textContent === '{title}')"
    page.evaluate(f"{heading}.firstChild.click()")


def test_table_sorts_by_its_headings(page):
    before = [float(text.split()[0]) for text in read_column(page, "score")]
    click_heading(page, "score")
    rising = [float(text.split()[0]) for text in read_column(page, "score")]
    assert rising == sorted(before) != before
    click_heading(page, "score")
    assert [float(text.split()[0]) for text in read_column(page, "score")] == rising[::-1]
    click_heading(page, "model")
    assert read_column(page, "model") == sorted(read_column(page, "model"))
    click_heading(page, "d")
    assert read_column(page, "d") == ["2", "2", "4", "4", "32", ""]  # real images have no width


def test_table_is_copied_as_csv(page):
    page.call("Browser.grantPermissions", permissions=["clipboardReadWrite"])
    page.call("Emulation.setFocusEmulationEnabled", enabled=True)
    page.evaluate(f"{SCORE_TABLE}.parentElement.nextElementSibling.click()")
    copied = list(csv.reader(io.StringIO(page.evaluate("navigator.clipboard.readText()"))))
    texts = page.evaluate(f"[...{SCORE_TABLE}.rows].map(r => [...r.cells].map(c => c.textContent))")
    assert [len(line) for line in copied] == [len(line) for line in texts]
    assert copied[0] == texts[0]
    student = next(line for line in copied if line[:2] == ["2", "mse student"])
    assert student[3] == "5.05 ± 0.07"
    assert float(student[4]) == pytest.approx(5.05 / 8)
    assert student[-1] == "0: 5.00, 1: 5.10"


@pytest.mark.parametrize("width", [360, 1200])
def test_page_is_not_wider_than_the_window(page, width):
    page.set_window(width, 800)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("dark", [True, False])
def test_page_has_a_dark_and_a_light_mode(page, dark):
    page.set_window(1200, 800, dark=dark)
    color = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", color))) < 60) == dark


@pytest.mark.parametrize("width", [390, 1280])
def test_a_picture_is_on_the_first_screen(page, width):
    """On a phone it stands above the sentences."""
    page.set_window(width, 800)
    box = "document.querySelector('{}').getBoundingClientRect()"
    assert page.evaluate(f"{box.format('.picture img')}.bottom") < 400
    is_above = f"{box.format('.picture')}.bottom <= {box.format('.lead')}.top"
    assert page.evaluate(is_above) == (width == 390)


@pytest.mark.parametrize(
    ("write", "has_scored_student"),
    [
        (fake_study.write_unfinished_study, True),
        (fake_study.write_study_without_teacher, False),
    ],
)
def test_page_of_an_unfinished_study_opens_without_errors(
    browser, tmp_path, write, has_scored_student
):
    write(tmp_path)
    browser.open(write_report(tmp_path))
    assert list_errors(browser) == []
    text = browser.evaluate("document.body.innerText")
    assert re.search(r"Runs without scores: \d", text)
    assert ("No student is scored yet" in text) == (not has_scored_student)

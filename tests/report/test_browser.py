"""The report in a real browser: it draws, reacts, sorts, copies, and asks nobody else."""

import csv
import io
import json

import fake_study
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from browser import Browser, executable

from gankd_jax.evaluation import scoring
from gankd_jax.models import sampling
from gankd_jax.models.dcgan import DCGANGenerator
from gankd_jax.report.page import write_report
from gankd_jax.report.player import packed
from gankd_jax.utils import atomic_io

BOUND = 1e-4  # of a difference between pictures in -1..1
SHOWN = "student-mse-d4-s0"
PICTURE = "[...player.find('drawn').getContext('2d').getImageData(0, 0, 16, 16).data]"
FIRST_SLIDER = "document.querySelector('#sliders input')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    path = executable()
    if path is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    started = Browser(path, tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


def drawer(size: int, channels: int, width: int) -> sampling.TrainedGenerator:
    """A generator whose every number is random, batch norm's statistics too."""
    generator = DCGANGenerator(width, size, channels, latent_dim=fake_study.LATENT)
    blank = jnp.zeros((2, generator.latent_dim))
    shapes = jax.eval_shape(lambda: generator.init(jax.random.key(0), blank, train=False))
    rng = np.random.default_rng(size)

    def leaf(like: jax.ShapeDtypeStruct) -> np.ndarray:
        kernel = len(like.shape) == 4
        low, high = (-0.5, 0.5) if kernel else (0.3, 0.8)  # scales and variances are above 0
        return rng.uniform(low, high, like.shape).astype(np.float32)

    return sampling.TrainedGenerator(generator, jax.tree.map(leaf, shapes))


@pytest.fixture(scope="module")
def student() -> sampling.TrainedGenerator:
    return drawer(16, 1, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, student):
    """A study with measured costs, whose student that is shown first is a real network."""
    made = fake_study.write_study(
        tmp_path_factory.mktemp("study"), seeds=(0, 1), widths=(2, 4), students=("mse",)
    )
    fake_study.add_latency(made, widths=(2, 4))
    atomic_io.write_npz(made / SHOWN / "folded.npz", **scoring.folded_arrays(student))
    write_report(made)
    return made


@pytest.fixture
def page(browser, folder) -> Browser:
    """The page, just opened, as at a desk by day."""
    browser.window(1200, 900)
    browser.open(folder / "report.html")
    browser.wait("player.thumbs?.length === 16")
    return browser


def complaints(browser: Browser) -> list[dict]:
    kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    return browser.of(*kinds)


def test_it_opens_without_an_error_and_asks_for_nothing_else(page, folder):
    assert complaints(page) == []
    asked = {request["request"]["url"] for request in page.of("Network.requestWillBeSent")}
    assert (folder / "report.html").as_uri() in asked
    others = asked - {(folder / "report.html").as_uri()}
    assert all(url.startswith("data:image/") for url in others)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [16, 32, 64])
def test_it_draws_what_the_model_draws(page, size, channels):
    made = drawer(size, channels, 2)
    arrays = scoring.folded_arrays(made)
    latents = arrays["latents"][:3]
    expected = np.asarray(sampling.sample_images(*made, latents))
    drawn = page.run(
        f"(layers => {json.dumps(latents.tolist())}.map(z => [...draw(layers, z)]))"
        f"({json.dumps(packed(arrays))}.map(unpack))"
    )
    assert expected.std() > 0.1
    assert np.abs(np.reshape(drawn, expected.shape) - expected).max() < BOUND


def test_the_shown_student_draws_the_stored_latents(page, student):
    expected = sampling.to_uint8(
        sampling.sample_images(*student, sampling.grid_latents(fake_study.LATENT))
    )
    assert page.run("player.find('student').value").startswith(f"{SHOWN}:")
    for k in (0, 5):
        page.run(f"player.find('stored').children[{k}].click()")
        pixels = np.reshape(page.run(PICTURE), (16, 16, 4))
        for channel in range(3):
            assert np.abs(pixels[..., channel] - expected[k, ..., 0].astype(int)).max() <= 1
        assert (pixels[..., 3] == 255).all()
        assert page.run("player.find('which').textContent") == f"stored latent {k + 1}"
    assert page.run("/^\\d+\\.\\d ms/.test(player.find('time').textContent)")


def test_the_teacher_s_stored_pictures_stand_beside_it(page, folder):
    grid = atomic_io.read_npz(folder / "teacher-d32-s0" / "samples.npz")["grid"]
    page.run("player.find('stored').children[3].click()")
    shown = page.run(PICTURE.replace("drawn", "teacher"))
    assert np.array_equal(np.reshape(shown, (16, 16, 4))[..., 0], grid[3, ..., 0])


def test_a_slider_changes_the_picture(page):
    before = page.run(PICTURE)
    page.run(f"{FIRST_SLIDER}.value = 3.5; {FIRST_SLIDER}.dispatchEvent(new Event('input'))")
    assert page.run(PICTURE) != before
    place = page.run(f"Number({FIRST_SLIDER}.name)")
    assert page.run(f"player.latent[{place}]") == 3.5
    assert page.run("player.find('teacher').classList.contains('left')")
    page.run("player.find('stored').children[0].click()")
    assert page.run(PICTURE) == before
    assert not page.run("player.find('teacher').classList.contains('left')")


def test_a_walk_goes_on_until_it_is_stopped(page):
    before = page.run(PICTURE)
    page.run("player.find('walk').click()")
    page.wait(f"{PICTURE}.some((level, k) => level !== {before}[k])")
    page.run("player.find('walk').click()")
    stopped = page.run(PICTURE)
    page.run("new Promise(done => setTimeout(done, 100))")
    assert page.run(PICTURE) == stopped


def test_another_student_can_be_chosen(page):
    before = page.run(PICTURE)
    page.run(
        "player.find('student').selectedIndex = 1;"
        "player.find('student').dispatchEvent(new Event('change'))"
    )
    assert page.run("player.student.name") == "student-mse-d2-s0"
    assert page.run(PICTURE) != before


SCORES = "[...document.querySelectorAll('table')].find(t => t.rows[0].textContent.includes('kept'))"


def column(page: Browser, title: str) -> list[str]:
    return page.run(
        f"(t => {{ const at = [...t.rows[0].cells].findIndex(c => c.textContent === '{title}');"
        f"return [...t.tBodies[0].rows].map(r => r.cells[at].textContent) }})({SCORES})"
    )


def click(page: Browser, title: str) -> None:
    heading = f"[...{SCORES}.rows[0].cells].find(c => c.textContent === '{title}')"
    page.run(f"{heading}.firstChild.click()")


def test_a_table_sorts_by_its_headings(page):
    before = [float(text.split()[0]) for text in column(page, "score")]
    click(page, "score")
    rising = [float(text.split()[0]) for text in column(page, "score")]
    assert rising == sorted(before) != before
    click(page, "score")
    assert [float(text.split()[0]) for text in column(page, "score")] == rising[::-1]
    click(page, "model")
    assert column(page, "model") == sorted(column(page, "model"))
    click(page, "d")
    assert column(page, "d") == ["2", "2", "4", "4", "32", ""]  # real images have no width


def test_a_table_is_copied_as_csv(page):
    page.call("Browser.grantPermissions", permissions=["clipboardReadWrite"])
    page.call("Emulation.setFocusEmulationEnabled", enabled=True)
    page.run(f"{SCORES}.parentElement.nextElementSibling.click()")
    copied = list(csv.reader(io.StringIO(page.run("navigator.clipboard.readText()"))))
    texts = page.run(f"[...{SCORES}.rows].map(r => [...r.cells].map(c => c.textContent))")
    assert [len(line) for line in copied] == [len(line) for line in texts]
    assert copied[0] == texts[0]
    student = next(line for line in copied if line[:2] == ["2", "mse student"])
    assert student[3] == "5.05 ± 0.07"
    assert float(student[4]) == pytest.approx(5.05 / 8)
    assert student[-1] == "0: 5.00, 1: 5.10"


@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_is_no_wider_than_its_window(page, width):
    page.window(width, 800)
    assert page.run("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("dark", [True, False])
def test_text_stands_out_by_day_and_by_night(page, dark):
    page.window(1200, 800, dark=dark)
    for name in ("--ink", "--faint", "--ahead", "--behind", *(f"--c{k}" for k in range(8))):
        colours = [
            page.run(f"getComputedStyle(document.documentElement).getPropertyValue('{one}')")
            for one in (name, "--bg")
        ]
        ink, ground = sorted(map(luminance, colours), reverse=True)
        least = 3 if name.startswith("--c") else 4.5  # lines of a chart; text
        assert (ink + 0.05) / (ground + 0.05) >= least, name
    ground = luminance(page.run("getComputedStyle(document.body).backgroundColor"))
    assert (ground < 0.1) == dark


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2) of #rgb, #rrggbb or rgb(r, g, b)."""
    if colour.startswith("#"):
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        levels = [int(digits[k : k + 2], 16) for k in (0, 2, 4)]
    else:
        levels = [int(level) for level in colour[4:-1].split(",")]
    linear = [
        x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in np.array(levels) / 255
    ]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("kind", ["unfinished", "no_teacher"])
def test_a_study_under_way_opens_without_an_error(browser, tmp_path, kind):
    getattr(fake_study, kind)(tmp_path)
    browser.open(write_report(tmp_path))
    assert complaints(browser) == []
    said = browser.run("document.body.innerText")
    assert "Runs without scores" in said
    assert ("No student is scored yet" in said) == (kind == "no_teacher")

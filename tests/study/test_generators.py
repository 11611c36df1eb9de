"""Samples of trained generators as files: a grid, or single images."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gankd_jax
from gankd_jax.data.image_files import find_images
from gankd_jax.evaluation import inference
from gankd_jax.study import generators, workdir
from gankd_jax.utils.errors import UserError

RUN = "student-mse-d1-s0"  # of the study of the fixture `old_workdir`


def read_images(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in find_images(folder)]


def test_samples_of_a_pretrained_generator_are_single_images(command, tmp_path):
    out = tmp_path / "new" / "images"
    words = ["sample", "--pretrained=mnist-d2", "--samples=12"]
    status, stdout, _ = command(*words, f"--out={out}")
    assert (status, stdout) == (0, f"{out}\n")
    assert [path.name for path in sorted(out.iterdir())] == [f"{k:06d}.png" for k in range(12)]
    assert list(out.parent.iterdir()) == [out]
    images = read_images(out)
    assert {image.shape for image in images} == {(32, 32)}
    assert len({image.tobytes() for image in images}) == 12

    status, _, stderr = command(*words, f"--out={out}")
    assert (status, stderr) == (
        2,
        f"gankd: {out} exists and is no empty folder; name another or remove it\n",
    )


def test_samples_of_a_run_are_the_images_that_evaluation_scores(old_workdir, tmp_path):
    config = workdir.read_config(old_workdir)
    (tmp_path / "images").mkdir()  # an empty folder may exist
    generators.sample_run(config, old_workdir, RUN, out=tmp_path / "images", samples=7)
    generator = gankd_jax.load_generator(old_workdir / RUN)
    sizes = {"count": config.evaluation.samples, "batch_size": config.evaluation.batch_size}
    batches = inference.sample_batches(generator, config.evaluation.seed, **sizes)
    expected = itertools.islice(itertools.chain.from_iterable(batches), 7)
    for image, pixels in zip(read_images(tmp_path / "images"), expected, strict=True):
        np.testing.assert_array_equal(image, pixels[..., 0])


@pytest.mark.parametrize(
    ("name", "samples", "message"),
    [
        ("grid.jpg", None, r"--out=.*grid\.jpg must end in \.png, or --samples=N"),
        ("images", None, r"--out=.*images must end in \.png, or --samples=N"),
        ("grid.png", 9, r"--out=.*grid\.png must be a folder: --samples=9"),
        ("notes.txt", 9, r"notes\.txt exists and is no empty folder"),
    ],
)
def test_an_output_of_another_kind_is_refused(name, samples, message, tmp_path):
    (tmp_path / "notes.txt").write_text("keep")
    with pytest.raises(UserError, match=message):
        generators.sample_pretrained("mnist-d2", tmp_path / name, samples)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "keep"


def test_samples_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def fail_late(*args, **kwargs):
        yield np.zeros((3, 8, 8, 1), np.uint8)
        raise OSError(28, "No space left on device", "a temporary file")

    monkeypatch.setattr(inference, "sample_batches", fail_late)
    with pytest.raises(OSError, match="No space left on device") as error_info:
        generators.sample_pretrained("mnist-d2", tmp_path / "images", 9)
    assert error_info.value.filename == str(tmp_path / "images")
    assert list(tmp_path.iterdir()) == []

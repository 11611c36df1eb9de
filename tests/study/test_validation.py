"""A study of a person's own images: which networks score it, on which images."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from gankd_jax.config import dataset as dataset_module
from gankd_jax.data import registry
from gankd_jax.data.image_folder import ImageOptions, prepare_images
from gankd_jax.data.loading import ImageSplit
from gankd_jax.interop import inception_weights
from gankd_jax.models.classifiers import WhitenedConvNet
from gankd_jax.models.family import FAMILIES
from gankd_jax.study import runner
from gankd_jax.study.context import StudyContext
from gankd_jax.study.validation import resolve_layers, validate_config
from gankd_jax.utils.atomic_io import read_json
from gankd_jax.utils.errors import UserError

STEPS = 10
SHORT = {
    "study.teacher_widths": "(2,)",
    "study.widths": "(1,)",
    "study.students": "('mse',)",
    **{f"recipes.{name}.steps": STEPS for name in ("teacher", "mse", "baseline")},
    **{f"recipes.{name}.batch_size": 8 for name in ("teacher", "mse", "baseline")},
    "training.steps_per_call": 5,
    "training.log_every": 5,
    "training.grid_every": STEPS,
    "training.checkpoint_every": STEPS,
    "evaluation.samples": 20,
    "evaluation.batch_size": 20,
}


def prepare_noise(tmp_path: Path, labels: str) -> Path:
    """Prepares 40 images in two folders as `noise`, and returns the folder of the data sets."""
    rng = np.random.default_rng(0)
    for k in range(40):
        path = tmp_path / "photos" / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    options = ImageOptions(image_size=32, labels=labels)
    prepare_images("noise", tmp_path / "photos", tmp_path / "data", options)
    return tmp_path / "data"


def load_images_config(data_dir: Path):
    return tiny.repository_config("images", data__name="noise", data__dir=str(data_dir))


@pytest.mark.parametrize(
    ("labels", "has_weights", "expected"),
    [("none", True, ("64",)), ("none", False, ()), ("folders", True, ())],
)
def test_the_fid_network_serves_where_no_labels_do(
    labels, has_weights, expected, tmp_path, checkout
):
    if not has_weights:
        inception_weights.default_weights_path().unlink()
    config = load_images_config(prepare_noise(tmp_path, labels))
    resolve_layers(config)
    assert config.evaluation.layers == expected


def test_bfloat16_is_refused_for_networks_that_cannot_round(registries):
    family = dataclasses.replace(FAMILIES["dcgan"], name="mine", generator=WhitenedConvNet)
    FAMILIES["mine"] = family
    config = tiny.config(model__precision="bfloat16", model__student__family="mine")
    with pytest.raises(UserError, match="family is 'mine', whose networks have no attribute dtype"):
        validate_config(config)


def test_named_layers_are_left_as_they_are(tmp_path):
    config = load_images_config(tmp_path)
    with config.unlocked():
        config.evaluation.layers = ("192", "768")
    resolve_layers(config)  # looks for no data set
    assert config.evaluation.layers == ("192", "768")


@pytest.mark.parametrize(
    ("splits", "held_out", "expected"),
    [
        (("train", "test", "validation"), 0, "test"),
        (("train", "validation"), 0, "validation"),
        (("train",), 100, "validation"),
        (("train",), 0, None),
    ],
)
def test_the_validation_split_stands_in_for_a_missing_test_split(
    splits, held_out, expected, tmp_path, monkeypatch
):
    dataset = dataclasses.replace(
        registry.get_dataset("mnist"), counts=dict.fromkeys(splits, 1_000)
    )
    blank = np.zeros((1, 8, 8, 3), np.uint8)
    monkeypatch.setattr(dataset_module, "config_dataset", lambda config: dataset)
    monkeypatch.setattr(runner, "config_dataset", lambda config: dataset)
    monkeypatch.setattr(
        StudyContext, "load_split", lambda self, name: ImageSplit(blank, None, name)
    )
    config = tiny.repository_config("images", data__name="noise", data__validation=held_out)
    context = StudyContext(config, tmp_path)
    if expected:
        assert context.test_images.key == expected
    else:
        with pytest.raises(UserError, match=r"noise has no test split: config\.data\.validation"):
            _ = context.test_images
        with pytest.raises(UserError, match="noise has no test split"):  # before any training
            runner.run_study(config, tmp_path / "study")
        assert not (tmp_path / "study").exists()


@pytest.mark.slow
@tiny.ONLY_IF_ALL
def test_a_study_of_images_without_labels_says_what_is_missing_and_makes_the_rest(root, tmp_path):
    data_dir, workdir = prepare_noise(tmp_path, "none"), tmp_path / "run"
    result = tiny.run_gankd(
        root,
        "study",
        f"--config={tiny.REPO / 'configs' / 'images.py'}:small",
        "--config.data.name=noise",
        *(f"--config.{name}={value}" for name, value in SHORT.items()),
        f"--workdir={workdir}",
        TFDS_DATA_DIR=str(data_dir),
        XDG_CACHE_HOME=str(tmp_path / "cache"),
    )
    assert result.returncode == 0, result.stderr
    assert "noise has no labels" in result.stderr
    assert "`gankd weights fetch`" in result.stderr
    scores = read_json(workdir / "student-mse-d1-s0" / "scores.json")["scores"]
    assert scores["sharpness"] > 0
    assert not any(name.startswith("fd_") for name in scores)
    assert (workdir / "report.html").stat().st_size > 10_000

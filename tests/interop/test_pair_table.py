"""Pairs of latents and images, from a file, in place of a teacher."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gankd_jax.interop import pair_table
from gankd_jax.interop.pair_table import has_normal_latents, load_pairs
from gankd_jax.models import sampling
from gankd_jax.models.dcgan import DCGANGenerator
from gankd_jax.models.sampling import TrainedGenerator
from gankd_jax.utils.errors import UserError

COUNT, SIZE, LATENT = 40, 16, 3
LATENTS = np.random.default_rng(0).normal(size=(COUNT, LATENT)).astype(np.float32)
# Each image has its number in every pixel, and a mark that shows a transposed one.
IMAGES = np.tile(np.arange(COUNT, dtype=np.uint8)[:, None, None, None], (1, SIZE, SIZE, 3))
IMAGES[:, 0, 1] = (50, 100, 255)


def write_pairs(path: Path, **changes: np.ndarray) -> Path:
    arrays = {"latents": LATENTS, "images": IMAGES} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.mark.slow
def test_latents_select_a_pair_and_training_never_those_of_evaluation(tmp_path):
    module, variables = load_pairs(write_pairs(tmp_path / "pairs.npz"))
    latents = sampling.sample_latents(7, 4_000, LATENT)
    rows = {}
    for name, view in (("train", pair_table.for_training(module)), ("test", module)):
        images = sampling.to_uint8(view.apply(variables, latents, train=False))
        rows[name] = images[:, 5, 5, 0]
        np.testing.assert_array_equal(images, IMAGES[rows[name]])
        np.testing.assert_array_equal(view.row_latents(variables, latents), LATENTS[rows[name]])
    numbers = {name: set(values.tolist()) for name, values in rows.items()}
    assert (len(numbers["train"]), len(numbers["test"])) == (36, 4)
    assert numbers["train"].isdisjoint(numbers["test"])
    # 4,000 draws of 36 pairs: 111 of each, give or take 10.
    counts = np.bincount(rows["train"])
    assert 60 < counts[counts > 0].min() <= counts.max() < 170
    stacked = latents.reshape(2, 2_000, LATENT)
    np.testing.assert_array_equal(
        module.row_latents(variables, stacked).reshape(-1, LATENT), LATENTS[rows["test"]]
    )


FORMS = {
    "-1..1": {"images": (IMAGES / 127.5 - 1).astype(np.float32)},
    "0..1, channels first": {"images": (IMAGES / 255).transpose(0, 3, 1, 2)},
    "0..255 as float": {"images": IMAGES.astype(np.float32)},
    "channels first": {"images": IMAGES.transpose(0, 3, 1, 2)},
    "latents of PyTorch": {"latents": LATENTS[:, :, None, None].astype(np.float64)},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_table_has_the_same_pairs_in_every_form(tmp_path, form):
    table = load_pairs(write_pairs(tmp_path / "a.npz"))
    other = load_pairs(write_pairs(tmp_path / "b.npz", **FORMS[form]))
    np.testing.assert_allclose(table.sample(seed=1, n=50), other.sample(seed=1, n=50), atol=1e-6)
    np.testing.assert_allclose(other.variables["latents"], LATENTS)
    assert (table.image_size, table.channels, table.latent_dim) == (SIZE, 3, LATENT)


@pytest.mark.slow
def test_a_student_is_compared_on_the_latents_of_the_rows(tmp_path):
    teacher = load_pairs(write_pairs(tmp_path / "pairs.npz"))
    module = DCGANGenerator(1, SIZE, 3, LATENT, conv_impl="matmul")
    latents = sampling.sample_latents(2, 8, LATENT)
    student = TrainedGenerator(module, module.init(jax.random.key(0), latents, train=True))
    rows = pair_table.take_rows(student, teacher)
    images = sampling.sample_images(*rows, latents)
    expected = sampling.sample_images(
        *student, teacher.module.row_latents(teacher.variables, latents)
    )
    np.testing.assert_allclose(images, expected, atol=1e-6)
    assert pair_table.take_rows(student, student) is student


def test_latents_that_are_no_normal_numbers_are_noticed(tmp_path):
    assert has_normal_latents(load_pairs(write_pairs(tmp_path / "a.npz")))
    uniform = np.random.default_rng(0).uniform(-1, 1, (COUNT, LATENT))
    assert not has_normal_latents(load_pairs(write_pairs(tmp_path / "b.npz", latents=uniform)))


def test_of_two_pairs_one_is_trained_on_and_the_other_scored_on(tmp_path):
    table = load_pairs(write_pairs(tmp_path / "a.npz", latents=LATENTS[:2], images=IMAGES[:2]))
    assert (table.module.train_count, table.module.test_count) == (1, 1)


def change(array: np.ndarray, value: float) -> np.ndarray:
    copy = array.astype(np.float32)
    copy[3, 0] = value
    return copy


WRONG = {
    "no images": ({"images": None}, "has no array images; a file of pairs has latents [n, z] and"),
    "other names": ({"latents": None, "z": LATENTS}, "has no array latents; "),
    "counts": ({"latents": LATENTS[:7]}, "has 7 latents and 40 images"),
    "not finite": (
        {"latents": change(LATENTS, np.nan)},
        "latents holds values that are not finite",
    ),
    "no squares": ({"images": IMAGES[:, :8]}, "images (40, 8, 16, 3); a file of pairs has latents"),
    "flat latents": ({"latents": LATENTS[:, 0]}, "has latents (40,) and images"),
    "no pairs": ({"latents": LATENTS[:0], "images": IMAGES[:0]}, "has latents (0, 3) and images"),
    "one pair": (
        {"latents": LATENTS[:1], "images": IMAGES[:1]},
        "has one pair; two or more are needed",
    ),
    "range": (
        {"images": change(IMAGES / 127.5 - 1, 2.5)},
        "images are in -1..2.5; they must be in",
    ),
    "objects": ({"images": np.array([None])}, "cannot be read: "),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, name):
    changes, message = WRONG[name]
    path = write_pairs(tmp_path / "pairs.npz", **changes)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        load_pairs(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_missing_or_a_range_that_is_unknown_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"none\.npz does not exist"):
        load_pairs(tmp_path / "none.npz")
    path = write_pairs(tmp_path / "pairs.npz")
    with pytest.raises(UserError, match=r"the value range is '0-1'; it can be -1..1, 0..1, 0..255"):
        load_pairs(path, "0-1")
    assert jnp.asarray(load_pairs(path, "0..255").variables["images"]).dtype == jnp.uint8

"""Scores of real images and of generators, whose images are known."""

import dataclasses
import importlib.metadata
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from gankd_jax.data.loading import ImageSplit, load_split
from gankd_jax.evaluation import inference, scoring
from gankd_jax.evaluation.classifier import EvalClassifier, load_or_train_classifier
from gankd_jax.metrics import feature_stats
from gankd_jax.metrics.fid import frechet_distance
from gankd_jax.metrics.inception_score import inception_score
from gankd_jax.metrics.sharpness import variance_of_laplacian
from gankd_jax.models import sampling
from gankd_jax.models.dcgan import DCGANGenerator
from gankd_jax.utils import preemption

LATENT = 9


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> tuple[ImageSplit, ImageSplit, EvalClassifier]:
    """Training and test digits, and their judge."""
    data_dir = tiny.data(tiny.shared(tmp_path_factory))
    sizes = {"data_dir": data_dir, "image_size": 16, "pad": 1}
    train, test = (load_split("digits", split, **sizes) for split in ("train", "test"))
    return train, test, load_or_train_classifier(train, test, data_dir / "gankd_cache")


@pytest.fixture(scope="module")
def drawer() -> sampling.TrainedGenerator:
    generator = DCGANGenerator(width=2, image_size=16, channels=1, latent_dim=LATENT)
    blank = jnp.zeros((2, LATENT))
    return sampling.TrainedGenerator(
        generator, generator.init(jax.random.key(0), blank, train=False)
    )


def constant(value: float) -> sampling.TrainedGenerator:
    """A generator whose images are of one colour."""
    generator = DCGANGenerator(width=1, image_size=16, channels=1, latent_dim=LATENT, norm="none")
    tree = generator.init(jax.random.key(0), jnp.zeros((2, LATENT)), train=False)
    tree = jax.tree.map(jnp.zeros_like, tree)
    tree["params"]["layer2"]["bias"] = jnp.full(1, np.arctanh(value), jnp.float32)
    return sampling.TrainedGenerator(generator, tree)


def drawn(drawer: sampling.TrainedGenerator, seed: int, count: int, size: int) -> np.ndarray:
    return np.concatenate(
        list(inference.sample_batches(drawer, seed, count=count, batch_size=size))
    )


def test_the_scores_of_real_images_are_the_metrics_of_all_at_once(digits):
    train, test, judged = digits
    extractor = judged.make_extractor(50)
    reference = feature_stats.compute_stats(
        inference.iterate_batches(train.pixels, 300), extractor, count=len(train.pixels)
    )
    batches = lambda: inference.iterate_batches(test.pixels, 50)  # noqa: E731
    found = scoring.compute_scores(batches, [(extractor, reference)], count=359)
    logits, own = (np.asarray(x, np.float64) for x in judged(np.asarray(test.pixels)))
    theirs = np.asarray(judged(np.asarray(train.pixels))[1], np.float64)
    mean, deviation = inception_score(logits)
    distance = frechet_distance(own.mean(0), np.cov(own.T), theirs.mean(0), np.cov(theirs.T))
    expected = {
        "sharpness": variance_of_laplacian(np.asarray(test.pixels)).mean(),
        "inception_score": mean,
        "inception_score_sd": deviation,
        "fd_classifier": distance,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert found.keys() > expected.keys()


def test_without_a_network_there_is_the_sharpness(digits):
    pixels = digits[1].pixels
    found = scoring.compute_scores(
        lambda: inference.iterate_batches(pixels, 100), [], count=len(pixels)
    )
    assert found == {"sharpness": pytest.approx(variance_of_laplacian(np.asarray(pixels)).mean())}


def test_batches_hold_every_image_once():
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 1), np.uint8)
    parts = list(inference.iterate_batches(images, 4))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert np.array_equal(np.concatenate(parts), images)


def test_as_many_images_are_drawn_as_are_asked_for(drawer):
    eight = drawn(drawer, 3, 8, 4)
    assert eight.shape == (8, 16, 16, 1)
    assert np.array_equal(drawn(drawer, 3, 7, 4), eight[:7])
    assert len(np.unique(eight, axis=0)) == 8


def test_seed_and_batch_size_make_the_images(drawer):
    assert np.array_equal(drawn(drawer, 3, 8, 4), drawn(drawer, 3, 8, 4))
    assert not np.array_equal(drawn(drawer, 3, 8, 4), drawn(drawer, 4, 8, 4))


@pytest.mark.parametrize("count", [4, 7])
def test_the_pixel_error_is_the_mean_square(count):
    sizes = {"count": count, "batch_size": 4}
    students = [constant(0.5), constant(-0.25), constant(0.25)]
    found = scoring.pixel_errors(students, constant(-0.25), 0, **sizes)
    assert found == pytest.approx([0.75**2, 0, 0.5**2], rel=1e-5)


def test_the_pixel_error_is_taken_on_the_latents_that_are_drawn(drawer):
    images = drawn(drawer, 3, 7, 4).astype(np.float64) / 127.5 - 1
    [found] = scoring.pixel_errors([drawer], constant(0.5), 3, count=7, batch_size=4)
    assert found == pytest.approx(((images - 0.5) ** 2).mean(), abs=2 / 255)
    [other] = scoring.pixel_errors([drawer], constant(0.5), 4, count=7, batch_size=4)
    assert other != found


def test_the_pictures_of_a_report_are_of_the_shared_latents(drawer):
    found = scoring.report_samples(drawer)
    assert found["grid"].shape == (64, 16, 16, 1)
    assert found["interpolation"].shape == (4, 8, 16, 16, 1)
    generator, variables = drawer
    paths = sampling.interpolation_latents(LATENT).reshape(4, 8, LATENT)
    ends = sampling.to_uint8(sampling.sample_images(generator, variables, paths[:, 0]))
    difference = np.abs(found["interpolation"][:, 0].astype(int) - ends)
    assert difference.max() <= 1  # rounding may differ with the batch


def corners() -> feature_stats.FeatureExtractor:
    """A network whose features are an image's first two pixels."""
    return feature_stats.FeatureExtractor(
        name="corners",
        description="",
        extract=lambda images: {"pixels": images[:, 0, :2, 0].astype(np.float32)},
        fd_layers=("pixels",),
        pair_layer="pixels",
        logit_layer=None,
        batch_size=3,
    )


def with_corners(*pairs: tuple[int, int]) -> np.ndarray:
    images = np.zeros((len(pairs), 4, 4, 1), np.uint8)
    images[:, 0, :2, 0] = pairs
    return images


def test_the_nearest_training_images_by_hand():
    train = with_corners((0, 0), (10, 0), (0, 200), (90, 90))
    known = scoring.extract_features(train, corners())
    assert known.shape == (4, 2)
    drawn = with_corners((3, 4), (10, 1), (90, 78), (0, 200))
    found = scoring.nearest_neighbours(drawn, corners(), known, reference_images=train)
    np.testing.assert_allclose(found["distances"], [5, 1, 12, 0])
    assert found["closest"].tolist() == [3, 1, 0, 2]  # a copy first
    np.testing.assert_array_equal(found["nearest"], train[[2, 1, 0, 3]])


def test_of_many_images_the_closest_pairs_are_kept():
    train = with_corners((0, 0), (255, 255))
    drawn = with_corners(*((20 - k, 0) for k in range(20)))
    known = scoring.extract_features(train, corners())
    found = scoring.nearest_neighbours(drawn, corners(), known, reference_images=train)
    assert found["closest"].tolist() == list(range(19, 11, -1))
    assert found["nearest"].shape == (8, 4, 4, 1)


def test_folded_weights_draw_the_grid(drawer):
    arrays = scoring.folded_arrays(drawer)
    plain = dataclasses.replace(drawer.module, norm="none")
    params = {
        f"layer{k}": {"kernel": arrays[f"kernel{k}"], "bias": arrays[f"bias{k}"]} for k in range(3)
    }
    images = sampling.to_uint8(sampling.sample_images(plain, {"params": params}, arrays["latents"]))
    difference = np.abs(images.astype(int) - scoring.report_samples(drawer)["grid"])
    assert images.std() > 0
    assert difference.max() <= 1


def test_versions_are_those_that_are_installed():
    found = scoring.library_versions()
    assert found["jax"] == jax.__version__
    assert found["numpy"] == np.__version__
    assert found["gankd-jax"] == importlib.metadata.version("gankd-jax")
    assert found["backend"] == jax.default_backend()


def test_a_signal_is_heeded_at_the_next_batch(drawer, monkeypatch):
    signals: list[int] = []
    monkeypatch.setattr(preemption, "_signals", signals)
    batches = [
        inference.sample_batches(drawer, 0, count=40, batch_size=20),
        inference.iterate_batches(np.zeros((40, 16, 16, 1), np.uint8), 20),
    ]
    assert [len(next(each)) for each in batches] == [20, 20]
    signals.append(signal.SIGTERM)
    for each in batches:
        with pytest.raises(preemption.Preempted):
            next(each)
    with pytest.raises(preemption.Preempted):
        scoring.pixel_errors([drawer], drawer, 0, count=40, batch_size=20)

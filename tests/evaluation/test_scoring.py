"""Scores, pixel errors, samples and nearest neighbours, for images that are known."""

import dataclasses
import functools
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from gankd_jax.data.loading import ImageSplit, load_split
from gankd_jax.evaluation import inference, scoring
from gankd_jax.evaluation.classifier import EvalClassifier, load_or_train_classifier
from gankd_jax.interop.external_generator import load_external
from gankd_jax.metrics import feature_stats
from gankd_jax.metrics.fid import frechet_distance
from gankd_jax.metrics.inception_score import inception_score
from gankd_jax.metrics.sharpness import variance_of_laplacian
from gankd_jax.models import sampling
from gankd_jax.models.dcgan import DCGANGenerator
from gankd_jax.models.resnet import ResNetGenerator
from gankd_jax.models.sampling import TrainedGenerator
from gankd_jax.utils import VERSION, preemption
from gankd_jax.utils.errors import UserError

LATENT = 9


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> tuple[ImageSplit, ImageSplit, EvalClassifier]:
    """Training and test digits, and their classifier."""
    data_dir = tiny.prepare_data(tiny.session_dir(tmp_path_factory))
    sizes = {"data_dir": data_dir, "image_size": 16, "pad": 1}
    train, test = (load_split("digits", split, **sizes) for split in ("train", "test"))
    return train, test, load_or_train_classifier(train, test, data_dir / "gankd_cache")


@pytest.fixture(scope="module")
def generator() -> sampling.TrainedGenerator:
    module = DCGANGenerator(width=2, image_size=16, channels=1, latent_dim=LATENT)
    latents = jnp.zeros((2, LATENT))
    return sampling.TrainedGenerator(module, module.init(jax.random.key(0), latents, train=False))


def constant_generator(value: float) -> sampling.TrainedGenerator:
    """Returns a generator whose images have one grey level."""
    module = DCGANGenerator(width=1, image_size=16, channels=1, latent_dim=LATENT, norm="none")
    variables = module.init(jax.random.key(0), jnp.zeros((2, LATENT)), train=False)
    variables = jax.tree.map(jnp.zeros_like, variables)
    variables["params"]["layer2"]["bias"] = jnp.full(1, np.arctanh(value), jnp.float32)
    return sampling.TrainedGenerator(module, variables)


def sample_images(
    generator: sampling.TrainedGenerator, seed: int, count: int, batch_size: int
) -> np.ndarray:
    batches = inference.sample_batches(generator, seed, count=count, batch_size=batch_size)
    return np.concatenate(list(batches))


def test_scores_of_real_images_equal_the_metrics_of_all_features(digits):
    train, test, classifier = digits
    extractor = classifier.make_extractor(50)
    reference = feature_stats.compute_stats(
        inference.iterate_batches(train.pixels, 300), extractor, count=len(train.pixels)
    )
    batches = functools.partial(inference.iterate_batches, test.pixels, 50)
    result = scoring.compute_scores(batches, [(extractor, reference)], count=359)
    scores = result.values
    logits, features = (np.asarray(x, np.float64) for x in classifier(np.asarray(test.pixels)))
    train_features = np.asarray(classifier(np.asarray(train.pixels))[1], np.float64)
    mean, deviation = inception_score(logits)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(result.class_shares, probabilities.mean(axis=0), rtol=1e-5)
    moments = [m for x in (features, train_features) for m in (x.mean(0), np.cov(x.T))]
    expected = {
        "sharpness": variance_of_laplacian(np.asarray(test.pixels)).mean(),
        "inception_score": mean,
        "inception_score_sd": deviation,
        "fd_classifier": frechet_distance(*moments),
    }
    assert {name: scores[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert scores.keys() > expected.keys()


def test_sharpness_is_the_only_score_without_a_network(digits):
    pixels = digits[1].pixels
    batches = functools.partial(inference.iterate_batches, pixels, 100)
    result = scoring.compute_scores(batches, [], count=len(pixels))
    assert result.class_shares == ()
    assert result.values == {
        "sharpness": pytest.approx(variance_of_laplacian(np.asarray(pixels)).mean())
    }


def test_batches_contain_every_image_once():
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 1), np.uint8)
    batches = list(inference.iterate_batches(images, 4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert np.array_equal(np.concatenate(batches), images)


def test_count_of_samples_may_end_within_a_batch(generator):
    images = sample_images(generator, 3, 8, 4)
    assert images.shape == (8, 16, 16, 1)
    assert np.array_equal(sample_images(generator, 3, 7, 4), images[:7])
    assert len(np.unique(images, axis=0)) == 8


def test_samples_are_a_function_of_the_seed(generator):
    assert np.array_equal(sample_images(generator, 3, 8, 4), sample_images(generator, 3, 8, 4))
    assert not np.array_equal(sample_images(generator, 3, 8, 4), sample_images(generator, 4, 8, 4))


@pytest.mark.parametrize("count", [4, 7])
def test_pixel_error_is_the_mean_square_difference(count):
    sizes = {"count": count, "batch_size": 4}
    students = [constant_generator(0.5), constant_generator(-0.25), constant_generator(0.25)]
    errors = scoring.pixel_errors(students, constant_generator(-0.25), 0, **sizes)
    assert errors == pytest.approx([0.75**2, 0, 0.5**2], rel=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_that_are_not_finite_are_never_scored(generator, value):
    """As 0..255 they would look like any others, black or white."""
    damaged = sampling.TrainedGenerator(
        generator.module, jax.tree.map(lambda x: x * value, generator.variables)
    )
    with pytest.raises(UserError, match="the generator's images are not finite"):
        sample_images(damaged, 0, 4, 4)
    with pytest.raises(UserError, match="the score pixel_error is nan"):
        scoring.pixel_errors([damaged], generator, 0, count=4, batch_size=4)


def test_features_beyond_float16_are_refused_for_neighbours():
    def extract(images: np.ndarray) -> dict[str, np.ndarray]:
        return {"4": np.full((len(images), 4), 1e6, np.float32)}

    extractor = feature_stats.FeatureExtractor("large", "", extract, ("4",), "4", None, 8)
    with np.errstate(over="ignore"), pytest.raises(UserError, match="not finite"):
        scoring.extract_features(np.zeros((9, 4, 4, 1), np.uint8), extractor)


def test_pixel_error_is_measured_on_the_latents_of_the_seed(generator):
    images = sample_images(generator, 3, 7, 4).astype(np.float64) / 127.5 - 1
    [error] = scoring.pixel_errors([generator], constant_generator(0.5), 3, count=7, batch_size=4)
    assert error == pytest.approx(((images - 0.5) ** 2).mean(), abs=2 / 255)
    [other_error] = scoring.pixel_errors(
        [generator], constant_generator(0.5), 4, count=7, batch_size=4
    )
    assert other_error != error


def test_report_samples_are_of_the_shared_latents(generator):
    samples = scoring.report_samples(generator)
    assert samples["grid"].shape == (64, 16, 16, 1)
    assert samples["interpolation"].shape == (4, 8, 16, 16, 1)
    paths = sampling.interpolation_latents(LATENT).reshape(4, 8, LATENT)
    ends = sampling.to_uint8(sampling.sample_images(*generator, paths[:, 0]))
    difference = np.abs(samples["interpolation"][:, 0].astype(int) - ends)
    assert difference.max() <= 1  # rounding may differ with the batch size


def corner_extractor() -> feature_stats.FeatureExtractor:
    """Returns a network whose features are the first two pixels of an image."""
    return feature_stats.FeatureExtractor(
        name="corners",
        description="",
        extract=lambda images: {"pixels": images[:, 0, :2, 0].astype(np.float32)},
        fd_layers=("pixels",),
        pair_layer="pixels",
        logit_layer=None,
        batch_size=3,
    )


def images_with_corners(*pairs: tuple[int, int]) -> np.ndarray:
    images = np.zeros((len(pairs), 4, 4, 1), np.uint8)
    images[:, 0, :2, 0] = pairs
    return images


def test_nearest_training_images_equal_those_by_hand():
    train = images_with_corners((0, 0), (10, 0), (0, 200), (90, 90))
    train_features = scoring.extract_features(train, corner_extractor())
    assert train_features.shape == (4, 2)
    images = images_with_corners((3, 4), (10, 1), (90, 78), (0, 200))
    neighbours = scoring.nearest_neighbours(
        images, corner_extractor(), train_features, reference_images=train
    )
    np.testing.assert_allclose(neighbours["distances"], [5, 1, 12, 0])
    assert neighbours["closest"].tolist() == [3, 1, 0, 2]  # the copy first
    np.testing.assert_array_equal(neighbours["nearest"], train[[2, 1, 0, 3]])


def test_only_the_closest_pairs_are_returned():
    train = images_with_corners((0, 0), (255, 255))
    images = images_with_corners(*((20 - k, 0) for k in range(20)))
    train_features = scoring.extract_features(train, corner_extractor())
    neighbours = scoring.nearest_neighbours(
        images, corner_extractor(), train_features, reference_images=train
    )
    assert neighbours["closest"].tolist() == list(range(19, 11, -1))
    assert neighbours["nearest"].shape == (8, 4, 4, 1)


def test_folded_weights_reproduce_the_grid(generator):
    arrays = scoring.folded_arrays(generator)
    module = dataclasses.replace(generator.module, norm="none")
    params = {
        f"layer{k}": {"kernel": arrays[f"kernel{k}"], "bias": arrays[f"bias{k}"]} for k in range(3)
    }
    images = sampling.to_uint8(
        sampling.sample_images(module, {"params": params}, arrays["latents"])
    )
    difference = np.abs(images.astype(int) - scoring.report_samples(generator)["grid"])
    assert images.std() > 0
    assert difference.max() <= 1


def test_layers_that_no_page_knows_are_not_among_the_arrays():
    module = ResNetGenerator(1, 32, 1, latent_dim=3)
    variables = module.init(jax.random.key(0), jnp.zeros((2, 3)), train=False)
    assert sorted(scoring.folded_arrays(TrainedGenerator(module, variables))) == ["latents"]


def test_library_versions_are_the_installed_ones():
    versions = scoring.library_versions()
    assert versions["jax"] == jax.__version__
    assert versions["numpy"] == np.__version__
    assert versions["gankd-jax"] == VERSION
    assert versions["backend"] == jax.default_backend()


def test_signal_stops_iteration_at_the_next_batch(generator, monkeypatch):
    signals: list[int] = []
    monkeypatch.setattr(preemption, "_signals", signals)
    iterators = [
        inference.sample_batches(generator, 0, count=40, batch_size=20),
        inference.iterate_batches(np.zeros((40, 16, 16, 1), np.uint8), 20),
    ]
    assert [len(next(batches)) for batches in iterators] == [20, 20]
    signals.append(signal.SIGTERM)
    for batches in iterators:
        with pytest.raises(preemption.Preempted):
            next(batches)
    with pytest.raises(preemption.Preempted):
        scoring.pixel_errors([generator], generator, 0, count=40, batch_size=20)


def test_path_length_of_a_linear_generator_is_the_square_of_its_velocity():
    rng, count, seed = np.random.default_rng(0), 30, 11
    weights = rng.normal(0, 0.1, (4, 16 * 16)).astype(np.float32)
    generator = load_external(lambda z: (z @ weights).reshape(-1, 1, 16, 16), latent_dim=4)
    mixing = rng.normal(0, 0.1, (16 * 16, 3))

    def extract(images):
        assert images.dtype == np.float32  # whole numbers would hide the step
        return {"linear": images.reshape(len(images), -1) @ mixing}

    extractor = feature_stats.FeatureExtractor("l", "l", extract, ("linear",), "linear", None, 8)
    scores = scoring.path_length(generator, extractor, seed, count=count)
    ends = np.asarray(sampling.sample_latents(seed, 2 * count, 4), np.float64)
    starts, stops = ends[:count], ends[count:]
    units = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (starts, stops)]
    angle = np.arccos((units[0] * units[1]).sum(axis=1, keepdims=True))
    place = np.random.default_rng(seed).uniform(size=count)[:, None]
    velocity = np.cos(place * angle) * stops - np.cos((1 - place) * angle) * starts
    velocity *= angle / np.sin(angle)
    squares = np.square(127.5 * velocity @ weights @ mixing).sum(axis=1)
    assert scores == {"ppl_linear": pytest.approx(squares.mean(), rel=1e-2)}

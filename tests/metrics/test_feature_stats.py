"""Statistics from batches give the metrics of all features at once, in bounded memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from torch_references import import_reference

from gankd_jax.evaluation.inception import inception_features
from gankd_jax.metrics import feature_stats
from gankd_jax.metrics.feature_stats import (
    FeatureExtractor,
    compare_stats,
    compute_stats,
    single_set_scores,
)
from gankd_jax.metrics.fid import Moments, frechet_from_moments
from gankd_jax.metrics.inception_score import inception_score
from gankd_jax.metrics.kid import kernel_distance
from gankd_jax.metrics.prdc import prdc_scores
from gankd_jax.metrics.sharpness import variance_of_laplacian
from gankd_jax.models.inception import parameter_shapes
from gankd_jax.utils.errors import UserError


def random_images(seed: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 200 + 10 * seed, (n, 6, 5, 1)).astype(np.uint8)


def extract(x: np.ndarray) -> dict[str, np.ndarray]:
    """Three layers of fixed random projections, in multiples of 1/2048: exact in any batch."""
    flat = x.reshape(len(x), -1).astype(np.float32) / 256
    matrix = np.random.default_rng(9).integers(-16, 17, (30, 12)).astype(np.float32) / 8
    return {"8": flat @ matrix[:, :8], "2048": flat @ matrix, "logits": 3 * flat @ matrix[:, 2:7]}


def make_extractor(**changes: Any) -> FeatureExtractor:
    layers = {
        "fd_layers": ("8", "2048"),
        "pair_layer": "2048",
        "logit_layer": "logits",
        "batch_size": 16,
    }
    return FeatureExtractor(
        **({"name": "test", "description": "projections", "extract": extract} | layers | changes)
    )


def iterate_batches(pixels: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for first in range(0, len(pixels), size):
        yield pixels[first : first + size]


def test_scores_from_batches_equal_the_metrics_of_all_features() -> None:
    fake, real = random_images(0, 53), random_images(1, 47)
    stats = [
        compute_stats(iterate_batches(x, 10), make_extractor(), count=len(x)) for x in (fake, real)
    ]
    fake_features, real_features = extract(fake), extract(real)

    single_scores = single_set_scores(stats[0])
    mean, deviation = inception_score(fake_features["logits"])
    assert single_scores == {
        "sharpness": pytest.approx(variance_of_laplacian(fake).mean(), rel=1e-12),
        "inception_score": pytest.approx(mean, rel=1e-9),
        "inception_score_sd": pytest.approx(deviation, rel=1e-6),
    }

    scores = compare_stats(*stats)
    kid, kid_sd = kernel_distance(fake_features["2048"], real_features["2048"], subset_size=47)
    expected = prdc_scores(fake_features["2048"], real_features["2048"]) | {
        "kid": kid,
        "kid_sd": kid_sd,
    }
    assert {k: scores[k] for k in expected} == pytest.approx(expected, rel=1e-9)
    assert set(scores) == {*expected, "fd_8", "fid"}


def test_frechet_distances_equal_torch_fidelity() -> None:
    torch = import_reference("torch")
    metric_fid = import_reference("torch_fidelity.metric_fid")
    fake, real = random_images(0, 80), random_images(1, 90)
    scores = compare_stats(
        *(
            compute_stats(iterate_batches(x, 16), make_extractor(), count=len(x))
            for x in (fake, real)
        )
    )
    for layer, name in (("8", "fd_8"), ("2048", "fid")):
        statistics = [
            metric_fid.fid_features_to_statistics(torch.tensor(extract(x)[layer]).double())
            for x in (fake, real)
        ]
        expected = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
        assert scores[name] == pytest.approx(expected["frechet_inception_distance"], rel=1e-6)


def test_distance_of_equal_sets_is_zero_and_precision_one() -> None:
    stats = compute_stats([random_images(0, 40)], make_extractor(), count=40)
    scores = compare_stats(stats, stats)
    assert max(scores["fid"], scores["fd_8"]) < 1e-6
    assert (scores["precision"], scores["recall"], scores["coverage"]) == (1, 1, 1)


def test_keys_of_other_layers_end_with_the_layer() -> None:
    stats = compute_stats(
        [random_images(0, 40)],
        make_extractor(fd_layers=("8",), pair_layer="8", logit_layer=None),
        count=40,
    )
    assert set(single_set_scores(stats)) == {"sharpness"}
    assert set(compare_stats(stats, stats)) == {"fd_8"} | {
        f"{name}_8" for name in ("kid", "kid_sd", "precision", "recall", "density", "coverage")
    }


def test_a_random_subset_of_features_is_stored_of_large_sets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feature_stats, "MAX_FEATURES", 20)
    pixels = random_images(0, 100)
    stored = compute_stats(iterate_batches(pixels, 30), make_extractor(), count=100).features[
        "2048"
    ]
    features = extract(pixels)["2048"]
    indices = [int(np.abs(features - row).sum(1).argmin()) for row in stored]
    assert len(set(indices)) == 20
    assert indices == sorted(indices)
    assert min(indices) < 30 < 70 < max(indices)
    np.testing.assert_allclose(features[indices], stored, rtol=1e-5)


def test_wrong_count_raises() -> None:
    with pytest.raises(ValueError, match="20 images instead of 21"):
        compute_stats([random_images(0, 20)], make_extractor(), count=21)


@pytest.mark.parametrize("count", [2, 5, 6, 9, 10])
def test_small_sets_have_the_scores_that_their_size_allows(count: int) -> None:
    """Two images have distances, six have neighbours, ten have the splits of Inception Score."""
    small = compute_stats([random_images(0, count)], make_extractor(), count=count)
    real = compute_stats([random_images(1, 20)], make_extractor(), count=20)
    neighbour_scores = {"precision", "recall", "density", "coverage"} if count > 5 else set()
    assert set(compare_stats(small, real)) == {"fd_8", "fid", "kid", "kid_sd"} | neighbour_scores
    assert ("inception_score" in single_set_scores(small)) == (count >= 10)
    features = extract(random_images(0, count)), extract(random_images(1, 20))
    moments = [Moments.of(layers["2048"]) for layers in features]
    assert compare_stats(small, real)["fid"] == frechet_from_moments(*moments)


def test_features_that_are_not_finite_raise_user_error() -> None:
    def extract_nan(images: np.ndarray) -> dict[str, np.ndarray]:
        return {layer: np.full((len(images), 3), np.nan) for layer in ("8", "2048", "logits")}

    with pytest.raises(UserError, match="not finite"):
        compute_stats([random_images(0, 20)], make_extractor(extract=extract_nan), count=20)


def test_inception_features_do_not_depend_on_the_batch_size() -> None:
    rng = np.random.default_rng(0)
    params = {
        name: {part: rng.normal(0, 0.1, shape).astype(np.float32) for part, shape in parts.items()}
        for name, parts in parameter_shapes(["64"]).items()
    }
    pixels = rng.integers(0, 256, (5, 9, 7, 3)).astype(np.uint8)
    expected = inception_features(params, ["64"], batch_size=5)(pixels)["64"]
    padded = inception_features(params, ["64"], batch_size=2)(pixels)["64"]
    assert padded.shape == (5, 64)
    np.testing.assert_allclose(np.asarray(padded), np.asarray(expected), rtol=1e-4, atol=1e-5)
    grey = inception_features(params, ["64"], batch_size=2)
    np.testing.assert_allclose(
        np.asarray(grey(pixels[..., :1])["64"]),
        np.asarray(grey(np.repeat(pixels[..., :1], 3, axis=3))["64"]),
        rtol=1e-6,
    )


def test_cached_sums_of_the_reference_set_serve_sets_of_any_size() -> None:
    real = compute_stats(iterate_batches(random_images(1, 47), 10), make_extractor(), count=47)
    for count in (41, 60, 41):
        fake = compute_stats(
            iterate_batches(random_images(count % 3, count), 10), make_extractor(), count=count
        )
        scores = compare_stats(fake, real)
        features = fake.features["2048"], real.features["2048"]
        mean, deviation = kernel_distance(*features, subset_size=min(count, 47))
        expected = prdc_scores(*features) | {"kid": mean, "kid_sd": deviation}
        assert {name: scores[name] for name in expected} == expected


def test_the_next_batch_is_dispatched_before_a_result_is_used():
    events = []
    for batch, result in feature_stats.compute_one_ahead(
        [1, 2, 3], lambda batch: events.append(f"dispatch {batch}") or 10 * batch
    ):
        events.append(f"use {batch}, {result}")
    assert events == [
        *("dispatch 1", "dispatch 2", "use 1, 10"),
        *("dispatch 3", "use 2, 20", "use 3, 30"),
    ]
    assert list(feature_stats.compute_one_ahead([], float)) == []

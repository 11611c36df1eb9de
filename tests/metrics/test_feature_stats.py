"""One pass over images: equal to the scores of all features at once, in bounded memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from torch_references import reference

from gankd_jax.evaluation.inception import inception_features
from gankd_jax.metrics import feature_stats
from gankd_jax.metrics.feature_stats import (
    FeatureExtractor,
    compare_stats,
    compute_stats,
    single_set_scores,
)
from gankd_jax.metrics.inception_score import inception_score
from gankd_jax.metrics.kid import kernel_distance
from gankd_jax.metrics.prdc import prdc_scores
from gankd_jax.metrics.sharpness import variance_of_laplacian
from gankd_jax.models.inception import parameter_shapes
from gankd_jax.utils.errors import UserError


def images(seed: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 200 + 10 * seed, (n, 6, 5, 1)).astype(np.uint8)


def network(x: np.ndarray) -> dict[str, np.ndarray]:
    """Three layers of fixed random projections, of whole 256ths: exact, in batches of any size."""
    flat = x.reshape(len(x), -1).astype(np.float32) / 256
    matrix = np.random.default_rng(9).integers(-16, 17, (30, 12)).astype(np.float32) / 8
    return {"8": flat @ matrix[:, :8], "2048": flat @ matrix, "logits": 3 * flat @ matrix[:, 2:7]}


def extractor(**changes: Any) -> FeatureExtractor:
    settings = {
        "fd_layers": ("8", "2048"),
        "pair_layer": "2048",
        "logit_layer": "logits",
        "batch_size": 16,
    }
    return FeatureExtractor(
        name="test", description="projections", extract=network, **{**settings, **changes}
    )


def batches(pixels: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for first in range(0, len(pixels), size):
        yield pixels[first : first + size]


def test_a_pass_in_batches_gives_the_scores_of_everything_at_once() -> None:
    fake, real = images(0, 53), images(1, 47)
    summaries = [compute_stats(batches(x, 10), extractor(), count=len(x)) for x in (fake, real)]
    at_fake, at_real = network(fake), network(real)

    own = single_set_scores(summaries[0])
    mean, deviation = inception_score(at_fake["logits"])
    assert own == {
        "sharpness": pytest.approx(variance_of_laplacian(fake).mean(), rel=1e-12),
        "inception_score": pytest.approx(mean, rel=1e-9),
        "inception_score_sd": pytest.approx(deviation, rel=1e-6),
    }

    found = compare_stats(*summaries)
    kid, kid_sd = kernel_distance(at_fake["2048"], at_real["2048"], subset_size=47)
    expected = prdc_scores(at_fake["2048"], at_real["2048"]) | {"kid": kid, "kid_sd": kid_sd}
    assert {k: found[k] for k in expected} == pytest.approx(expected, rel=1e-9)
    assert set(found) == {*expected, "fd_8", "fid"}


def test_the_distances_are_torch_fidelitys() -> None:
    torch = reference("torch")
    theirs = reference("torch_fidelity.metric_fid")
    fake, real = images(0, 80), images(1, 90)
    found = compare_stats(
        *(compute_stats(batches(x, 16), extractor(), count=len(x)) for x in (fake, real))
    )
    for layer, name in (("8", "fd_8"), ("2048", "fid")):
        statistics = [
            theirs.fid_features_to_statistics(torch.tensor(network(x)[layer]).double())
            for x in (fake, real)
        ]
        expected = theirs.fid_statistics_to_metric(*statistics, verbose=False)
        assert found[name] == pytest.approx(expected["frechet_inception_distance"], rel=1e-6)


def test_a_set_against_itself_is_at_zero() -> None:
    summary = compute_stats([images(0, 40)], extractor(), count=40)
    found = compare_stats(summary, summary)
    assert max(found["fid"], found["fd_8"]) < 1e-6
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)


def test_other_layers_carry_their_names() -> None:
    summary = compute_stats(
        [images(0, 40)], extractor(fd_layers=("8",), pair_layer="8", logit_layer=None), count=40
    )
    assert set(single_set_scores(summary)) == {"sharpness"}
    assert set(compare_stats(summary, summary)) == {"fd_8"} | {
        f"{name}_8" for name in ("kid", "kid_sd", "precision", "recall", "density", "coverage")
    }


def test_features_are_kept_up_to_the_cap_and_from_everywhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feature_stats, "MAX_FEATURES", 20)
    pixels = images(0, 100)
    kept = compute_stats(batches(pixels, 30), extractor(), count=100).features["2048"]
    everything = network(pixels)["2048"]
    places = [int(np.abs(everything - row).sum(1).argmin()) for row in kept]
    assert len(set(places)) == 20
    assert places == sorted(places)
    assert min(places) < 30 < 70 < max(places)
    np.testing.assert_allclose(everything[places], kept, rtol=1e-5)


def test_a_count_that_is_wrong_is_noticed() -> None:
    with pytest.raises(ValueError, match="20 images instead of 21"):
        compute_stats([images(0, 20)], extractor(), count=21)
    with pytest.raises(UserError, match="5 images cannot make 10 splits"):
        compute_stats([images(0, 5)], extractor(), count=5)


def test_inception_features_do_not_depend_on_batches() -> None:
    rng = np.random.default_rng(0)
    params = {
        name: {part: rng.normal(0, 0.1, shape).astype(np.float32) for part, shape in parts.items()}
        for name, parts in parameter_shapes(["64"]).items()
    }
    pixels = rng.integers(0, 256, (5, 9, 7, 3)).astype(np.uint8)
    at_once = inception_features(params, ["64"], batch_size=5)(pixels)["64"]
    padded = inception_features(params, ["64"], batch_size=2)(pixels)["64"]
    assert padded.shape == (5, 64)
    np.testing.assert_allclose(np.asarray(padded), np.asarray(at_once), rtol=1e-4, atol=1e-5)
    grey = inception_features(params, ["64"], batch_size=2)
    np.testing.assert_allclose(
        np.asarray(grey(pixels[..., :1])["64"]),
        np.asarray(grey(np.repeat(pixels[..., :1], 3, axis=3))["64"]),
        rtol=1e-6,
    )


def test_what_is_kept_of_the_real_images_serves_every_other_set() -> None:
    real = compute_stats(batches(images(1, 47), 10), extractor(), count=47)
    for count in (41, 60, 41):
        fake = compute_stats(batches(images(count % 3, count), 10), extractor(), count=count)
        found, theirs, ours = (
            compare_stats(fake, real),
            fake.features["2048"],
            real.features["2048"],
        )
        mean, deviation = kernel_distance(theirs, ours, subset_size=min(count, 47))
        expected = prdc_scores(theirs, ours) | {"kid": mean, "kid_sd": deviation}
        assert {name: found[name] for name in expected} == expected

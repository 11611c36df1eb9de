"""The registered metrics: their keys in score files, labels and order."""

import subprocess
import sys

import numpy as np
import pytest
import tiny

from gankd_jax.metrics import registry
from gankd_jax.metrics.feature_stats import FeatureStats, compare_stats
from gankd_jax.metrics.registry import (
    CLASSIFIER,
    INCEPTION_LAYERS,
    METRICS,
    Metric,
    add_metric,
    get_metric,
    metric_key,
    register_metric,
)
from gankd_jax.models.inception import POOL_LAYERS
from gankd_jax.utils.errors import UserError


def test_every_metric_is_registered_under_its_key_with_a_label():
    for key, metric in METRICS.items():
        assert get_metric(key) is metric
        assert metric.key == key
        assert metric.better in ("higher", "lower", "")
        assert metric.label
        assert metric.about or metric.deviation


def test_unknown_key_gives_a_plain_metric():
    metric = get_metric("my_score")
    assert (metric.title, metric.better, metric.main) == ("my_score", "", False)


@pytest.mark.parametrize(
    ("name", "network", "key"),
    [
        ("frechet_distance", "2048", "fid"),
        ("frechet_distance", "768", "fd_768"),
        ("frechet_distance", "classifier", "fd_classifier"),
        ("kid", "2048", "kid"),
        ("ppl", "2048", "ppl_2048"),
        ("ppl", "classifier", "ppl_classifier"),
        ("kid_sd", "2048", "kid_sd"),
        ("kid_sd", "64", "kid_sd_64"),
        ("precision", "resnet", "precision_resnet"),
        ("inception_score", "classifier", "inception_score"),
        ("inception_score", "resnet", "inception_score_resnet"),
        ("inception_score_sd", "resnet", "inception_score_sd_resnet"),
    ],
)
def test_key_of_a_metric_by_a_network_is_that_of_score_files(name, network, key):
    assert metric_key(name, network) == key
    metric = METRICS[key]
    assert (metric.name, metric.network) == (name, network)
    assert metric.deviation == name.endswith("_sd")


def test_layers_are_those_of_the_inception_network_from_wide_to_narrow():
    assert INCEPTION_LAYERS[::-1] == POOL_LAYERS


def test_main_frechet_distances_are_ordered_from_fid_to_the_second_classifier():
    keys = [m.key for m in METRICS.values() if m.name == registry.FRECHET_DISTANCE and m.main]
    assert keys == ["fid", "fd_1280", "fd_768", "fd_192", "fd_64", "fd_classifier", "fd_resnet"]
    assert [METRICS[key].network for key in keys[:5]] == list(INCEPTION_LAYERS)


def test_title_says_which_way_is_better():
    assert METRICS["fd_64"].title == "Fréchet distance, 64-wide layer (lower is better)"
    assert METRICS["sharpness"].title == "Sharpness (variance of the Laplacian)"
    assert METRICS["precision_classifier"].network == CLASSIFIER


def test_registered_metric_is_found_and_comes_last(monkeypatch):
    monkeypatch.setattr(registry, "METRICS", dict(METRICS))
    metric = add_metric(Metric("lpips", "lpips", better="lower", label="LPIPS"))
    assert get_metric("lpips") is metric
    assert list(registry.METRICS)[-1] == "lpips"


def test_registered_function_is_computed_from_the_features_of_each_network(monkeypatch):
    monkeypatch.setattr(registry, "METRICS", dict(METRICS))
    monkeypatch.setattr(registry, "FEATURE_FUNCTIONS", {})

    @register_metric("offset", better="lower", label="Offset")
    def offset(fake_features, real_features):
        return fake_features.mean() - real_features.mean()

    real = np.random.default_rng(0).normal(size=(20, 3))
    fake_stats, real_stats = (
        FeatureStats(
            count=20,
            sharpness=None,
            moments={},
            features={CLASSIFIER: features},
            inception_score_stats=None,
        )
        for features in (real + 2, real)
    )
    scores = compare_stats(fake_stats, real_stats)
    assert scores["offset_classifier"] == pytest.approx(2)
    assert get_metric("offset_classifier").title == "Offset, classifier features (lower is better)"
    assert get_metric("offset").network == registry.FID_LAYER


# `fd` and `fid` are parts of the Fréchet distance's keys, such as `fd_classifier`.
@pytest.mark.parametrize(
    "name", ["kid", "frechet_distance", "sharpness", "pixel_error", "fd", "fid"]
)
def test_name_of_another_metric_is_refused(name):
    with pytest.raises(UserError, match=f"a metric named {name!r} is registered already"):
        register_metric(name)(lambda fake_features, real_features: 0.0)
    assert name not in registry.FEATURE_FUNCTIONS


def test_registry_does_not_import_jax():
    code = "import sys, gankd_jax.metrics.registry; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tiny.REPO, check=False).returncode == 0

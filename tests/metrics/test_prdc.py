"""Precision, recall, density and coverage: values by hand, torch-fidelity's and prdc's."""

from typing import Any

import numpy as np
import pytest
from torch_references import import_reference

from gankd_jax.metrics import prdc
from gankd_jax.metrics.prdc import prdc_scores
from gankd_jax.utils.errors import UserError


def random_features(seed: int, n: int, f: int = 8, spread: float = 1.0) -> np.ndarray:
    return (spread * np.random.default_rng(seed).normal(size=(n, f))).astype(np.float32)


def test_scores_of_points_on_a_line_equal_the_values_by_hand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prdc, "NEIGHBOURS", (1, 1))
    real = np.array([[0.0], [1.0], [3.0], [7.0]])
    fake = np.array([[2.0], [8.0], [20.0]])
    # Distances to the nearest other point: real 1, 1, 2, 4; fake 6, 6, 12.
    scores = prdc_scores(fake, real)
    assert scores == {
        "precision": 2 / 3,  # 2 is in the balls of 1 (on its edge) and 3, 8 in that of 7
        "recall": 1.0,  # the ball of 2 reaches from -4 to 8
        "density": 2 / 3,  # edges do not count: 2 is in the ball of 3, 8 in that of 7
        "coverage": 2 / 4,  # the balls of 3 and 7 hold a fake
    }


@pytest.mark.parametrize("spread", [0.6, 1.0, 1.5])
def test_precision_and_recall_equal_torch_fidelity(spread: float, parity: Any) -> None:
    torch = import_reference("torch")
    module = import_reference("torch_fidelity.metric_prc")
    real, fake = random_features(0, 300), random_features(1, 250, spread=spread)
    expected = module.calculate_precision_recall_full(torch.tensor(fake), torch.tensor(real))
    scores = prdc_scores(fake, real)
    pairs = zip((scores["precision"], scores["recall"]), expected, strict=True)
    error = max(abs(value / reference_value - 1) for value, reference_value in pairs)
    parity.check("precision and recall, torch-fidelity", error, bound=1e-6)
    assert 0 < scores["recall"] < 1


@pytest.mark.parametrize("spread", [0.6, 1.0, 1.5])
def test_density_and_coverage_equal_the_prdc_package(spread: float, parity: Any) -> None:
    real, fake = random_features(0, 300), random_features(1, 250, spread=spread)
    expected = import_reference("prdc").compute_prdc(
        real_features=real, fake_features=fake, nearest_k=5
    )
    scores = prdc_scores(fake, real)
    error = max(abs(scores[name] / expected[name] - 1) for name in ("density", "coverage"))
    parity.check("density and coverage, prdc", error, bound=1e-6)


def test_scores_do_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = random_features(0, 400), random_features(1, 300)
    expected = prdc_scores(fake, real)
    monkeypatch.setattr(prdc, "WORKING_MEMORY", 0.02)  # MiB: about seven rows a block
    assert prdc_scores(fake, real) == expected


def test_equal_sets_score_one_and_distant_sets_zero() -> None:
    real = random_features(0, 100)
    equal_scores = prdc_scores(real, real)
    assert equal_scores["precision"] == equal_scores["recall"] == equal_scores["coverage"] == 1
    # Each lies in k - 1 balls of others on average, and in its own.
    assert equal_scores["density"] == pytest.approx(1, abs=0.05)
    assert set(prdc_scores(real + 100, real).values()) == {0.0}


def test_too_few_images_raise_user_error() -> None:
    with pytest.raises(UserError, match="5 images in a set; 6 or more"):
        prdc_scores(random_features(0, 5), random_features(1, 9))

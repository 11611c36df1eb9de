"""Precision, recall, density and coverage: by hand, and against torch-fidelity and prdc."""

from typing import Any

import numpy as np
import pytest
from torch_references import reference

from gankd_jax.metrics import prdc
from gankd_jax.metrics.prdc import prdc_scores
from gankd_jax.utils.errors import UserError


def features(seed: int, n: int, f: int = 8, spread: float = 1.0) -> np.ndarray:
    return (spread * np.random.default_rng(seed).normal(size=(n, f))).astype(np.float32)


def test_four_points_on_a_line_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prdc, "NEIGHBOURS", (1, 1))
    real = np.array([[0.0], [1.0], [3.0], [7.0]])
    fake = np.array([[2.0], [8.0], [20.0]])
    # nearest other: real 1, 1, 2, 4; fake 6, 6, 12
    scores = prdc_scores(fake, real)
    assert scores == {
        "precision": 2 / 3,  # 2 lies in the ball of 1 (edge) and of 3, 8 in that of 7
        "recall": 1.0,  # 2's ball reaches from -4 to 8
        "density": 2 / 3,  # inside and not on the edge: 2 in 3's, 8 in 7's
        "coverage": 2 / 4,  # the balls of 3 and of 7
    }


@pytest.mark.parametrize("spread", [0.6, 1.0, 1.5])
def test_precision_and_recall_are_torch_fidelitys(spread: float, parity: Any) -> None:
    torch = reference("torch")
    module = reference("torch_fidelity.metric_prc")
    real, fake = features(0, 300), features(1, 250, spread=spread)
    expected = module.calculate_precision_recall_full(torch.tensor(fake), torch.tensor(real))
    scores = prdc_scores(fake, real)
    pairs = zip((scores["precision"], scores["recall"]), expected, strict=True)
    error = max(abs(ours / theirs - 1) for ours, theirs in pairs)
    parity.check("precision and recall, torch-fidelity", error, bound=1e-6)
    assert 0 < scores["recall"] < 1


@pytest.mark.parametrize("spread", [0.6, 1.0, 1.5])
def test_density_and_coverage_are_prdcs(spread: float, parity: Any) -> None:
    real, fake = features(0, 300), features(1, 250, spread=spread)
    expected = reference("prdc").compute_prdc(real_features=real, fake_features=fake, nearest_k=5)
    scores = prdc_scores(fake, real)
    error = max(abs(scores[name] / expected[name] - 1) for name in ("density", "coverage"))
    parity.check("density and coverage, prdc", error, bound=1e-6)


def test_the_size_of_a_block_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = features(0, 400), features(1, 300)
    whole = prdc_scores(fake, real)
    monkeypatch.setattr(prdc, "WORKING_MEMORY", 0.02)  # some seven rows
    assert prdc_scores(fake, real) == whole


def test_a_set_against_itself_and_against_another_world() -> None:
    real = features(0, 100)
    itself = prdc_scores(real, real)
    assert itself["precision"] == itself["recall"] == itself["coverage"] == 1
    assert itself["density"] == pytest.approx(1, abs=0.05)  # k balls in the mean, and its own
    assert set(prdc_scores(real + 100, real).values()) == {0.0}


def test_too_few_images_are_the_users_mistake() -> None:
    with pytest.raises(UserError, match="more than 5 images"):
        prdc_scores(features(0, 5), features(1, 9))

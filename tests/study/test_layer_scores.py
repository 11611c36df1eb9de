"""Scores at layers of the FID network, which here is a stand-in of known features."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny

from gankd_jax.evaluation import inference
from gankd_jax.interop import inception_weights
from gankd_jax.metrics.feature_stats import FeatureExtractor
from gankd_jax.metrics.fid import frechet_distance
from gankd_jax.report.study_results import load_study
from gankd_jax.study import context, evaluate, plan, runner, workdir
from gankd_jax.study.context import StudyContext
from gankd_jax.utils import atomic_io
from gankd_jax.utils.errors import UserError

RUN = "student-mse-d1-s0"
FEW = {"evaluation__layers": ("64", "192"), "evaluation__layer_samples": 50}


def quarters(images: np.ndarray) -> np.ndarray:
    """The mean of each quarter of an image."""
    n, s = images.shape[:2]
    return images.reshape(n, 2, s // 2, 2, s // 2).mean(axis=(2, 4)).reshape(n, 4)


def rows(images: np.ndarray) -> np.ndarray:
    """The mean of each of three rows."""
    return images[:, 4:13:4, :, 0].mean(axis=2)


@pytest.fixture
def looks(monkeypatch) -> list[int]:
    """In place of the FID network; how many images each look was at."""
    seen: list[int] = []

    def extractor(_: Path, *, layers: tuple[str, ...]) -> FeatureExtractor:
        def features(images: np.ndarray) -> dict[str, np.ndarray]:
            seen.append(len(images))
            return {"64": quarters(np.asarray(images)), "192": rows(np.asarray(images))}

        return FeatureExtractor("stand-in", "a stand-in", features, layers, layers[-1], None, 32)

    monkeypatch.setattr(context, "load_inception_extractor", extractor)
    monkeypatch.setattr(inception_weights, "load_weights", lambda *_: {})
    return seen


@pytest.fixture
def folder(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "study")


def made(root, **changes: object):
    return tiny.config(data__dir=str(tiny.data(root)), **changes)


def test_layer_scores_are_added_to_a_scored_study(root, folder, looks):
    before = tiny.snapshot(folder)
    config = made(root, **FEW)
    found = StudyContext(config, folder)
    assert not workdir.is_done(folder, config, plan.find_run(config, RUN))
    runner.evaluate_study(config, folder)
    new = {
        path
        for path, what in tiny.snapshot(folder).items()
        if what[1] != before.get(path, ("", b""))[1]
    }
    names = [run.name for run in plan.plan_runs(config) if workdir.is_trained(folder, config, run)]
    assert new == {f"{name}/layers.json" for name in [*names, "reference"]}

    scores = atomic_io.read_json(folder / RUN / "layers.json")
    drawer = found.load_generator(plan.find_run(config, RUN))
    drawn = list(inference.sample_batches(drawer, config.evaluation.seed, count=50, batch_size=32))
    fake, train = np.concatenate(drawn), np.asarray(found.train_images.pixels)
    assert scores["made"]["samples"] == scores["made"]["reference_samples"] == 50
    # Which 50 training images are compared with is drawn once; so many are close to all of them.
    for layer, of in (("64", quarters), ("192", rows)):
        moments = [m for x in (fake, train) for m in (of(x).mean(0), np.cov(of(x).T))]
        assert scores["scores"][f"fd_{layer}"] == pytest.approx(frechet_distance(*moments), rel=0.3)

    told = load_study(folder)
    run = next(run for run in told.runs if run.name == RUN)
    assert run.scores["fd_192"] == scores["scores"]["fd_192"]
    assert run.provenance["FID network"]["network"] == "a stand-in"
    assert told.real_scores["fd_192"] < told.teacher.scores["fd_192"]


def test_layer_scores_use_all_images_by_default(root, folder, looks):
    config = made(root, evaluation__layers=("192",))
    found = StudyContext(config, folder)
    run = plan.find_run(config, RUN)
    evaluate.evaluate_inception_layers(found, [run])
    fake = np.concatenate(
        list(
            inference.sample_batches(
                found.load_generator(run), config.evaluation.seed, count=200, batch_size=32
            )
        )
    )
    moments = [
        m
        for x in (fake, np.asarray(found.train_images.pixels))
        for m in (rows(x).mean(0), np.cov(rows(x).T))
    ]
    scores = atomic_io.read_json(folder / RUN / "layers.json")["scores"]
    assert scores["fd_192"] == pytest.approx(frechet_distance(*moments), rel=1e-6)


def test_layer_scores_are_recomputed_only_for_other_layers_or_sample_counts(root, folder, looks):
    run = plan.find_run(made(root), RUN)

    def looked(**changes: object) -> bool:
        config, before = made(root, **(FEW | changes)), len(looks)
        evaluate.evaluate_inception_layers(StudyContext(config, folder), [run])
        assert workdir.is_done(folder, config, run)
        return len(looks) > before

    assert looked()
    assert not looked()
    assert not looked(evaluation__layers=("192",))
    assert not looked(evaluation__layers=())
    assert looked(evaluation__layer_samples=60)
    assert looked(evaluation__layers=("192",))
    assert looked()
    (folder / RUN / "layers.json").write_text("{")
    with pytest.raises(UserError, match=r"layers\.json is damaged .* delete it"):
        looked()


def test_scores_of_further_layers_are_added_to_the_file(root, folder, looks):
    run = plan.find_run(made(root), RUN)
    for layers in (("192",), ("64",)):
        config = made(root, **(FEW | {"evaluation__layers": layers}))
        evaluate.evaluate_inception_layers(StudyContext(config, folder), [run])
    both = atomic_io.read_json(folder / RUN / "layers.json")
    assert both["made"]["layers"] == ["64", "192"]
    (folder / RUN / "layers.json").unlink()
    evaluate.evaluate_inception_layers(StudyContext(made(root, **FEW), folder), [run])
    at_once = atomic_io.read_json(folder / RUN / "layers.json")
    assert both["scores"].items() > at_once["scores"].items()  # and what layer 64 kept by itself


def test_without_labels_the_fid_network_finds_the_nearest_training_images(
    root, folder, looks, monkeypatch
):
    """Samples written before a network was available are written again with their neighbours."""
    config = made(root, **FEW)
    monkeypatch.setattr(StudyContext, "load_or_train_classifiers", lambda _: ())
    blind = StudyContext(made(root), folder)
    evaluate._write_samples(blind, run := plan.find_run(config, RUN), blind.load_generator(run))
    assert "nearest" not in atomic_io.read_npz(folder / RUN / "samples.npz")
    found = StudyContext(config, folder)
    evaluate.evaluate_runs(found, [run])
    kept = atomic_io.read_npz(folder / RUN / "samples.npz")
    train = np.asarray(found.train_images.pixels)
    apart = np.linalg.norm(rows(kept["grid"])[:, None] - rows(train)[None], axis=2)
    np.testing.assert_allclose(kept["distances"], apart.min(axis=1), rtol=2e-3, atol=0.05)
    np.testing.assert_array_equal(kept["nearest"][0], train[apart[kept["closest"][0]].argmin()])

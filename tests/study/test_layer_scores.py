"""Scores at layers of the FID network, here replaced by a network of two known features."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from gankd_jax.evaluation import inference
from gankd_jax.interop import inception_weights
from gankd_jax.metrics.feature_stats import FeatureExtractor
from gankd_jax.metrics.fid import frechet_distance
from gankd_jax.report.study_results import load_study
from gankd_jax.study import context as context_module
from gankd_jax.study import evaluate, plan, runner, workdir
from gankd_jax.study.context import StudyContext
from gankd_jax.utils import atomic_io
from gankd_jax.utils.errors import UserError

RUN = "student-mse-d1-s0"
SMALL = {"evaluation__layers": ("64", "192"), "evaluation__layer_samples": 50}


def average_quarters(images: np.ndarray) -> np.ndarray:
    """Averages each quarter of an image."""
    n, s = images.shape[:2]
    return images.reshape(n, 2, s // 2, 2, s // 2).mean(axis=(2, 4)).reshape(n, 4)


def average_rows(images: np.ndarray) -> np.ndarray:
    """Averages each of three rows of an image."""
    return images[:, 4:13:4, :, 0].mean(axis=2)


@pytest.fixture
def extracted_counts(monkeypatch) -> list[int]:
    """Replaces the FID network; lists how many images each of its calls got."""
    counts: list[int] = []

    def make_extractor(_: Path, *, layers: tuple[str, ...]) -> FeatureExtractor:
        def extract(images: np.ndarray) -> dict[str, np.ndarray]:
            counts.append(len(images))
            return {
                "64": average_quarters(np.asarray(images)),
                "192": average_rows(np.asarray(images)),
            }

        return FeatureExtractor("stand-in", "a stand-in", extract, layers, layers[-1], None, 32)

    monkeypatch.setattr(context_module, "load_inception_extractor", make_extractor)
    monkeypatch.setattr(inception_weights, "load_weights", lambda *_: {})
    return counts


@pytest.fixture
def folder(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "study")


def sample_images(context: StudyContext, run: plan.Run, count: int) -> np.ndarray:
    """Samples the images that the evaluation of a run scores."""
    generator, seed = context.load_generator(run), context.config.evaluation.seed
    batches = inference.sample_batches(generator, seed, count=count, batch_size=32)
    return np.concatenate(list(batches))


def compute_moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes mean and covariance."""
    return features.mean(0), np.cov(features.T)


def make_config(root, **changes: object) -> ConfigDict:
    return tiny.config(data__dir=str(tiny.prepare_data(root)), **changes)


def test_layer_scores_are_added_to_a_scored_study(root, folder, extracted_counts):
    before = tiny.snapshot(folder)
    config = make_config(root, **SMALL)
    context = StudyContext(config, folder)
    assert not workdir.is_done(folder, config, plan.find_run(config, RUN))
    runner.evaluate_study(config, folder)
    changed_files = {
        path
        for path, (_, content) in tiny.snapshot(folder).items()
        if content != before.get(path, ("", b""))[1]
    }
    names = [run.name for run in plan.plan_runs(config) if workdir.is_trained(folder, config, run)]
    logs = {path for path in changed_files if "/tensorboard/" in path}  # one of each run
    assert {path.split("/")[0] for path in logs} == set(names)
    assert changed_files - logs == {f"{name}/layers.json" for name in [*names, "reference"]}

    scores = atomic_io.read_json(folder / RUN / "layers.json")
    fake = sample_images(context, plan.find_run(config, RUN), count=50)
    train = np.asarray(context.train_images.pixels)
    assert scores["made"]["samples"] == scores["made"]["reference_samples"] == 50
    # The program samples 50 training images; their features are close to those of all.
    for layer, extract in (("64", average_quarters), ("192", average_rows)):
        moments = compute_moments(extract(fake)) + compute_moments(extract(train))
        assert scores["scores"][f"fd_{layer}"] == pytest.approx(frechet_distance(*moments), rel=0.3)

    results = load_study(folder)
    run = next(run for run in results.runs if run.name == RUN)
    assert run.scores["fd_192"] == scores["scores"]["fd_192"]
    assert run.provenance["FID network"]["network"] == "a stand-in"
    assert results.real_scores["fd_192"] < results.teacher.scores["fd_192"]


def test_layer_scores_use_all_images_by_default(root, folder, extracted_counts):
    config = make_config(root, evaluation__layers=("192",), evaluation__ppl_samples=12)
    context = StudyContext(config, folder)
    run = plan.find_run(config, RUN)
    evaluate.evaluate_inception_layers(context, [run])
    fake = sample_images(context, run, count=200)
    train = np.asarray(context.train_images.pixels)
    moments = compute_moments(average_rows(fake)) + compute_moments(average_rows(train))
    scores = atomic_io.read_json(folder / RUN / "layers.json")["scores"]
    assert scores["fd_192"] == pytest.approx(frechet_distance(*moments), rel=1e-6)
    assert scores["ppl_192"] > 0
    assert "ppl_192" not in atomic_io.read_json(folder / "reference" / "layers.json")["scores"]


def test_layer_scores_are_recomputed_only_for_other_layers_or_sample_counts(
    root, folder, extracted_counts
):
    run = plan.find_run(make_config(root), RUN)

    def recomputes_scores(**changes: object) -> bool:
        config, before = make_config(root, **(SMALL | changes)), len(extracted_counts)
        evaluate.evaluate_inception_layers(StudyContext(config, folder), [run])
        assert workdir.is_done(folder, config, run)
        return len(extracted_counts) > before

    assert recomputes_scores()
    assert not recomputes_scores()
    assert not recomputes_scores(evaluation__layers=("192",))
    assert not recomputes_scores(evaluation__layers=())
    assert recomputes_scores(evaluation__layer_samples=60)
    assert recomputes_scores(evaluation__layers=("192",))
    assert recomputes_scores()
    (folder / RUN / "layers.json").write_text("{")
    with pytest.raises(UserError, match=r"layers\.json is damaged .* delete it"):
        recomputes_scores()


def test_scores_of_further_layers_are_added_to_the_file(root, folder, extracted_counts):
    run = plan.find_run(make_config(root), RUN)
    for layers in (("192",), ("64",)):
        config = make_config(root, **(SMALL | {"evaluation__layers": layers}))
        evaluate.evaluate_inception_layers(StudyContext(config, folder), [run])
    merged = atomic_io.read_json(folder / RUN / "layers.json")
    assert merged["made"]["layers"] == ["64", "192"]
    (folder / RUN / "layers.json").unlink()
    evaluate.evaluate_inception_layers(StudyContext(make_config(root, **SMALL), folder), [run])
    at_once = atomic_io.read_json(folder / RUN / "layers.json")
    assert merged["scores"].items() > at_once["scores"].items()  # plus those of layer 64 alone


def test_fid_network_finds_nearest_training_images_without_labels(
    root, folder, extracted_counts, monkeypatch
):
    """Samples written before a network was available are written again with their neighbours."""
    config = make_config(root, **SMALL)
    monkeypatch.setattr(StudyContext, "load_or_train_classifiers", lambda _: ())
    run, no_network = plan.find_run(config, RUN), StudyContext(make_config(root), folder)
    evaluate._write_samples(no_network, run, no_network.load_generator(run))
    assert "nearest" not in atomic_io.read_npz(folder / RUN / "samples.npz")
    context = StudyContext(config, folder)
    evaluate.evaluate_runs(context, [run])
    samples = atomic_io.read_npz(folder / RUN / "samples.npz")
    train = np.asarray(context.train_images.pixels)
    distances = np.linalg.norm(
        average_rows(samples["grid"])[:, None] - average_rows(train)[None], axis=2
    )
    np.testing.assert_allclose(samples["distances"], distances.min(axis=1), rtol=2e-3, atol=0.05)
    np.testing.assert_array_equal(
        samples["nearest"][0], train[distances[samples["closest"][0]].argmin()]
    )

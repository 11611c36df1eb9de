"""`gankd score`: folders, statistics files and data sets, end to end."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch_references import import_reference, random_inception_state

import gankd_jax
from gankd_jax.data import image_files
from gankd_jax.evaluation import inception as fid_network
from gankd_jax.evaluation import inference
from gankd_jax.export import pretrained
from gankd_jax.interop import inception_weights
from gankd_jax.metrics import stats_io
from gankd_jax.metrics.feature_stats import FeatureExtractor
from gankd_jax.models.inception import parameter_shapes
from gankd_jax.study import score_images
from gankd_jax.utils.errors import UserError


def extract_channel_moments(x: np.ndarray) -> dict[str, np.ndarray]:
    """Computes two features per channel: its mean and its standard deviation."""
    flat = x.astype(np.float32).reshape(len(x), -1, x.shape[-1]) / 255
    moments = np.concatenate([flat.mean(1), flat.std(1)], axis=1)
    return {"6": moments[:, [0, -1]].repeat(3, axis=1) * [1, 2, 3, 4, 5, 6], "logits": moments * 20}


EXTRACTOR = FeatureExtractor("test-0", "means", extract_channel_moments, ("6",), "6", "logits", 8)


@pytest.fixture
def settings(tmp_path: Path) -> score_images.ScoreSettings:
    return score_images.ScoreSettings(data_dir=tmp_path / "data", image_size=16, pad=0)


def write_images(path: Path, seed: int, *, n: int = 20, size: int = 8) -> Path:
    """Writes random square images, which differ in brightness between seeds."""
    path.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(n):
        pixels = rng.integers(0, 100 + 20 * seed + 5 * i, (size, size, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path / f"{size}-{i:03}.png")
    return path


def test_two_folders_are_scored_and_equal_folders_are_at_distance_zero(
    tmp_path: Path, settings: score_images.ScoreSettings
) -> None:
    a, b = write_images(tmp_path / "a", 0), write_images(tmp_path / "b", 3, n=30)
    result = score_images.score_sources(str(a), str(b), EXTRACTOR, settings)
    assert (result["a"]["images"], result["b"]["images"]) == (20, 30)
    assert result["scores"]["fd_6"] > 1e-3
    assert result["a"]["inception_score"] > 1
    same = score_images.score_sources(str(a), str(a), EXTRACTOR, settings)
    assert same["scores"]["fd_6"] < 1e-6
    assert same["scores"]["precision_6"] == 1


def test_images_of_several_sizes_are_batched_by_shape(
    tmp_path: Path, settings: score_images.ScoreSettings
) -> None:
    path = write_images(write_images(tmp_path / "a", 0, size=8), 1, size=12)
    images = map(image_files.read_image, sorted(path.iterdir()))
    shapes = [batch.shape for batch in score_images.batch_images(images, 8)]
    assert shapes == [(n, size, size, 3) for size in (12, 8) for n in (8, 8, 4)]
    assert score_images.load_source_stats(str(path), EXTRACTOR, settings).count == 40


def test_statistics_file_gives_the_scores_of_its_images(
    tmp_path: Path, settings: score_images.ScoreSettings
) -> None:
    a, b = write_images(tmp_path / "a", 0), write_images(tmp_path / "b", 3)
    expected = score_images.score_sources(str(a), str(b), EXTRACTOR, settings)
    stats_io.write_stats(score_images.load_source_stats(str(b), EXTRACTOR, settings), tmp_path, "b")
    result = score_images.score_sources(str(a), str(tmp_path / "b-6.npz"), EXTRACTOR, settings)
    assert result["scores"] == pytest.approx(expected["scores"], rel=1e-9, abs=1e-12)
    assert result["b"]["inception_score"] == pytest.approx(expected["b"]["inception_score"])


@pytest.mark.parametrize("as_file", [True, False])
def test_a_generator_is_scored_by_its_samples(
    settings: score_images.ScoreSettings, as_file: bool
) -> None:
    name = "mnist-d2"
    source = pretrained.pretrained_paths()[name] if as_file else name
    settings = dataclasses.replace(settings, samples=24)
    stats = score_images.load_source_stats(source, EXTRACTOR, settings)
    batches = inference.sample_batches(
        pretrained.load_pretrained(name), score_images.GENERATOR_SEED, count=24, batch_size=8
    )
    expected = score_images.load_source_stats(np.concatenate(list(batches)), EXTRACTOR, settings)
    assert stats.count == 24
    np.testing.assert_allclose(stats.moments["6"].mean, expected.moments["6"].mean, rtol=1e-6)


def test_statistics_in_pytorch_fids_format_are_read_and_written(
    tmp_path: Path, settings: score_images.ScoreSettings
) -> None:
    a = write_images(tmp_path / "a", 0)
    images = map(image_files.read_image, sorted(a.iterdir()))
    pixels = np.concatenate(list(score_images.batch_images(images, 8)))
    features = extract_channel_moments(pixels)["6"].astype(np.float64)
    mu, sigma = features.mean(0), np.cov(features, rowvar=False)
    path = tmp_path / "pytorch_fid.npz"
    np.savez(path, mu=mu, sigma=sigma)
    result = score_images.score_sources(str(a), str(path), EXTRACTOR, settings)
    assert list(result["scores"]) == ["fd_6"]
    assert result["scores"]["fd_6"] < 1e-6
    assert result["b"] == {"source": str(path), "images": None}

    stats = score_images.load_source_stats(str(a), EXTRACTOR, settings)
    stats_io.write_stats(stats, tmp_path, "written")
    with np.load(tmp_path / "written-6.npz") as arrays:
        np.testing.assert_allclose(arrays["mu"], mu, rtol=1e-6)
        np.testing.assert_allclose(arrays["sigma"], sigma, rtol=1e-4, atol=1e-9)


def test_statistics_of_a_split_are_computed_once_and_then_cached(
    settings: score_images.ScoreSettings,
) -> None:
    first_result = score_images.score_sources("digits:test", "digits:train", EXTRACTOR, settings)
    files = {path.name for path in settings.cache_dir.glob("*.npz")}
    assert len(files) == 2
    assert all(name.startswith("digits") and name.endswith("-test-0-6.npz") for name in files)

    def fail(*_: object) -> None:
        raise AssertionError("features were extracted again")

    failing_extractor = FeatureExtractor("test-0", "means", fail, ("6",), "6", "logits", 8)
    cached_result = score_images.score_sources(
        "digits:test", "digits:train", failing_extractor, settings
    )
    assert cached_result["scores"] == pytest.approx(first_result["scores"], rel=1e-9)
    assert cached_result["a"] == pytest.approx(first_result["a"])


def test_samples_selects_a_random_subset_without_repetition(
    tmp_path: Path, settings: score_images.ScoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    subset_settings = dataclasses.replace(settings, samples=12)
    a = write_images(tmp_path / "a", 0)
    read_paths: list[Path] = []
    read_image = image_files.read_image

    def record_and_read(path: Path) -> np.ndarray:
        read_paths.append(path)
        return read_image(path)

    monkeypatch.setattr(image_files, "read_image", record_and_read)
    assert score_images.load_source_stats(str(a), EXTRACTOR, subset_settings).count == 12
    assert len(set(read_paths)) == 12
    assert read_paths == sorted(read_paths) != sorted(a.iterdir())[:12]
    all_settings = dataclasses.replace(settings, samples=100)
    assert score_images.load_source_stats(str(a), EXTRACTOR, all_settings).count == 20
    assert score_images.load_source_stats("digits:test", EXTRACTOR, subset_settings).count == 12
    split_stats = score_images.load_source_stats("digits:test", EXTRACTOR, settings)
    assert split_stats.count  # the statistics of 12 images in the cache are not used
    assert split_stats.count > 100
    one_sample = dataclasses.replace(settings, samples=1)
    with pytest.raises(UserError, match="--samples=1: a comparison needs 2 or more"):
        score_images.score_sources(str(a), str(a), EXTRACTOR, one_sample)


def test_result_is_formatted_as_a_table(
    tmp_path: Path, settings: score_images.ScoreSettings
) -> None:
    a = write_images(tmp_path / "a", 0)
    result = score_images.score_sources(str(a), str(a), EXTRACTOR, settings)
    lines = dict(line.split(None, 1) for line in score_images.format_scores(result).splitlines())
    assert lines["A"] == str(a)
    assert float(lines["fd_6"]) < 1e-6


def test_errors_name_sources_that_are_not_image_sets(
    tmp_path: Path, settings: score_images.ScoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "weights.npz", kernel=np.zeros(3))
    np.savez(tmp_path / "other.npz", mu=np.zeros(9), sigma=np.eye(9))
    messages = {
        "nothing": "is no folder of images",
        str(tmp_path / "empty"): "has no images",
        str(tmp_path / "none.npz"): "no such file",
        str(tmp_path / "weights.npz"): "has no statistics",
    }
    for source, message in messages.items():
        with pytest.raises(UserError, match=message):
            score_images.load_source_stats(source, EXTRACTOR, settings)
    some = dataclasses.replace(settings, samples=5)
    with pytest.raises(UserError, match=r"--samples=5: .*other.npz holds statistics, not images"):
        score_images.load_source_stats(str(tmp_path / "other.npz"), EXTRACTOR, some)
    monkeypatch.setattr(score_images, "_load_network", None)  # a source is refused before it loads
    splits = {"digits:tset": "no split 'tset'.*did you mean test", "digit:test": "mean digits"}
    for source, message in splits.items():
        with pytest.raises(UserError, match=message):
            score_images.score_with_inception("mnist-d2", source, weights=None, settings=settings)
    with pytest.raises(UserError, match="no feature layer in common"):
        score_images.score_sources(
            str(write_images(tmp_path / "a", 0)), str(tmp_path / "other.npz"), EXTRACTOR, settings
        )


@pytest.mark.slow
def test_inception_extractor_uses_all_layers_with_weights(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        f"{name}/{part}": rng.normal(0, 0.1, shape).astype(np.float32)
        for name, parts in parameter_shapes(["192"]).items()
        for part, shape in parts.items()
    }
    np.savez(tmp_path / "folded.npz", **arrays)
    extractor = fid_network.load_inception_extractor(tmp_path / "folded.npz", batch_size=2)
    assert (extractor.fd_layers, extractor.pair_layer, extractor.logit_layer) == (
        ("64", "192"),
        "192",
        None,
    )
    features = extractor.extract(rng.integers(0, 256, (3, 8, 8, 3)).astype(np.uint8))
    assert {k: v.shape for k, v in features.items()} == {"64": (3, 64), "192": (3, 192)}
    first_layer_extractor = fid_network.load_inception_extractor(
        tmp_path / "folded.npz", batch_size=2, layers=["64"]
    )
    assert first_layer_extractor.fd_layers == ("64",)
    assert first_layer_extractor.name != extractor.name


@pytest.mark.slow
def test_scores_of_two_folders_equal_torch_fidelity(
    tmp_path: Path, settings: score_images.ScoreSettings, parity: Any
) -> None:
    torch, fidelity = import_reference("torch"), import_reference("torch_fidelity")
    state, weights = random_inception_state(0), tmp_path / "weights.pth"
    torch.save(state, weights)
    folded = inception_weights.fold_torch_state({k: v.numpy() for k, v in state.items()})
    stem = {
        f"{name}/{part}": folded[name][part]
        for name, parts in parameter_shapes(["64"]).items()
        for part in parts
    }
    np.savez(tmp_path / "folded.npz", **stem)
    a, b = write_images(tmp_path / "a", 0, n=30), write_images(tmp_path / "b", 3, n=30, size=12)

    extractor = fid_network.load_inception_extractor(tmp_path / "folded.npz", batch_size=10)
    scores = score_images.score_sources(str(a), str(b), extractor, settings)["scores"]
    expected = fidelity.calculate_metrics(
        input1=str(a),
        input2=str(b),
        **dict.fromkeys(("fid", "kid", "prc"), True),
        **dict.fromkeys(("feature_layer_fid", "feature_layer_kid", "feature_layer_prc"), "64"),
        **dict.fromkeys(("cuda", "cache", "verbose"), False),
        feature_extractor="inception-v3-compat",
        kid_subset_size=30,
        save_cpu_ram=True,  # starts no processes
        feature_extractor_weights_path=str(weights),
    )
    names = {
        "fd_64": "frechet_inception_distance",
        "kid_64": "kernel_inception_distance_mean",
        "precision_64": "precision",
        "recall_64": "recall",
    }
    for name, fidelity_name in names.items():
        error = abs(scores[name] / expected[fidelity_name] - 1)
        parity.check(f"two folders of images, {name}, torch-fidelity", error, bound=1e-3)


@pytest.mark.parametrize("source", [".", "link"])
@pytest.mark.slow
def test_a_run_is_scored_by_a_dot_or_a_link(
    source: str, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = checkout / "runs" / "digits" / "student-mse-d1-s0"
    (checkout / "link").symlink_to(run)
    reference = str(write_images(checkout / "reference", 0))
    expected = gankd_jax.score(run, reference, samples=20)
    if source == ".":
        monkeypatch.chdir(run)
    assert gankd_jax.score(source, reference, samples=20) == expected


def test_images_beside_a_run_json_of_another_program_are_scored(
    tmp_path: Path, settings: score_images.ScoreSettings
) -> None:
    a = write_images(tmp_path / "a", 0)
    expected = score_images.load_source_stats(str(a), EXTRACTOR, settings)
    (a / "run.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    stats = score_images.load_source_stats(str(a), EXTRACTOR, settings)
    np.testing.assert_array_equal(stats.moments["6"].mean, expected.moments["6"].mean)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "run.json").write_text("{}")
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"b has a run\.json, but .* holds no study"):
        score_images.load_source_stats(str(tmp_path / "b"), EXTRACTOR, settings)


def test_a_study_is_refused_with_the_name_of_a_run(
    checkout: Path, settings: score_images.ScoreSettings
) -> None:
    message = "runs/digits is the work directory of a study: name a run, such as .*/baseline-d1-s0"
    with pytest.raises(UserError, match=message):
        score_images.load_source_stats("runs/digits", EXTRACTOR, settings)


def test_images_in_sub_folders_are_scored_when_asked(
    tmp_path: Path, settings: score_images.ScoreSettings
) -> None:
    for name, seed in (("cat", 0), ("dog", 3)):
        (tmp_path / "a").mkdir(exist_ok=True)
        write_images(tmp_path / "a" / name, seed)
    with pytest.raises(UserError, match=r"left out: 2 folders \(--recursive reads folders\)"):
        score_images.load_source_stats(str(tmp_path / "a"), EXTRACTOR, settings)
    recursive = dataclasses.replace(settings, recursive=True)
    assert score_images.load_source_stats(str(tmp_path / "a"), EXTRACTOR, recursive).count == 40


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.png", "a.pth", "a:b"])
def test_the_name_of_a_folder_of_images_may_end_as_a_file(
    name: str, tmp_path: Path, settings: score_images.ScoreSettings
) -> None:
    path = str(write_images(tmp_path / name, 0))
    assert score_images.score_sources(path, path, EXTRACTOR, settings)["a"]["images"] == 20
    assert score_images._needs_network(path)


@pytest.mark.slow
def test_the_flag_recursive_reads_sub_folders(
    checkout: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    (checkout / "tree").mkdir()
    write_images(checkout / "tree" / "cat", 0)
    [weights] = checkout.glob("cache/**/*.npz")
    words = ["score", *2 * [str(checkout / "tree")], f"--weights={weights}"]
    status, _, err = command(*words)
    assert (status, err.count("\n")) == (2, 1)
    assert "tree has no images" in err
    status, out, _ = command(*words, "--recursive")
    assert status == 0
    assert re.search(r"^images of A +20$", out, re.MULTILINE)


def test_the_suffix_of_statistics_may_be_in_capitals(
    tmp_path: Path, settings: score_images.ScoreSettings
) -> None:
    with (tmp_path / "stats.NPZ").open("wb") as file:
        np.savez(file, mu=np.zeros(6), sigma=np.eye(6))
    result = score_images.score_sources(
        str(tmp_path / "stats.NPZ"), str(tmp_path / "stats.NPZ"), None, settings
    )
    assert result["scores"]["fd_6"] == pytest.approx(0, abs=1e-9)


def test_five_images_have_distances_and_a_line_that_says_what_is_missing(
    tmp_path: Path, settings: score_images.ScoreSettings
) -> None:
    five, many = write_images(tmp_path / "five", 0, n=5), write_images(tmp_path / "many", 1)
    missing = "precision, recall, density and coverage"
    for a, b in ((five, many), (many, five)):
        result = score_images.score_sources(str(a), str(b), EXTRACTOR, settings)
        assert set(result["scores"]) == {"fd_6", "kid_6", "kid_sd_6"}
        assert result["notes"] == [
            f"no {missing}: they need 6 or more images in each set; {five} has 5",
            f"no Inception Score of {five}: it needs 10 or more images, not 5",
        ]
        assert score_images.format_scores(result).endswith("\n".join(result["notes"]))
    without_logits = dataclasses.replace(EXTRACTOR, logit_layer=None)
    result = score_images.score_sources(str(five), str(five), without_logits, settings)
    assert len(result["notes"]) == 1
    assert score_images.score_sources(str(many), str(many), EXTRACTOR, settings)["notes"] == []


def test_statistics_of_another_program_get_one_line_about_its_resize(
    tmp_path: Path, settings: score_images.ScoreSettings
) -> None:
    a = write_images(tmp_path / "a", 0)
    foreign, own = tmp_path / "foreign.npz", tmp_path / "own-6.npz"
    np.savez(foreign, mu=np.zeros(6), sigma=np.eye(6))
    stats_io.write_stats(
        score_images.load_source_stats(str(a), EXTRACTOR, settings), tmp_path, "own"
    )
    for source_a, source_b in ((a, foreign), (foreign, a), (foreign, foreign)):
        result = score_images.score_sources(str(source_a), str(source_b), EXTRACTOR, settings)
        [note] = result["notes"]
        assert note.startswith(f"{foreign} has statistics of another program, whose resize may")
        assert note.endswith("fd_64 by 0.002, fd_192 by 0.018 and fd_768 by 0.043")
    assert score_images.score_sources(str(a), str(own), EXTRACTOR, settings)["notes"] == []


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_an_array_file_scores_as_its_folder(
    tmp_path: Path, settings: score_images.ScoreSettings, name: str
) -> None:
    a, b = write_images(tmp_path / "a", 0), write_images(tmp_path / "b", 3)
    images = np.stack([image_files.read_image(path) for path in sorted(a.iterdir())])
    (np.save if name.endswith("npy") else np.savez)(tmp_path / name, images)
    for samples in (None, 12):
        few = dataclasses.replace(settings, samples=samples)
        expected = score_images.score_sources(str(a), str(b), EXTRACTOR, few)
        result = score_images.score_sources(str(tmp_path / name), str(b), EXTRACTOR, few)
        assert result["scores"] == expected["scores"]
    np.save(tmp_path / "one.npy", images[:1])
    with pytest.raises(UserError, match=r"one\.npy has 1 image; a comparison needs 2 or more"):
        score_images.load_source_stats(str(tmp_path / "one.npy"), EXTRACTOR, settings)


def test_saved_statistics_are_those_that_pytorch_fid_reads(
    tmp_path: Path, settings: score_images.ScoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_images, "load_inception_extractor", lambda _: EXTRACTOR)
    a, b = write_images(tmp_path / "a", 0), write_images(tmp_path / "b", 3)
    out = tmp_path / "b.npz"
    text = score_images.save_stats(str(b), out, weights=tmp_path, settings=settings)
    assert text.endswith(str(out))
    expected = score_images.score_sources(str(a), str(b), EXTRACTOR, settings)["scores"]
    result = score_images.score_sources(str(a), str(out), EXTRACTOR, settings)
    assert result["scores"] == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert result["notes"] == []
    fid_score = import_reference("pytorch_fid.fid_score")
    mean, covariance = fid_score.compute_statistics_of_path(str(out), None, 1, 6, "cpu")
    stats = score_images.load_source_stats(str(b), EXTRACTOR, settings).moments["6"]
    np.testing.assert_array_equal(mean, stats.mean)
    np.testing.assert_array_equal(covariance, stats.covariance)


def test_path_length_is_a_score_of_a_generator_and_refused_for_images(
    tmp_path: Path, settings: score_images.ScoreSettings
) -> None:
    images = str(write_images(tmp_path / "real", 0))
    settings = dataclasses.replace(settings, samples=10, ppl_samples=12)
    result = score_images.score_sources("mnist-d2", images, EXTRACTOR, settings)
    assert result["a"]["ppl_6"] > 0
    assert "ppl_6" not in result["b"]
    assert "ppl_6 of A" in score_images.format_scores(result)
    message = "--ppl-samples=12 needs a generator or a run as A; .*real is none"
    with pytest.raises(UserError, match=message):
        score_images.score_sources(images, "mnist-d2", EXTRACTOR, settings)

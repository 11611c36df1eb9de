"""`gankd score`: folders, statistics files and data sets, end to end."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch_references import import_reference, random_inception_state

from gankd_jax.evaluation import inception as fid_network
from gankd_jax.interop import inception_weights
from gankd_jax.metrics import stats_io
from gankd_jax.metrics.feature_stats import FeatureExtractor
from gankd_jax.models.inception import parameter_shapes
from gankd_jax.study import score_images
from gankd_jax.utils.errors import UserError


def network(x: np.ndarray) -> dict[str, np.ndarray]:
    """Two numbers a channel: its mean and its spread."""
    flat = x.astype(np.float32).reshape(len(x), -1, x.shape[-1]) / 255
    both = np.concatenate([flat.mean(1), flat.std(1)], axis=1)
    return {"6": both[:, [0, -1]].repeat(3, axis=1) * [1, 2, 3, 4, 5, 6], "logits": both * 20}


EXTRACTOR = FeatureExtractor("test-0", "means", network, ("6",), "6", "logits", 8)


@pytest.fixture
def settings(tmp_path: Path) -> score_images.ScoreSettings:
    return score_images.ScoreSettings(
        data_dir=tmp_path / "data", image_size=16, pad=0, cache_dir=tmp_path / "cache"
    )


def folder(path: Path, seed: int, *, n: int = 20, size: int = 8) -> Path:
    path.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(n):
        pixels = rng.integers(0, 100 + 20 * seed + 5 * i, (size, size, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path / f"{size}-{i:03}.png")
    return path


def test_two_folders_are_scored_and_equal_folders_are_at_distance_zero(
    tmp_path: Path, settings: score_images.ScoreSettings
) -> None:
    a, b = folder(tmp_path / "a", 0), folder(tmp_path / "b", 3, n=30)
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
    path = folder(folder(tmp_path / "a", 0, size=8), 1, size=12)
    shapes = [
        x.shape
        for x in score_images.batch_images(score_images.read_images(sorted(path.iterdir())), 8)
    ]
    assert shapes == [(n, size, size, 3) for size in (12, 8) for n in (8, 8, 4)]
    assert score_images.load_source_stats(str(path), EXTRACTOR, settings).count == 40


def test_grey_and_transparent_files_are_read_as_colour(tmp_path: Path) -> None:
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([grey] * 4)).save(tmp_path / "alpha.png")
    found = list(score_images.read_images([tmp_path / "grey.png", tmp_path / "alpha.png"]))
    for image in found:
        np.testing.assert_array_equal(image, np.dstack([grey] * 3))


def test_statistics_file_gives_the_scores_of_its_images(
    tmp_path: Path, settings: score_images.ScoreSettings
) -> None:
    a, b = folder(tmp_path / "a", 0), folder(tmp_path / "b", 3)
    expected = score_images.score_sources(str(a), str(b), EXTRACTOR, settings)
    stats_io.write_stats(score_images.load_source_stats(str(b), EXTRACTOR, settings), tmp_path, "b")
    found = score_images.score_sources(str(a), str(tmp_path / "b-6.npz"), EXTRACTOR, settings)
    assert found["scores"] == pytest.approx(expected["scores"], rel=1e-9, abs=1e-12)
    assert found["b"]["inception_score"] == pytest.approx(expected["b"]["inception_score"])


def test_statistics_in_pytorch_fids_format_are_read_and_written(
    tmp_path: Path, settings: score_images.ScoreSettings
) -> None:
    a = folder(tmp_path / "a", 0)
    pixels = np.concatenate(
        list(score_images.batch_images(score_images.read_images(sorted(a.iterdir())), 8))
    )
    features = network(pixels)["6"].astype(np.float64)
    mu, sigma = features.mean(0), np.cov(features, rowvar=False)
    np.savez(tmp_path / "theirs.npz", mu=mu, sigma=sigma)
    found = score_images.score_sources(str(a), str(tmp_path / "theirs.npz"), EXTRACTOR, settings)
    assert list(found["scores"]) == ["fd_6"]
    assert found["scores"]["fd_6"] < 1e-6
    assert found["b"] == {"source": str(tmp_path / "theirs.npz"), "images": None}

    stats_io.write_stats(
        score_images.load_source_stats(str(a), EXTRACTOR, settings), tmp_path, "ours"
    )
    with np.load(tmp_path / "ours-6.npz") as ours:
        np.testing.assert_allclose(ours["mu"], mu, rtol=1e-6)
        np.testing.assert_allclose(ours["sigma"], sigma, rtol=1e-4, atol=1e-9)


def test_statistics_of_a_split_are_computed_once_and_then_cached(
    settings: score_images.ScoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = score_images.score_sources("digits:test", "digits:train", EXTRACTOR, settings)
    files = {path.name for path in settings.cache_dir.iterdir()}
    assert len(files) == 2
    assert all(name.startswith("digits") and name.endswith("-test-0-6.npz") for name in files)

    def unused(*_: object) -> None:
        raise AssertionError("the images were read again")

    blind = FeatureExtractor("test-0", "means", unused, ("6",), "6", "logits", 8)
    again = score_images.score_sources("digits:test", "digits:train", blind, settings)
    assert again["scores"] == pytest.approx(first["scores"], rel=1e-9)
    assert again["a"] == pytest.approx(first["a"])


def test_samples_selects_a_random_subset_without_repetition(
    tmp_path: Path, settings: score_images.ScoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = dataclasses.replace(settings, samples=12)
    a = folder(tmp_path / "a", 0)
    seen: list[Path] = []
    read = score_images.read_images

    def noted(paths: Sequence[Path]) -> Iterator[np.ndarray]:
        seen.extend(paths)
        return read(paths)

    monkeypatch.setattr(score_images, "read_images", noted)
    assert score_images.load_source_stats(str(a), EXTRACTOR, few).count == 12
    assert len(set(seen)) == 12
    assert seen == sorted(seen) != sorted(a.iterdir())[:12]
    many = dataclasses.replace(settings, samples=100)
    assert score_images.load_source_stats(str(a), EXTRACTOR, many).count == 20
    assert score_images.load_source_stats("digits:test", EXTRACTOR, few).count == 12
    whole = score_images.load_source_stats(
        "digits:test", EXTRACTOR, settings
    ).count  # not what the cache has of 12
    assert whole
    assert whole > 100
    with pytest.raises(UserError, match="--samples=1: a comparison needs 2 or more"):
        score_images.score_sources(
            str(a), str(a), EXTRACTOR, dataclasses.replace(settings, samples=1)
        )


def test_result_is_formatted_as_a_table(
    tmp_path: Path, settings: score_images.ScoreSettings
) -> None:
    a = folder(tmp_path / "a", 0)
    result = score_images.score_sources(str(a), str(a), EXTRACTOR, settings)
    lines = dict(line.split(None, 1) for line in score_images.format_scores(result).splitlines())
    assert lines["A"] == str(a)
    assert float(lines["fd_6"]) < 1e-6


def test_sources_that_are_no_image_sets_raise_errors_that_name_them(
    tmp_path: Path, settings: score_images.ScoreSettings
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n")
    np.savez(tmp_path / "weights.npz", kernel=np.zeros(3))
    np.savez(tmp_path / "other.npz", mu=np.zeros(9), sigma=np.eye(9))
    cases = {
        "nothing": "is no folder of images",
        str(tmp_path / "empty"): "has no images",
        str(tmp_path / "none.npz"): "no such file",
        str(tmp_path / "weights.npz"): "has no statistics",
    }
    for source, message in cases.items():
        with pytest.raises(UserError, match=message):
            score_images.load_source_stats(source, EXTRACTOR, settings)
    with pytest.raises(UserError, match=r"x\.png cannot be read as an image"):
        list(score_images.read_images([tmp_path / "x.png"]))
    with pytest.raises(UserError, match="no feature layer in common"):
        score_images.score_sources(
            str(folder(tmp_path / "a", 0)), str(tmp_path / "other.npz"), EXTRACTOR, settings
        )


def test_inception_extractor_uses_all_layers_that_its_weights_serve(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        f"{name}/{part}": rng.normal(0, 0.1, shape).astype(np.float32)
        for name, parts in parameter_shapes(["192"]).items()
        for part, shape in parts.items()
    }
    np.savez(tmp_path / "folded.npz", **arrays)
    found = fid_network.load_inception_extractor(tmp_path / "folded.npz", batch_size=2)
    assert (found.fd_layers, found.pair_layer, found.logit_layer) == (("64", "192"), "192", None)
    values = found.extract(rng.integers(0, 256, (3, 8, 8, 3)).astype(np.uint8))
    assert {k: v.shape for k, v in values.items()} == {"64": (3, 64), "192": (3, 192)}
    only = fid_network.load_inception_extractor(
        tmp_path / "folded.npz", batch_size=2, layers=["64"]
    )
    assert only.fd_layers == ("64",)
    assert only.name != found.name


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
    a, b = folder(tmp_path / "a", 0, n=30), folder(tmp_path / "b", 3, n=30, size=12)

    extractor = fid_network.load_inception_extractor(tmp_path / "folded.npz", batch_size=10)
    ours = score_images.score_sources(str(a), str(b), extractor, settings)["scores"]
    theirs = fidelity.calculate_metrics(
        input1=str(a),
        input2=str(b),
        **dict.fromkeys(("fid", "kid", "prc"), True),
        **dict.fromkeys(("feature_layer_fid", "feature_layer_kid", "feature_layer_prc"), "64"),
        **dict.fromkeys(("cuda", "cache", "verbose"), False),
        feature_extractor="inception-v3-compat",
        kid_subset_size=30,
        save_cpu_ram=True,  # no forks of this process
        feature_extractor_weights_path=str(weights),
    )
    names = {
        "fd_64": "frechet_inception_distance",
        "kid_64": "kernel_inception_distance_mean",
        "precision_64": "precision",
        "recall_64": "recall",
    }
    for name, theirs_name in names.items():
        error = abs(ours[name] / theirs[theirs_name] - 1)
        parity.check(f"two folders of images, {name}, torch-fidelity", error, bound=1e-3)

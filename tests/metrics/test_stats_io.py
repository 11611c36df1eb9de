"""Files of statistics: an exact read, or one error that names the file and the reason."""

import functools
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_references import import_reference

from gankd_jax.metrics import feature_stats, stats_io
from gankd_jax.metrics.feature_stats import FeatureExtractor, FeatureStats
from gankd_jax.utils.errors import UserError

Arrays = dict[str, np.ndarray]
COUNT, WIDTH = 12, 4


def compute_test_stats() -> FeatureStats:
    """Statistics with all parts, of random images."""
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 4, 4, 1)).astype(np.uint8)

    def extract(batch: np.ndarray) -> Arrays:
        flat = batch.reshape(len(batch), -1).astype(np.float32) / 255
        return {"4": flat[:, :WIDTH], "logits": flat[:, WIDTH:9] * 5}

    extractor = FeatureExtractor("test", "pixels", extract, ("4",), "4", "logits", 8)
    return feature_stats.compute_stats([images], extractor, count=COUNT)


@functools.cache
def good_arrays() -> Arrays:
    """The arrays of a file of statistics with all parts."""
    stats = compute_test_stats()
    assert stats.inception_score_stats is not None
    sums = vars(stats.inception_score_stats)
    return {
        "mu": stats.moments["4"].mean,
        "sigma": stats.moments["4"].covariance,
        "count": np.array(COUNT),
        "sharpness": np.array(stats.sharpness),
        "features": stats.features["4"],
    } | {f"answers_{name}": sums[name] for name in ("counts", "totals", "negentropies")}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("statistics") / "bad.npz"


def save(path: Path, arrays: dict[str, Any]) -> Path:
    np.savez(path, **arrays)
    return path


def assert_equals_arrays(stats: FeatureStats, arrays: Arrays) -> None:
    """Every array of the file is in the statistics, with its value, and nothing beside."""
    [(layer, moments)] = stats.moments.items()
    np.testing.assert_array_equal(moments.mean, arrays["mu"])
    np.testing.assert_allclose(moments.covariance, arrays["sigma"], rtol=1e-15, atol=0)
    assert stats.count == arrays.get("count")
    assert stats.sharpness == arrays.get("sharpness")
    assert (layer in stats.features) == ("features" in arrays)
    if "features" in arrays:
        np.testing.assert_array_equal(stats.features[layer], arrays["features"])
    sums = stats.inception_score_stats
    assert (sums is not None) == ("answers_counts" in arrays)
    for name, values in vars(sums).items() if sums else ():
        np.testing.assert_array_equal(values, arrays[f"answers_{name}"])


def read_or_refuse(path: Path) -> FeatureStats | None:
    """Reads a file of statistics; None if it is refused, by one line that names it."""
    try:
        return stats_io.read_stats(path)
    except UserError as error:
        assert str(error).startswith(f"{path} has no statistics: ")  # noqa: PT017
        assert str(error).count("\n") == 0  # noqa: PT017
        return None


# Mutations of the bytes: a place, how many bytes to replace, and what to put there.
BYTE_CHANGES = st.tuples(
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([0, 1, 1, 1, 2, 8, 60, 10_000]),
    st.binary(max_size=8),
)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@settings(deadline=None, max_examples=250)
@given(change=BYTE_CHANGES)
def test_mutated_bytes_give_the_same_arrays_or_one_error(path, write, change):
    place, size, replacement = change
    buffer = io.BytesIO()
    write(buffer, **good_arrays())
    content = buffer.getvalue()
    start = int(place * len(content))
    path.write_bytes(content[:start] + replacement + content[start + size :])
    stats = read_or_refuse(path)
    if stats is not None:
        assert_equals_arrays(stats, good_arrays())


def replace_value(values: np.ndarray, place: float, value: float) -> np.ndarray:
    changed = np.array(values)
    with np.errstate(all="ignore"):
        changed.flat[int(place * changed.size)] = np.asarray(value).astype(changed.dtype)
    return changed


VALUES = st.sampled_from([np.nan, np.inf, -np.inf, 0, -1, -1e-3, 0.5, 1e9, 1e300, 1e-300])
DTYPES = st.sampled_from([*"?bHiqefdgFD", ">f8", ">i4", "U3", "S3", "O", "M8[s]"])
ARRAY_CHANGES: st.SearchStrategy[Callable[[np.ndarray], Any]] = st.one_of(
    st.builds(lambda p, v: lambda x: replace_value(x, p, v), st.floats(0, 0.999), VALUES),
    st.builds(lambda v: lambda x: x * v, VALUES),
    DTYPES.map(lambda dtype: lambda x: x.astype(dtype)),
    st.sampled_from(
        [
            np.ravel,
            np.transpose,
            np.asfortranarray,
            lambda x: x[None],
            lambda x: x[..., None],
            lambda x: x[1:],
            lambda x: x[..., :1],
            lambda x: x[:0],
            lambda x: np.concatenate([x, x]),
            lambda x: np.full(x.shape, None),
        ]
    ),
)


def is_statistic(arrays: Arrays) -> bool:
    """Whether the arrays of a file can come from images, in other words than the reader's."""
    values = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
    eigenvalues = np.linalg.eigvalsh(values["sigma"])
    counts, totals = values["answers_counts"], values["answers_totals"]
    return bool(
        all(np.isfinite(array).all() for array in values.values())
        and np.allclose(values["sigma"], values["sigma"].T, atol=1e-3 * eigenvalues.max())
        and eigenvalues.min() >= -2e-3 * max(eigenvalues.mean(), 0)
        and values["count"] == counts.sum() >= len(values["features"]) >= 2
        and values["sharpness"] >= 0
        and counts.min() > 0
        and np.allclose(totals.sum(axis=1), counts, rtol=2e-3)
    )


@settings(deadline=None, max_examples=500)
@given(name=st.sampled_from(sorted(good_arrays())), change=ARRAY_CHANGES)
def test_mutated_arrays_are_read_exactly_or_refused(path, name, change):
    with np.errstate(all="ignore"):
        try:
            changed = change(good_arrays()[name])
        except (IndexError, TypeError, ValueError):  # a number has no rows, for example
            return
    arrays = good_arrays() | {name: changed}
    stats = read_or_refuse(save(path, arrays))
    if stats is None:
        return
    assert_equals_arrays(stats, arrays)
    assert is_statistic(arrays)
    scores = feature_stats.single_set_scores(stats) | feature_stats.compare_stats(stats, stats)
    assert len(scores) == 10
    assert np.isfinite(list(scores.values())).all()


SIGMA = good_arrays()["sigma"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sigma": SIGMA - 5 * np.eye(WIDTH)}, "sigma has a negative eigenvalue"),
        ({"sigma": -SIGMA}, "sigma has a negative eigenvalue"),
        ({"sigma": SIGMA + np.triu(np.full((WIDTH, WIDTH), 9.0), 1)}, "sigma is not symmetric"),
        ({"sigma": SIGMA + 0j}, "sigma holds complex128, not real numbers"),
        ({"sigma": SIGMA * np.inf}, "sigma holds values that are not finite"),
        ({"mu": np.full(WIDTH, np.nan)}, "mu holds values that are not finite"),
        ({"mu": np.zeros(WIDTH, bool)}, "mu holds bool"),
        ({"mu": np.zeros(WIDTH, np.longdouble)}, "mu holds float128"),
        ({"count": -5}, "count is -5, not a whole number of 2 or more images"),
        ({"count": 0}, "count is 0, not a whole number"),
        ({"count": 12.5}, "count is 12.5, not a whole number"),
        ({"count": np.nan}, "count holds values that are not finite"),
        ({"count": [12]}, r"count (1,) does not fit"),
        ({"count": 5}, "12 features of 5 images"),
        ({"count": 13}, "splits of 12 images are not of 13"),
        ({"features": np.full((12, WIDTH), np.nan)}, "features holds values that are not finite"),
        ({"features": np.zeros((1, WIDTH))}, "features: 1 images in a set; 2 or more are needed"),
        ({"sharpness": -1.0}, "sharpness is -1.0"),
        ({"answers_counts": np.zeros(10, int)}, "a split of the Inception Score has no images"),
        ({"answers_totals": np.zeros((10, 5))}, "the class probabilities do not add up"),
        ({"answers_negentropies": np.full(10, 9.0)}, "entropies of the Inception Score are out"),
        ({"answers_negentropies": np.full(10, -99.0)}, "entropies of the Inception Score are out"),
    ],
)
def test_arrays_that_are_no_statistics_are_refused_with_the_reason(tmp_path, changes, reason):
    path = save(tmp_path / "a.npz", good_arrays() | changes)
    with pytest.raises(UserError) as error:
        stats_io.read_stats(path)
    assert str(error.value).startswith(f"{path} has no statistics: ")
    assert reason in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        np.asfortranarray,
        lambda x: x.astype(np.float32),
        lambda x: x.astype(">f8"),
    ],
)
def test_mu_and_sigma_of_other_programs_are_read_as_they_are(tmp_path, change):
    arrays = {name: change(good_arrays()[name]) for name in ("mu", "sigma")}
    assert_equals_arrays(stats_io.read_stats(save(tmp_path / "a.npz", arrays)), arrays)


def test_unknown_arrays_are_ignored(tmp_path):
    arrays = good_arrays() | {"mu_s": np.zeros(9), "arr_0": np.zeros((3, 4, 4, 3), np.uint8)}
    assert_equals_arrays(stats_io.read_stats(save(tmp_path / "a.npz", arrays)), arrays)


def test_a_shortened_array_and_a_lost_member_are_refused(tmp_path):
    """Both pass numpy, which reads no more than a shape says and the directory lists."""
    path = save(tmp_path / "a.npz", good_arrays())
    content = path.read_bytes()
    path.write_bytes(content.replace(b"'shape': (12, 4)", b"'shape': (02, 4)"))
    with pytest.raises(UserError, match=r"(it is damaged|features\.npy holds more)"):
        stats_io.read_stats(path)
    with zipfile.ZipFile(save(path, good_arrays())) as archive:
        entry_size = 46 + len("features.npy")
        start = archive.start_dir
    place = content.index(b"features.npy", start) - entry_size + len("features.npy")
    comment_of_previous = content.rindex(b"PK\1\2", start, place) + 32
    lost = bytearray(content)
    lost[comment_of_previous] = entry_size  # its comment covers the next entry
    path.write_bytes(lost)
    with np.load(path) as file:
        assert "features" not in file
    with pytest.raises(UserError, match="its directory is damaged"):
        stats_io.read_stats(path)


def test_written_statistics_are_read_back_and_pytorch_fid_reads_them(tmp_path):
    stats = compute_test_stats()
    stats_io.write_stats(stats, tmp_path, "digits")
    assert_equals_arrays(stats_io.read_stats(tmp_path / "digits-4.npz"), good_arrays())
    compute_statistics = import_reference("pytorch_fid.fid_score").compute_statistics_of_path
    mean, covariance = compute_statistics(str(tmp_path / "digits-4.npz"), None, 1, WIDTH, "cpu")
    np.testing.assert_array_equal(mean, good_arrays()["mu"])
    np.testing.assert_array_equal(covariance, good_arrays()["sigma"])

"""The FID network's weights: folding, download, and files with only some layers."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from local_server import serve_folder
from torch_references import import_reference, random_inception_state

from gankd_jax.interop import inception_weights
from gankd_jax.models.inception import FidInception, parameter_shapes, preprocess_images
from gankd_jax.utils.errors import UserError

REPO = Path(__file__).parents[2]
PARTIAL = (
    Path(os.environ.get("GANKD_TEST_DATA", REPO.parent / "shared" / "data"))
    / "inception"
    / "inception-2015-12-05-folded-to-mixed_8.npz"
)
GOLDEN = Path(__file__).parents[1] / "golden" / "inception_features.json"


@pytest.fixture
def partial_weights() -> Path:
    if not PARTIAL.exists():
        pytest.skip(f"no real weights at {PARTIAL}")
    return PARTIAL


def write_zero_weights(path: Path, *layers: str) -> Path:
    """Writes a weights file that serves the given layers; all values are zero."""
    arrays = {
        f"{name}/{part}": np.zeros(shape, np.float32)
        for name, parts in parameter_shapes(layers).items()
        for part, shape in parts.items()
    }
    np.savez(path, **arrays)
    return path


def test_folding_a_convolution_by_hand() -> None:
    rng = np.random.default_rng(0)
    state = {
        "x.conv.weight": rng.normal(size=(2, 3, 1, 1)),
        "x.bn.weight": np.array([2.0, 3.0]),
        "x.bn.bias": np.array([0.5, -1.0]),
        "x.bn.running_mean": np.array([1.0, 4.0]),
        "x.bn.running_var": np.array([0.999, 3.999]),  # with epsilon 0.001: deviations 1 and 2
    }
    folded = inception_weights._fold(state, "x")
    x = rng.normal(size=3)
    y = state["x.conv.weight"][:, :, 0, 0] @ x
    expected = [(y[0] - 1) / 1 * 2 + 0.5, (y[1] - 4) / 2 * 3 - 1]
    np.testing.assert_allclose(x @ folded["kernel"][0, 0] + folded["bias"], expected, rtol=1e-5)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.slow
def test_published_format_gives_the_folded_weights(tmp_path: Path, zipped: bool) -> None:
    torch = import_reference("torch")
    state = random_inception_state(1)
    source, target = tmp_path / "weights.pth", tmp_path / "cache" / "folded.npz"
    torch.save(state, source, _use_new_zipfile_serialization=zipped)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    inception_weights.fetch_weights(source, target, sha256=digest)
    actual = inception_weights.load_weights(target, ["logits"])
    expected = inception_weights.fold_torch_state({k: v.numpy() for k, v in state.items()})
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
    assert inception_weights.available_layers(target) == (
        *("64", "192", "768", "1280", "2048"),
        *("logits_unbiased", "logits"),
    )


def test_download_with_wrong_hash_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "other.pth").write_bytes(b"other")
    with (
        serve_folder(tmp_path) as address,
        pytest.raises(
            UserError, match=r"expected 6726825d\w* but got d9298a10\w*\); .*--from=FILE"
        ),
    ):
        inception_weights.fetch_weights(None, tmp_path / "folded.npz", url=f"{address}/other.pth")
    assert not (tmp_path / "folded.npz").exists()


def test_failed_download_names_the_manual_way(tmp_path: Path) -> None:
    with (
        serve_folder(tmp_path) as address,
        pytest.raises(UserError, match=r"cannot be downloaded .*; .*--from=FILE"),
    ):
        inception_weights.fetch_weights(None, tmp_path / "folded.npz", url=f"{address}/nothing.pth")


def test_existing_weights_are_not_overwritten(tmp_path: Path) -> None:
    target = write_zero_weights(tmp_path / "folded.npz", "64")
    before = target.read_bytes()
    with pytest.raises(UserError, match="already there"):
        inception_weights.fetch_weights(target, target)
    assert target.read_bytes() == before


def test_state_dict_of_another_network_names_the_missing_key() -> None:
    with pytest.raises(UserError, match=r"no 'Conv2d_1a_3x3\.conv\.weight'"):
        inception_weights.fold_torch_state({"conv1.weight": np.zeros(1)})


def test_partial_file_serves_its_layers_only(tmp_path: Path) -> None:
    source = write_zero_weights(tmp_path / "partial.npz", "192")
    inception_weights.fetch_weights(source, tmp_path / "cached.npz")
    params = inception_weights.load_weights(tmp_path / "cached.npz", ["64", "192"])
    assert set(params) == {"conv", "conv_1", "conv_2", "conv_3", "conv_4"}
    with pytest.raises(UserError, match=r"lacks mixed, mixed_1, .*mixed_7, .* serves 64, 192;"):
        inception_weights.load_weights(tmp_path / "cached.npz", ["64", "768"])


def test_missing_and_foreign_files_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gankd weights fetch"):
        inception_weights.load_weights(tmp_path / "none.npz", ["64"])
    np.savez(tmp_path / "other.npz", mu=np.zeros(3))
    (tmp_path / "text.npz").write_text("hello")
    for name in ("other.npz", "text.npz"):
        with pytest.raises(UserError, match=r"is no \.npz of folded Inception weights"):
            inception_weights.load_weights(tmp_path / name, ["64"])


def test_fingerprint_changes_with_any_weight() -> None:
    params = {"a": {"kernel": np.zeros((2, 2)), "bias": np.zeros(2)}}
    before = inception_weights.params_fingerprint(params)
    params["a"]["bias"][1] = 1e-9
    assert inception_weights.params_fingerprint(params) != before


def test_partial_weights_lack_only_the_last_blocks(partial_weights: Path) -> None:
    assert inception_weights.available_layers(partial_weights) == ("64", "192", "768", "1280")
    with pytest.raises(UserError, match=r"lacks mixed_9, mixed_10, softmax, needed for logits;"):
        inception_weights.load_weights(partial_weights, ["logits"])


def wave_images() -> np.ndarray:
    """Returns two images of sawtooth waves, the same on every machine."""
    y, x = np.indices((40, 50))
    planes = [(x * a + y * b) % 256 for a, b in ((5, 0), (3, 7), (40, 11))]
    return np.stack([np.stack(planes, -1), np.stack(planes[::-1], -1)]).astype(np.uint8)


def summarize_features(path: Path) -> dict[str, Any]:
    """Returns each layer's mean, standard deviation and first features."""
    layers = ("64", "192", "768", "1280")
    params = inception_weights.load_weights(path, layers)
    outputs = jax.jit(FidInception(layers).apply)(
        {"params": params}, preprocess_images(jnp.asarray(wave_images()))
    )
    rows = {layer: np.asarray(value, np.float64) for layer, value in outputs.items()}
    return {
        layer: [float(x.mean()), float(x.std()), *x[:, :3].ravel().tolist()]
        for layer, x in rows.items()
    }


def test_real_weights_give_the_recorded_features(partial_weights: Path) -> None:
    expected = json.loads(GOLDEN.read_text())
    for layer, values in summarize_features(partial_weights).items():
        np.testing.assert_allclose(values, expected[layer], rtol=1e-4, atol=1e-6)

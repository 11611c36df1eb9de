"""The FID network against torch-fidelity's and pytorch-fid's, in one process, on random weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_references import (
    build_pytorch_fid_network,
    build_torch_fidelity_network,
    import_reference,
    random_inception_state,
)

from gankd_jax.interop.inception_weights import fold_torch_state
from gankd_jax.models.inception import (
    FidInception,
    InceptionMaps,
    parameter_shapes,
    preprocess_images,
    resize_tf1,
)

POOL_LAYERS = ("64", "192", "768", "1280", "2048")
LAYERS = (*POOL_LAYERS, "logits_unbiased", "logits")
SIZES = ((32, 32), (28, 61), (333, 310))


def random_images(height: int, width: int) -> np.ndarray:
    """Returns two images, one of noise and one smooth, so that their features differ."""
    rng = np.random.default_rng(height * width)
    noise = rng.integers(0, 256, (1, height, width, 3))
    ramp = np.indices((height, width)).sum(0)[None, ..., None] * rng.uniform(0.5, 2, 3)
    return np.concatenate([noise, ramp % 256]).astype(np.uint8)


def relative_error(actual: Any, expected: Any) -> float:
    """Returns the largest difference, relative to the largest value of the layer."""
    expected = np.asarray(expected)
    return float(np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    return random_inception_state(0)


@pytest.fixture(scope="module")
def features(state: dict[str, Any]) -> dict[str, np.ndarray]:
    """Every layer's features of the images of all sizes, in one batch."""
    params = fold_torch_state({name: value.numpy() for name, value in state.items()})
    x = jnp.concatenate([preprocess_images(jnp.asarray(random_images(*size))) for size in SIZES])
    layers = jax.jit(FidInception(LAYERS).apply)({"params": params}, x)
    return {layer: np.asarray(value) for layer, value in layers.items()}


@pytest.mark.slow
def test_every_layer_equals_torch_fidelity_at_every_size(
    state: dict[str, Any], features: dict[str, np.ndarray], parity: Any
) -> None:
    torch = import_reference("torch")
    layers = [layer for layer in LAYERS if layer != "1280"]
    network = build_torch_fidelity_network(state, layers)
    for i, size in enumerate(SIZES):
        with torch.no_grad():
            expected_layers = network(torch.tensor(random_images(*size).transpose(0, 3, 1, 2)))
        for layer, expected in zip(layers, expected_layers, strict=True):
            error = relative_error(features[layer][2 * i : 2 * i + 2], expected)
            parity.check(f"Inception {layer}, torch-fidelity", error, bound=1e-4)


@pytest.mark.slow
def test_every_pool_layer_equals_pytorch_fid(
    state: dict[str, Any], features: dict[str, np.ndarray], parity: Any
) -> None:
    torch = import_reference("torch")
    network = build_pytorch_fid_network(state)
    maps = {}
    network.blocks[3][0].register_forward_hook(lambda *args: maps.update({"1280": args[2]}))
    x = np.concatenate(
        [np.asarray(preprocess_images(jnp.asarray(random_images(*size)))) for size in SIZES]
    )
    with torch.no_grad():
        pooled = network(torch.tensor(x.transpose(0, 3, 1, 2)))
    maps.update(zip(("64", "192", "768", "2048"), pooled, strict=True))
    for layer in POOL_LAYERS:
        error = relative_error(features[layer], maps[layer].mean((2, 3)))
        parity.check(f"Inception {layer}, pytorch-fid", error, bound=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_resize_equals_tensorflow_1(size: tuple[int, int]) -> None:
    torch = import_reference("torch")
    module = import_reference("torch_fidelity.interpolate_compat_tensorflow")
    x = torch.tensor(random_images(*size).transpose(0, 3, 1, 2)).float()
    expected = module.interpolate_bilinear_2d_like_tensorflow1x(
        x, size=(299, 299), align_corners=False
    )
    actual = np.asarray(resize_tf1(jnp.asarray(random_images(*size)))).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(actual, expected.numpy(), atol=1e-4)


def test_resize_of_two_pixels_by_hand() -> None:
    row = np.asarray(resize_tf1(jnp.asarray([[[[0, 0, 0], [100, 0, 0]]]], jnp.uint8)))[0, 0, :, 0]
    position = np.arange(299) * 2 / 299
    expected = np.where(position < 1, 100 * position, 100)  # constant past the last pixel
    np.testing.assert_allclose(row, expected, atol=1e-4)


def test_parameter_shapes_are_those_of_the_requested_layers() -> None:
    def parameter_names(layer: str) -> set[str]:
        return set(parameter_shapes([layer]))

    assert parameter_names("64") == {"conv", "conv_1", "conv_2"}
    assert parameter_names("192") == parameter_names("64") | {"conv_3", "conv_4"}
    assert not any(name.startswith(("mixed_9", "mixed_10")) for name in parameter_names("1280"))
    assert parameter_names("logits") - parameter_names("2048") == {"softmax"}
    assert len(parameter_names("2048")) == 94


@pytest.mark.slow
def test_maps_average_to_the_features_of_evaluation_and_have_a_gradient(
    state: dict[str, Any],
) -> None:
    folded = fold_torch_state({name: value.numpy() for name, value in state.items()})
    params = jax.tree.map(jnp.asarray, folded)
    layers, pixels = ("64", "192"), random_images(16, 16)[..., :1]
    x = preprocess_images(jnp.asarray(pixels.repeat(3, axis=3)))
    expected = FidInception(layers).apply({"params": params}, x)

    def maps(images: jax.Array) -> tuple[jax.Array, ...]:
        _, collections = InceptionMaps(layers).apply(
            {"params": params}, images, train=False, mutable=["intermediates"]
        )
        return collections["intermediates"]["features"]

    images = jnp.asarray(pixels / 127.5 - 1, jnp.float32)
    for layer, values in zip(layers, maps(images), strict=True):
        assert relative_error(values.mean(axis=(1, 2)), expected[layer]) < 1e-4
    slope = jax.grad(lambda images: jnp.mean(maps(images)[1]))(images)
    assert np.isfinite(slope).all()
    assert float(jnp.abs(slope).max()) > 0

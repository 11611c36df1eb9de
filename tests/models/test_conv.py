"""The 4x4 stride-2 convolutions: each implementation against the definition and PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gankd_jax.models import conv
from gankd_jax.models.conv import im2col, strided, winograd

# (height, width, input channels, output channels); the sizes cover every algorithm of 'matmul':
# Winograd, im2col by windows and im2col by taps.
TRANSPOSED = [
    (4, 4, 3, 9),
    (5, 3, 7, 3),
    (16, 16, 4, 1),
    (17, 16, 3, 1),
    (16, 16, 3, 9),
    (8, 16, 33, 32),
]
PLAIN = [
    (4, 4, 3, 9),
    (6, 4, 1, 5),
    (8, 8, 5, 11),
    (32, 36, 3, 5),
    (32, 32, 1, 4),
    (16, 32, 32, 33),
    (18, 30, 32, 33),
]
SHAPES = [("transposed", *shape) for shape in TRANSPOSED]
SHAPES += [("plain", *shape) for shape in PLAIN]
LAYERS = {"transposed": conv.conv_transpose_stride2, "plain": conv.conv_stride2}


def random_inputs(direction, h, w, i, o):
    """Returns random images, a kernel, and weights for the outputs."""
    rng = np.random.default_rng(h * w + i * o)
    scale = {"transposed": (2 * h, 2 * w), "plain": (h // 2, w // 2)}[direction]
    shapes = [(2, h, w, i), (4, 4, i, o), (2, *scale, o)]
    images, kernel, weights = (rng.normal(size=shape) for shape in shapes)
    return [x.astype(np.float32) for x in (images, kernel / np.sqrt(i), weights)]


def convolve_by_definition(direction, images, kernel):
    """Convolves pixel by pixel in float64, with a border of one pixel."""
    b, h, w, _ = images.shape
    o = kernel.shape[3]
    if direction == "transposed":  # every input pixel adds the whole kernel at twice its position
        padded = np.zeros((b, 2 * h + 2, 2 * w + 2, o))
        for m in range(h):
            for n in range(w):
                block = np.einsum("bi,rsio->brso", images[:, m, n], kernel, dtype=float)
                padded[:, 2 * m : 2 * m + 4, 2 * n : 2 * n + 4] += block
        return padded[:, 1:-1, 1:-1]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    result = np.zeros((b, h // 2, w // 2, o))
    for m in range(h // 2):
        for n in range(w // 2):
            patch = padded[:, 2 * m : 2 * m + 4, 2 * n : 2 * n + 4]
            result[:, m, n] = np.einsum("brsi,rsio->bo", patch, kernel, dtype=float)
    return result


@functools.cache
def compute_derivatives(impl, direction, *shape):
    """Returns the value; the gradients of f = sum(sin(value) weights); those of |df/dimages|^2."""
    layer = functools.partial(LAYERS[direction], impl=impl)

    def f(images, kernel, weights):
        return jnp.sum(jnp.sin(layer(images, kernel)) * weights)

    def squared_gradient(images, kernel, weights):
        return jnp.sum(jnp.square(jax.grad(f)(images, kernel, weights)))

    @jax.jit
    def all_derivatives(images, kernel, weights):
        return (
            layer(images, kernel),
            jax.grad(f, (0, 1))(images, kernel, weights),
            jax.grad(squared_gradient, (0, 1))(images, kernel, weights),
        )

    return all_derivatives(*map(jnp.asarray, random_inputs(direction, *shape)))


def compute_torch_derivatives(torch, direction, *shape):
    """Returns the same from PyTorch, with axes in this project's order."""
    images, kernel, weights = (torch.tensor(a) for a in random_inputs(direction, *shape))
    images.requires_grad_()
    kernel.requires_grad_()
    function, order = {
        "transposed": (torch.nn.functional.conv_transpose2d, (2, 3, 0, 1)),
        "plain": (torch.nn.functional.conv2d, (3, 2, 0, 1)),
    }[direction]
    value = function(images.permute(0, 3, 1, 2), kernel.permute(order), stride=2, padding=1)
    value = value.permute(0, 2, 3, 1)
    f = (torch.sin(value) * weights).sum()
    first = torch.autograd.grad(f, (images, kernel), create_graph=True)
    second = torch.autograd.grad(first[0].square().sum(), (images, kernel))
    return jax.tree.map(lambda tensor: tensor.detach().numpy(), (value, first, second))


def relative_error(actual, expected) -> float:
    """Returns the largest error of two pytrees, relative to each array's largest value."""
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    return float(np.max([np.abs(np.asarray(a) - b).max() / np.abs(b).max() for a, b in pairs]))


@pytest.mark.parametrize("impl", conv.CONV_IMPLS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_implementation_equals_the_definition(impl, shape):
    images, kernel, _ = random_inputs(*shape)
    value = compute_derivatives(impl, *shape)[0]
    np.testing.assert_allclose(
        value, convolve_by_definition(shape[0], images, kernel), rtol=0, atol=2e-5
    )


@pytest.mark.parametrize("impl", conv.CONV_IMPLS[1:])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_implementations_agree_in_first_and_second_derivatives(impl, shape):
    actual, reference = compute_derivatives(impl, *shape), compute_derivatives("dilated", *shape)
    assert relative_error(actual[1:], reference[1:]) < 1e-5


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_implementation_equals_pytorch(parity, shape):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    expected = compute_torch_derivatives(torch, *shape)
    names = ("value", "gradient", "second derivative")
    for impl in conv.CONV_IMPLS:
        actual = compute_derivatives(impl, *shape)
        for name, derivative, reference in zip(names, actual, expected, strict=True):
            error = relative_error(derivative, reference)
            parity.check(f"4x4 stride-2 layer {shape[0]}, {impl}: {name}", error, bound=1e-5)


@pytest.mark.parametrize("layer", [*LAYERS.values(), conv.conv_stride1], ids=lambda f: f.__name__)
@pytest.mark.parametrize("axes", [(0, 0), (None, 0), (0, None)], ids=str)
def test_networks_under_vmap_equal_one_after_the_other(layer, axes):
    """Each with a kernel and images of its own, or all with the same of either."""
    rng = np.random.default_rng(0)
    size = 3 if layer is conv.conv_stride1 else 4
    images, kernels = rng.normal(size=(3, 2, 4, 6, 2)), rng.normal(size=(3, size, size, 2, 5))

    def second_derivatives(*inputs):
        loss = lambda *x: jnp.sin(layer(*x, "dilated")).sum()  # noqa: E731
        squares = lambda *x: sum(jnp.square(g).sum() for g in jax.grad(loss, (0, 1))(*x))  # noqa: E731
        return jax.grad(squares, (0, 1))(*inputs)

    def row(k):
        return [a[k * (axis == 0)] for a, axis in zip((images, kernels), axes, strict=True)]

    inputs = [a if axis == 0 else a[0] for a, axis in zip((images, kernels), axes, strict=True)]
    together = jax.jit(jax.vmap(second_derivatives, axes))(*inputs)
    alone = jax.tree.map(
        lambda *leaves: np.stack(leaves), *(second_derivatives(*row(k)) for k in range(3))
    )
    assert relative_error(together, alone) < 1e-5


@pytest.mark.parametrize("axes", [(0, 0), (None, 0), (0, None)], ids=str)
def test_calls_in_turn_equal_vmap(axes):
    """A GPU makes them; the tests run on a CPU."""
    arrays = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    inputs = [a if axis == 0 else a[0] for a, axis in zip(arrays, axes, strict=True)]
    product = lambda a, b: jnp.sin(a) * b  # noqa: E731
    expected = jax.vmap(product, axes)(*inputs)
    np.testing.assert_array_equal(strided.map_in_turn(product, axes)(*inputs), expected)


def test_batches_joined_equal_vmap_with_a_kernel_of_all():
    """As on a GPU."""
    images = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    product = lambda images, kernel: jnp.sin(images) @ kernel  # noqa: E731
    expected = jax.vmap(product, (0, None))(images, images[0, 0].T)
    actual = strided.join_batches(product)(images, images[0, 0].T)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_shapes_cover_every_algorithm_of_matmul():
    algorithms = [conv._choose_matmul((h, w), (i, o))[0] for h, w, i, o in TRANSPOSED]
    heavy, taps, windows = (
        winograd.conv_transpose,
        im2col.conv_transpose_col2im,
        im2col.conv_transpose_windows,
    )
    assert algorithms == [taps, taps, taps, windows, windows, heavy]
    algorithms = [conv._choose_matmul((h // 2, w // 2), (o, i))[1] for h, w, i, o in PLAIN]
    heavy, taps, windows = winograd.conv, im2col.conv_im2col, im2col.conv_windows
    assert algorithms == [taps, taps, taps, windows, taps, heavy, taps]


@pytest.mark.parametrize("shape", [("transposed", 4, 6, 2, 3), ("plain", 8, 4, 3, 2)], ids=str)
def test_winograd_equals_the_definition_for_any_number_of_channels(shape):
    direction, *sizes = shape
    images, kernel, weights = map(jnp.asarray, random_inputs(direction, *sizes))
    layer_by_winograd = {
        "transposed": winograd.conv_transpose,
        "plain": lambda x, k: winograd.conv(x, k.swapaxes(2, 3)),
    }[direction]

    def value(layer, images, kernel):
        return jnp.sum(jnp.sin(layer(images, kernel)) * weights)

    def squared_gradient(layer, images, kernel):
        return jnp.sum(jnp.square(jax.grad(value, 1)(layer, images, kernel)))

    plain = functools.partial(LAYERS[direction], impl="dilated")
    for f in (value, squared_gradient):
        actual, expected = (
            jax.grad(f, (1, 2))(layer, images, kernel) for layer in (layer_by_winograd, plain)
        )
        assert relative_error(actual, expected) < 1e-5


def test_3x3_convolution_by_tiles_equals_the_backends_own_in_every_derivative():
    rng = np.random.default_rng(0)
    images, kernel = rng.normal(size=(3, 8, 12, 16)), rng.normal(size=(3, 3, 16, 18)) / 12

    def all_derivatives(impl):
        def f(images, kernel):
            return jnp.sum(jnp.sin(conv.conv_stride1(images, kernel, impl)))

        def squared_gradient(images, kernel):
            return sum(jnp.sum(jnp.square(g)) for g in jax.grad(f, (0, 1))(images, kernel))

        inputs = [jnp.asarray(x, jnp.float32) for x in (images, kernel)]
        return (
            conv.conv_stride1(*inputs, impl),
            jax.grad(f, (0, 1))(*inputs),
            jax.grad(squared_gradient, (0, 1))(*inputs),
        )

    expected = all_derivatives("dilated")
    assert relative_error(all_derivatives("matmul"), expected) < 5e-5


def test_winograd_takes_36_multiplications_in_place_of_64():
    """XLA counts the operations of the compiled program, additions included."""

    def count_flops(layer):
        shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((8, 8, 8, 256), (4, 4, 256, 128))]
        return jax.jit(layer).lower(*shapes).compile().cost_analysis()["flops"]

    direct_flops = 2 * 8 * 8 * 8 * 16 * 256 * 128
    assert count_flops(winograd.conv_transpose) == pytest.approx(direct_flops * 36 / 64, rel=0.03)


def test_auto_is_resolved_by_backend_and_other_names_are_kept():
    assert conv.resolve_conv_impl("auto") == "matmul"  # tests run on the CPU
    assert [conv.resolve_conv_impl(impl) for impl in conv.CONV_IMPLS] == list(conv.CONV_IMPLS)

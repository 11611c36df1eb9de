"""The 4x4 stride-2 layers: every form against the definition, one another, and PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gankd_jax.models import conv
from gankd_jax.models.conv import im2col, winograd

# height, width, channels in and out.  As matrix products, heavy layers take the fast way if the
# small image's sides are even; others go by windows from 16 pixels on, if the small image has less
# than four times the large one's channels, and by taps elsewhere.
UP = [(4, 4, 3, 9), (5, 3, 7, 3), (16, 16, 4, 1), (17, 16, 3, 1), (16, 16, 3, 9), (8, 16, 33, 32)]
DOWN = [
    (4, 4, 3, 9),
    (6, 4, 1, 5),
    (8, 8, 5, 11),
    (32, 36, 3, 5),
    (32, 32, 1, 4),
    (16, 32, 32, 33),
    (18, 30, 32, 33),
]
SHAPES = [("up", *shape) for shape in UP] + [("down", *shape) for shape in DOWN]
LAYERS = {"up": conv.conv_transpose_stride2, "down": conv.conv_stride2}


def inputs(direction, h, w, i, o):
    """Random images, kernel, and weights of the outputs."""
    rng = np.random.default_rng(h * w + i * o)
    scale = {"up": (2 * h, 2 * w), "down": (h // 2, w // 2)}[direction]
    shapes = [(2, h, w, i), (4, 4, i, o), (2, *scale, o)]
    images, kernel, weights = (rng.normal(size=shape) for shape in shapes)
    return [x.astype(np.float32) for x in (images, kernel / np.sqrt(i), weights)]


def naive(direction, images, kernel):
    """The definition, pixel by pixel, in float64 with a frame of one pixel."""
    b, h, w, _ = images.shape
    o = kernel.shape[3]
    if direction == "up":  # every input pixel puts the whole kernel at twice its place
        frame = np.zeros((b, 2 * h + 2, 2 * w + 2, o))
        for m in range(h):
            for n in range(w):
                stamp = np.einsum("bi,rsio->brso", images[:, m, n], kernel, dtype=float)
                frame[:, 2 * m : 2 * m + 4, 2 * n : 2 * n + 4] += stamp
        return frame[:, 1:-1, 1:-1]
    frame = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    result = np.zeros((b, h // 2, w // 2, o))
    for m in range(h // 2):
        for n in range(w // 2):
            patch = frame[:, 2 * m : 2 * m + 4, 2 * n : 2 * n + 4]
            result[:, m, n] = np.einsum("brsi,rsio->bo", patch, kernel, dtype=float)
    return result


@functools.cache
def derivatives(form, direction, *shape):
    """The value; the gradients of f = sum(sin(value) weights); those of |grad f of images|^2."""
    layer = functools.partial(LAYERS[direction], form=form)

    def f(images, kernel, weights):
        return jnp.sum(jnp.sin(layer(images, kernel)) * weights)

    def slope(images, kernel, weights):
        return jnp.sum(jnp.square(jax.grad(f)(images, kernel, weights)))

    @jax.jit
    def everything(images, kernel, weights):
        both = (0, 1)
        return (
            layer(images, kernel),
            jax.grad(f, both)(images, kernel, weights),
            jax.grad(slope, both)(images, kernel, weights),
        )

    return everything(*map(jnp.asarray, inputs(direction, *shape)))


def torch_derivatives(torch, direction, *shape):
    """The same by PyTorch, in this project's order of axes."""
    images, kernel, weights = (torch.tensor(a) for a in inputs(direction, *shape))
    images.requires_grad_()
    kernel.requires_grad_()
    function, order = {
        "up": (torch.nn.functional.conv_transpose2d, (2, 3, 0, 1)),
        "down": (torch.nn.functional.conv2d, (3, 2, 0, 1)),
    }[direction]
    value = function(images.permute(0, 3, 1, 2), kernel.permute(order), stride=2, padding=1)
    value = value.permute(0, 2, 3, 1)
    f = (torch.sin(value) * weights).sum()
    first = torch.autograd.grad(f, (images, kernel), create_graph=True)
    second = torch.autograd.grad(first[0].square().sum(), (images, kernel))
    return jax.tree.map(lambda tensor: tensor.detach().numpy(), (value, first, second))


def relative_error(ours, theirs) -> float:
    """Of two pytrees: the largest, each array in units of its largest value."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return float(np.max([np.abs(np.asarray(a) - b).max() / np.abs(b).max() for a, b in pairs]))


@pytest.mark.parametrize("form", conv.CONV_IMPLS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_form_is_the_layer_by_its_definition(form, shape):
    images, kernel, _ = inputs(*shape)
    value = derivatives(form, *shape)[0]
    np.testing.assert_allclose(value, naive(shape[0], images, kernel), rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", conv.CONV_IMPLS[1:])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forms_agree_in_gradient_and_second_derivative(form, shape):
    ours, reference = derivatives(form, *shape), derivatives("dilated", *shape)
    assert relative_error(ours[1:], reference[1:]) < 1e-5


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_form_equals_pytorchs_layer(parity, shape):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    theirs = torch_derivatives(torch, *shape)
    names = ("value", "gradient", "second derivative")
    for form in conv.CONV_IMPLS:
        ours = derivatives(form, *shape)
        for name, mine, reference in zip(names, ours, theirs, strict=True):
            error = relative_error(mine, reference)
            parity.check(f"4x4 stride-2 layer {shape[0]}, {form}: {name}", error, bound=1e-5)


def test_every_way_of_the_matmul_form_is_tried():
    ways = [conv._ways((h, w), (i, o))[0] for h, w, i, o in UP]
    fast, taps, windows = (
        winograd.conv_transpose,
        im2col.conv_transpose_col2im,
        im2col.conv_transpose_windows,
    )
    assert ways == [taps, taps, taps, windows, windows, fast]
    ways = [conv._ways((h // 2, w // 2), (o, i))[1] for h, w, i, o in DOWN]
    fast, taps, windows = winograd.conv, im2col.conv_im2col, im2col.conv_windows
    assert ways == [taps, taps, taps, windows, taps, fast, taps]


@pytest.mark.parametrize("shape", [("up", 4, 6, 2, 3), ("down", 8, 4, 3, 2)], ids=str)
def test_the_fast_way_is_the_layer_and_its_derivatives_with_any_channels(shape):
    direction, *sizes = shape
    images, kernel, weights = map(jnp.asarray, inputs(direction, *sizes))
    fast = {"up": winograd.conv_transpose, "down": lambda x, k: winograd.conv(x, k.swapaxes(2, 3))}[
        direction
    ]

    def value(layer, images, kernel):
        return jnp.sum(jnp.sin(layer(images, kernel)) * weights)

    def slope(layer, images, kernel):
        return jnp.sum(jnp.square(jax.grad(value, 1)(layer, images, kernel)))

    plain = functools.partial(LAYERS[direction], form="dilated")
    for f in (value, slope):
        ours, theirs = (jax.grad(f, (1, 2))(layer, images, kernel) for layer in (fast, plain))
        assert relative_error(ours, theirs) < 1e-5


def test_the_fast_way_takes_36_multiplications_for_64():
    """Counted by XLA in the compiled program, sums included."""

    def operations(layer):
        shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((8, 8, 8, 256), (4, 4, 256, 128))]
        return jax.jit(layer).lower(*shapes).compile().cost_analysis()["flops"]

    plain = 2 * 8 * 8 * 8 * 16 * 256 * 128
    assert operations(winograd.conv_transpose) == pytest.approx(plain * 36 / 64, rel=0.03)


def test_auto_is_a_form_of_the_backend_and_names_stand_for_themselves():
    assert conv.resolve_conv_impl("auto") == "matmul"  # tests run on the CPU
    assert [conv.resolve_conv_impl(form) for form in conv.CONV_IMPLS] == list(conv.CONV_IMPLS)

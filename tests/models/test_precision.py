"""Networks in bfloat16: what is rounded, and what stays in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from gankd_jax.models import conv
from gankd_jax.models.dcgan import DCGANCritic, DCGANGenerator
from gankd_jax.models.precision import has_dtype, resolve_precision, set_precision
from gankd_jax.models.resnet import ResNetCritic, ResNetGenerator

ROUNDING = 2.0**-8  # half a unit in the last place of 8 bits, relative
# Image sizes: the smallest of each family.
NETWORKS = {
    "dcgan": (DCGANGenerator(2, 16, 1, 4), DCGANCritic(2, 16, 1)),
    "resnet": (ResNetGenerator(1, 32, 1, 4), ResNetCritic(1, 32, 1)),
}
PRODUCTS = ("dot_general", "conv_general_dilated")


def random_input(network) -> jax.Array:
    size = getattr(network, "latent_dim", None)
    shape = (2, size) if size else (2, network.image_size, network.image_size, 1)
    return jax.random.normal(jax.random.key(1), shape)


def list_equations(jaxpr):
    """Yields the equations of a program, those of its inner programs too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from list_equations(inner)


@pytest.mark.parametrize(
    ("precision", "backend", "expected"),
    [
        ("auto", "cpu", "float32"),
        ("auto", "", "float32"),  # tests run on the CPU
        ("auto", "gpu", "tf32"),
        ("auto", "tpu", "bfloat16"),
        ("float32", "gpu", "float32"),
        ("bfloat16", "cpu", "bfloat16"),
    ],
)
def test_auto_is_the_precision_of_the_device(precision, backend, expected):
    assert resolve_precision(precision, backend) == expected


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_only_bfloat16_changes_a_network(precision):
    for network in (*NETWORKS["dcgan"], *NETWORKS["resnet"], None, lambda latents: latents):
        assert set_precision(network, precision) is network
        assert (set_precision(network, "bfloat16") is network) != hasattr(network, "dtype")


@pytest.mark.parametrize("family", NETWORKS)
@pytest.mark.parametrize("role", [0, 1])
def test_every_product_of_a_network_is_rounded_but_that_of_the_scores(family, role):
    network = NETWORKS[family][role]
    assert has_dtype(network)
    rounded, inputs = set_precision(network, "bfloat16"), random_input(network)
    variables = network.init(jax.random.key(0), inputs, train=False)
    shapes = jax.eval_shape(lambda: rounded.init(jax.random.key(0), inputs, train=False))
    assert shapes == jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), variables)

    def apply(variables, inputs):
        outputs, updated = rounded.apply(variables, inputs, train=True, mutable=["batch_stats"])
        return outputs, updated

    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(apply, variables, inputs))} == {
        jnp.dtype("float32")
    }
    network_input = jax.make_jaxpr(apply)(variables, inputs).jaxpr
    products = [e for e in list_equations(network_input) if e.primitive.name in PRODUCTS]
    images = [e for e in products if e.outvars[0].aval.shape[0] == len(inputs)]
    dtypes = [str(equation.invars[0].aval.dtype) for equation in images]
    expected = ["bfloat16"] * (len(dtypes) - role) + ["float32"] * role
    assert dtypes == expected
    assert len(dtypes) >= 3


@pytest.mark.parametrize("impl", conv.CONV_IMPLS)
def test_a_rounded_layer_rounds_its_result_alone(impl):
    rng = np.random.default_rng(0)
    images, kernel = (
        jnp.asarray(rng.normal(size=shape), jnp.bfloat16)
        for shape in ((2, 8, 8, 32), (4, 4, 32, 32))
    )
    for layer in (conv.conv_transpose_stride2, conv.conv_stride2):
        rounded = layer(images, kernel, impl)
        exact = layer(images.astype(jnp.float32), kernel.astype(jnp.float32), impl)
        assert rounded.dtype == jnp.bfloat16
        np.testing.assert_allclose(
            np.asarray(rounded, np.float32), exact, rtol=1.01 * ROUNDING, atol=1e-4
        )


@pytest.mark.parametrize("impl", conv.CONV_IMPLS)
def test_images_and_gradients_are_those_of_float32_but_for_the_rounding(impl):
    network = DCGANGenerator(2, 16, 1, 4, conv_impl=impl)
    latents = random_input(network)
    variables = network.init(jax.random.key(0), latents, train=False)
    variables["params"] = jax.tree.map(lambda x: x * 10, variables["params"])

    def loss(params, network):
        images = network.apply({**variables, "params": params}, latents, train=False)
        return jnp.square(images - 0.5).sum(), images

    (gradients, images), (rounded_gradients, rounded_images) = (
        jax.grad(loss, has_aux=True)(variables["params"], set_precision(network, precision))
        for precision in ("float32", "bfloat16")
    )
    pairs = zip(jax.tree.leaves(gradients), jax.tree.leaves(rounded_gradients), strict=True)
    for exact, rounded in [(images, rounded_images), *pairs]:
        assert rounded.dtype == jnp.float32
        error = jnp.linalg.norm(exact - rounded) / jnp.linalg.norm(exact)
        assert 0 < error < 16 * ROUNDING

"""Parameter counts and multiply-adds against the paper, closed forms and PyTorch."""

import pytest

from gankd_jax.models.cost import generator_cost
from gankd_jax.models.dcgan import DCGANGenerator, count_paper_parameters

PAPER_PARAMETERS = {
    2: 28_351,
    4: 62_077,
    8: 145_657,
    16: 377_329,
    32: 1_098_721,
    48: 2_164_177,
    64: 3_573_697,
    128: 12_652_417,
    256: 47_324_929,
}
# By data set: the teacher's width, and the paper's compression ratio of each student width.
RATIOS = {
    "mnist": (256, {2: 1669, 4: 762, 8: 325, 16: 125, 32: 43, 128: 4}),
    "cifar10": (64, {2: 126, 4: 58, 8: 25, 16: 9, 32: 3, 48: 2}),
    "celeb_a": (128, {2: 446, 4: 204, 8: 87, 16: 34, 32: 12, 48: 6}),
}


@pytest.mark.parametrize("width", PAPER_PARAMETERS)
def test_paper_parameters_equal_the_paper(width):
    assert count_paper_parameters(width) == PAPER_PARAMETERS[width]
    assert count_paper_parameters(width) == 672 * width**2 + 12_831 * width + 1


@pytest.mark.parametrize("name", RATIOS)
def test_compression_ratios_equal_the_paper(name):
    teacher, ratios = RATIOS[name]
    counts = {d: count_paper_parameters(d) for d in ratios}
    assert {d: round(count_paper_parameters(teacher) / counts[d]) for d in ratios} == ratios


@pytest.mark.parametrize("width", PAPER_PARAMETERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_parameters_follow_a_closed_form(width, channels):
    d, c = width, channels
    unnormalized = 672 * d**2 + 12_800 * d + 16 * c * d + 15 * d + c
    without_norm, with_norm = (
        generator_cost(DCGANGenerator(d, 64, c, norm=norm)) for norm in ("none", "batch")
    )
    assert without_norm.parameters == unnormalized
    assert with_norm.parameters == unnormalized + 30 * d
    assert with_norm.bytes_float32 == 4 * (unnormalized + 30 * d)
    assert with_norm.paper_parameters == PAPER_PARAMETERS[d]


def test_cost_of_the_smallest_generator_by_hand():
    cost = generator_cost(DCGANGenerator(1, 16, 1, latent_dim=10))
    # 10 -> 2 -> 1 -> 1 channels: kernels, biases, scale and shift of two batch norms
    assert cost.parameters == 16 * (10 * 2 + 2 * 1 + 1 * 1) + (2 + 1 + 1) + 2 * (2 + 1)
    # 16 numbers of 2 channels from 10; then 16 taps for each of 4x4 pixels of 2 channels, and for
    # each of 8x8 pixels of 1 channel
    assert cost.multiply_adds == 16 * 2 * 10 + 16 * 16 * 2 + 16 * 64


@pytest.mark.parametrize(("width", "size", "channels"), [(2, 64, 3), (3, 16, 1), (1, 128, 3)])
def test_multiply_adds_equal_pytorchs_count(width, size, channels):
    twin = pytest.importorskip("torch_twin", reason="torch is not installed")
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    network = twin.generator(width, size, channels)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 100, 1, 1))
    multiply_adds = generator_cost(DCGANGenerator(width, size, channels)).multiply_adds
    assert 2 * multiply_adds == counter.get_total_flops()
    assert (
        sum(p.numel() for p in network.parameters())
        == generator_cost(DCGANGenerator(width, size, channels)).parameters
    )

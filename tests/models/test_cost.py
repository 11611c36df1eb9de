"""Parameter counts and multiply-adds against the paper, closed forms and PyTorch."""

import pytest

from gankd_jax.models.cost import count_paper_parameters, generator_cost
from gankd_jax.models.dcgan import DCGANGenerator

PAPER = {
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
# Data set: the teacher's width, and the ratio that the paper prints for each student's.
RATIOS = {
    "mnist": (256, {2: 1669, 4: 762, 8: 325, 16: 125, 32: 43, 128: 4}),
    "cifar10": (64, {2: 126, 4: 58, 8: 25, 16: 9, 32: 3, 48: 2}),
    "celeb_a": (128, {2: 446, 4: 204, 8: 87, 16: 34, 32: 12, 48: 6}),
}


@pytest.mark.parametrize("width", PAPER)
def test_the_papers_count(width):
    assert count_paper_parameters(width) == PAPER[width]
    assert count_paper_parameters(width) == 672 * width**2 + 12_831 * width + 1


@pytest.mark.parametrize("name", RATIOS)
def test_the_papers_ratios(name):
    teacher, printed = RATIOS[name]
    ours = {d: round(count_paper_parameters(teacher) / count_paper_parameters(d)) for d in printed}
    assert ours == printed


@pytest.mark.parametrize("width", PAPER)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_true_count(width, channels):
    d, c = width, channels
    bare = 672 * d**2 + 12_800 * d + 16 * c * d + 15 * d + c
    plain, normed = (
        generator_cost(DCGANGenerator(d, 64, c, norm=norm)) for norm in ("none", "batch")
    )
    assert plain.parameters == bare
    assert normed.parameters == bare + 30 * d
    assert normed.bytes_float32 == 4 * (bare + 30 * d)
    assert normed.paper_parameters == PAPER[d]


def test_costs_of_the_smallest_generator_by_hand():
    counted = generator_cost(DCGANGenerator(1, 16, 1, latent_dim=10))
    # 10 -> 2 -> 1 -> 1 channels: kernels, biases, scale and shift of two batch norms
    assert counted.parameters == 16 * (10 * 2 + 2 * 1 + 1 * 1) + (2 + 1 + 1) + 2 * (2 + 1)
    # 16 numbers of 2 channels from 10; then 16 taps for each of 4x4 pixels of 2 channels, and for
    # each of 8x8 pixels of 1 channel
    assert counted.multiply_adds == 16 * 2 * 10 + 16 * 16 * 2 + 16 * 64


@pytest.mark.parametrize(("width", "size", "channels"), [(2, 64, 3), (3, 16, 1), (1, 128, 3)])
def test_multiply_adds_as_pytorch_counts_them(width, size, channels):
    twin = pytest.importorskip("torch_twin", reason="torch is not installed")
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    network = twin.generator(width, size, channels)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 100, 1, 1))
    ours = generator_cost(DCGANGenerator(width, size, channels)).multiply_adds
    assert 2 * ours == counter.get_total_flops()
    assert (
        sum(p.numel() for p in network.parameters())
        == generator_cost(DCGANGenerator(width, size, channels)).parameters
    )

"""PyTorch DCGANs as Flax parameters: equal images and scores, and rejected files."""

import itertools
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gankd_jax.interop.torch_weights import (
    infer_critic,
    infer_generator,
    read_critic,
    read_generator,
)
from gankd_jax.models.dcgan import DCGANCritic, DCGANGenerator
from gankd_jax.models.family import Critic, Generator
from gankd_jax.training.train_state import make_variables
from gankd_jax.utils.errors import UserError

torch = pytest.importorskip("torch", reason="torch is not installed")
nn = torch.nn
twin = pytest.importorskip("torch_twin")

State = dict[str, torch.Tensor]
LATENT = 7


def create_generator(
    width: int = 2, size: int = 16, channels: int = 1, **settings
) -> nn.Sequential:
    network = twin.generator(width, size, channels, latent_dim=LATENT, **settings)
    return twin.randomise(network, seed=width).eval()


def create_critic(width: int = 2, size: int = 16, channels: int = 1, **settings) -> nn.Sequential:
    return twin.randomise(twin.critic(width, size, channels, **settings), seed=width).eval()


def remove_biases(network: nn.Sequential) -> nn.Sequential:
    for module in network:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_parameter("bias", None)
    return network


def save_torch(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


# Names and orders of layers in public DCGANs: functions that rename a state_dict.


def nest_in_main(state: State) -> State:
    return {f"main.{key}": value for key, value in state.items()}


def number_layers(state: State, kind: str = "deconv") -> State:
    """Names layers deconv1, deconv1_bn, deconv2 and so on."""
    renamed, layer = {}, 0
    for key, value in state.items():
        module, part = key.split(".")
        if value.ndim == 4:
            layer += 1
        norm = f"{module}.running_mean" in state
        renamed[f"{kind}{layer}{'_bn' * norm}.{part}"] = value
    return renamed


def move_norms_last(state: State) -> State:
    """Orders layers as in a module that creates its convolutions before its batch norms."""
    norms = {key.split(".")[0] for key in state if key.endswith("running_mean")}
    return dict(sorted(state.items(), key=lambda item: item[0].split(".")[0] in norms))


def group_in_blocks(state: State) -> State:
    """Names layers as in a module of two blocks."""
    return {f"{'up' if int(k.split('.')[0]) < 6 else 'out'}.{k}": v for k, v in state.items()}


def drop_batch_counters(state: State) -> State:
    return {key: value for key, value in state.items() if "num_batches" not in key}


def wrap_data_parallel(state: State) -> dict:
    return {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}


def add_critic(state: State) -> State:
    """Puts both networks into one state_dict, as Lightning does."""
    critic_state = create_critic().state_dict()
    networks = {f"discriminator.disc.{k}": v for k, v in critic_state.items()}
    return {"state_dict": networks | {f"generator.gen.{k}": v for k, v in state.items()}}


def add_optimizers(state: State) -> dict:
    averages = {k: {"exp_avg": torch.zeros_like(value)} for k, value in enumerate(state.values())}
    adam = {"state": averages, "param_groups": [{"lr": 0.1}]}
    return {"netD": create_critic().state_dict(), "optimG": adam, "netG": state, "epoch": 3}


RENAMINGS = (
    dict,
    nest_in_main,
    number_layers,
    move_norms_last,
    group_in_blocks,
    drop_batch_counters,
)
RENAMINGS += (wrap_data_parallel, add_critic, add_optimizers)


@pytest.mark.parametrize("rename", RENAMINGS, ids=lambda rename: rename.__name__)
def test_generator_is_read_under_any_layer_names(tmp_path: Path, rename: Callable, parity) -> None:
    network = create_generator()
    trees = read_generator(save_torch(tmp_path / "g.pth", rename(network.state_dict())))
    check_images(network, *trees, parity, "imported generator's images")


@pytest.mark.parametrize(
    ("width", "size", "channels", "norm"),
    [
        (3, 16, 3, "batch"),
        (2, 32, 1, "none"),
        (1, 64, 1, "batch"),
        (4, 64, 3, "batch"),
        (1, 128, 3, "batch"),
    ],
)
def test_architecture_is_inferred_from_shapes(
    tmp_path: Path, width: int, size: int, channels: int, norm: str, parity
) -> None:
    network = create_generator(width, size, channels, norm=norm)
    params, stats = read_generator(save_torch(tmp_path / "g.pth", network.state_dict()))
    assert infer_generator(params) == DCGANGenerator(width, size, channels, LATENT, norm)
    check_images(network, params, stats, parity, "imported generator's images")
    network = create_critic(width, size, channels, norm=norm)
    params, stats = read_critic(save_torch(tmp_path / "c.pth", network.state_dict()))
    assert infer_critic(params) == DCGANCritic(width, size, channels, norm)
    check_scores(network, params, stats, parity)


def test_missing_bias_becomes_zero(tmp_path: Path, parity) -> None:
    network = remove_biases(create_generator(size=64))
    params, stats = read_generator(save_torch(tmp_path / "g.pth", network.state_dict()))
    assert not params["layer4"]["bias"].any()
    check_images(network, params, stats, parity, "imported generator's images")
    network = remove_biases(create_critic(size=64))
    trees = read_critic(save_torch(tmp_path / "c.pth", number_layers(network.state_dict(), "conv")))
    check_scores(network, *trees, parity)


def test_critic_is_read_from_a_checkpoint_of_both_networks(tmp_path: Path, parity) -> None:
    path = save_torch(tmp_path / "both.pth", add_optimizers(create_generator().state_dict()))
    check_scores(create_critic(), *read_critic(path), parity)


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    state = create_generator().half().state_dict()
    params, _ = read_generator(save_torch(tmp_path / "g.pth", state))
    kernel = params["layer0"]["kernel"]
    assert kernel.dtype == np.float32
    expected = state["0.weight"].float().permute(2, 3, 0, 1)
    np.testing.assert_array_equal(kernel, expected.numpy())


def test_folder_and_missing_file_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_generator(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        read_generator(tmp_path / "none.pth")


def replace_entry(key: str, value: torch.Tensor | None, **more: torch.Tensor) -> State:
    """Returns a generator's state_dict with an entry replaced, or removed if the value is None."""
    state = create_generator().state_dict() | {key: value} | more
    return {k: v for k, v in state.items() if v is not None}


def five_by_five_state() -> State:
    layers = [nn.ConvTranspose2d(7, 8, 5), nn.ConvTranspose2d(8, 4, 5), nn.ConvTranspose2d(4, 1, 5)]
    return nn.Sequential(*layers).state_dict()


def state_of_widths(*widths: int) -> State:
    layers = [nn.ConvTranspose2d(a, b, 4) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*layers).state_dict()


def state_without_module(module: int) -> State:
    state = create_generator().state_dict()
    return {key: value for key, value in state.items() if not key.startswith(f"{module}.")}


NOT_GENERATORS = {
    "5x5 kernels": (five_by_five_state, r"0 \(weight 7x8x5x5, bias 8\) is neither a 4x4"),
    "a critic": (lambda: create_critic().state_dict(), "is a critic"),
    "other order of widths": (lambda: state_of_widths(7, 2, 4, 1), r"\[2, 4\].* are \[8, 4\]"),
    "widths that do not halve": (lambda: state_of_widths(7, 6, 2, 1), r"\[6, 2\].* are \[4, 2\]"),
    "layers out of order": (
        lambda: dict(reversed(state_of_widths(7, 4, 2, 1).items())),
        "not follow",
    ),
    "two layers": (lambda: state_of_widths(7, 4, 1), "has 2 convolutions"),
    "one batch norm missing": (
        lambda: state_without_module(1),
        r"widths \[2\], not \[4, 2\] or none",
    ),
    "a norm without statistics": (
        lambda: replace_entry("1.running_mean", None),
        r"1 \(weight 4, bias 4, running_var 4\) is neither",
    ),
    "a ragged norm": (lambda: replace_entry("1.bias", torch.zeros(3)), "is no batch norm"),
    "a bias of another length": (lambda: replace_entry("0.bias", torch.zeros(3)), "not follow"),
    "a linear layer": (
        lambda: replace_entry("x.weight", torch.zeros(3, 2)),
        r"x \(weight 3x2\) is neither",
    ),
    "whole numbers": (
        lambda: replace_entry("0.weight", torch.zeros(7, 4, 4, 4, dtype=torch.int8)),
        "0.weight has values that are not finite",
    ),
    "not a number": (
        lambda: replace_entry("6.bias", torch.tensor([torch.nan])),
        "6.bias has values that are not finite",
    ),
    "two generators": (
        lambda: {"g": create_generator().state_dict(), "ema": create_generator().state_dict()},
        r"several generators \(g, ema\)",
    ),
    "a critic among others": (
        lambda: {"G": five_by_five_state(), "D": create_critic().state_dict()},
        "G: 0 .* D: it is a critic",
    ),
    "no network": (lambda: {"epoch": 3, "x": torch.zeros(2)}, "no state_dict"),
    "a tensor alone": (lambda: torch.zeros(3), "no state_dict"),
}


@pytest.mark.parametrize(("content", "message"), NOT_GENERATORS.values(), ids=NOT_GENERATORS)
def test_networks_that_are_not_generators_are_rejected(
    tmp_path: Path, content: Callable, message: str
) -> None:
    path = save_torch(tmp_path / "g.pth", content())
    with pytest.raises(UserError, match=message) as error_info:
        read_generator(path)
    assert str(error_info.value).startswith(f"{path} ")
    assert "\n" not in str(error_info.value)


def two_score_state() -> State:
    layers = [nn.Conv2d(1, 2, 4), nn.Conv2d(2, 4, 4), nn.Conv2d(4, 2, 4)]
    return nn.Sequential(*layers).state_dict()


NOT_CRITICS = {
    "a generator": (lambda: create_generator().state_dict(), "is a generator"),
    "two scores": (two_score_state, "returns 2 numbers"),
    "a norm per image": (lambda: create_critic(norm="layer").state_dict(), "nor a batch norm"),
}


@pytest.mark.parametrize(("content", "message"), NOT_CRITICS.values(), ids=NOT_CRITICS)
def test_networks_that_are_not_critics_are_rejected(
    tmp_path: Path, content: Callable, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_critic(save_torch(tmp_path / "c.pth", content()))


class MaliciousObject:
    """Content of a malicious file: unpickling it runs a command."""

    def __reduce__(self) -> tuple:
        import os

        return os.system, ("touch harm",)


@pytest.mark.parametrize("read", [read_generator, read_critic])
def test_file_with_code_is_rejected_without_running_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable
) -> None:
    monkeypatch.chdir(tmp_path)
    save_torch(Path("a.pth"), create_generator().state_dict() | {"harm": MaliciousObject()})
    Path("b.pth").write_bytes(pickle.dumps(MaliciousObject()))
    for name in ("a.pth", "b.pth"):
        with pytest.raises(UserError, match="not allowed"):
            read(Path(name))
    assert not Path("harm").exists()


def test_pickled_module_is_rejected(tmp_path: Path) -> None:
    path = save_torch(tmp_path / "g.pth", create_generator())
    with pytest.raises(UserError, match=re.escape("torch.nn.modules.container.Sequential")):
        read_generator(path)


def check_images(network: nn.Sequential, params: dict, stats: dict, parity, label: str) -> None:
    latents = np.random.default_rng(1).normal(size=(5, LATENT)).astype(np.float32)
    with torch.no_grad():
        expected = twin.channels_last(twin.generate(network, latents))
    images = apply_network(infer_generator(params), params, stats, latents)
    assert np.std(expected) > 0.01
    parity.check(label, np.abs(images - expected).max(), bound=1e-5)


def check_scores(network: nn.Sequential, params: dict, stats: dict, parity) -> None:
    module = infer_critic(params)
    shape = (5, module.image_size, module.image_size, module.channels)
    images = np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)
    with torch.no_grad():
        expected = network(twin.channels_first(images)).numpy()
    scores = apply_network(module, params, stats, images)
    assert np.std(expected) > 0.01
    parity.check("imported critic's scores", np.abs(scores - expected).max(), bound=1e-5)


def apply_network(
    module: Generator | Critic, params: dict, stats: dict, inputs: np.ndarray
) -> np.ndarray:
    tree, inputs = jax.tree.map(jnp.asarray, (make_variables(params, stats), inputs))
    return np.asarray(jax.jit(module.apply, static_argnames="train")(tree, inputs, train=False))

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

from gankd_jax.export.formats import export_generator
from gankd_jax.interop.torch_weights import (
    infer_critic,
    infer_generator,
    read_critic,
    read_generator,
)
from gankd_jax.models import sampling
from gankd_jax.models.dcgan import DCGANCritic, DCGANGenerator
from gankd_jax.models.family import Critic, Generator
from gankd_jax.models.sampling import TrainedGenerator
from gankd_jax.training.train_state import make_variables
from gankd_jax.utils.errors import UserError

torch = pytest.importorskip("torch", reason="torch is not installed")
nn = torch.nn
twin = pytest.importorskip("torch_twin")

State = dict[str, torch.Tensor]
LATENT = 7


def create_generator(
    width: int = 2, size: int = 16, channels: int = 1, *, seed: int = 2, **settings
) -> nn.Sequential:
    network = twin.generator(width, size, channels, latent_dim=LATENT, **settings)
    return twin.randomise(network, seed=seed).eval()


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


def average_weights(state: State) -> State:
    """torch.optim.swa_utils.AveragedModel"""
    return {"n_averaged": torch.tensor(3)} | {f"module.{k}": v for k, v in state.items()}


def sort_names_as_text(state: State) -> State:
    """main.0, main.1, main.10, main.12, main.3: how safetensors writes the official example."""
    return dict(sorted(nest_in_main({f"{int(k[0]) + 7}{k[1:]}": state[k] for k in state}).items()))


def use_unordered_names(state: State) -> State:
    """final, initial, pyramid: names whose order says nothing."""
    names = {"0": "initial", "1": "initial_norm", "6": "final"}
    renamed = {k: f"{names.get(k[0], f'pyramid.{k[0]}')}{k[1:]}" for k in state}
    return {renamed[k]: state[k] for k in sorted(state, key=renamed.__getitem__)}


def nest_under(*keys: str) -> Callable[[State], dict]:
    """A checkpoint that holds the state_dict under these keys, beside other values."""

    def name(state: State) -> dict:
        for key in reversed(keys):
            state = {"epoch": 3, key: state}
        return state

    name.__name__ = ".".join(keys)
    return name


PLACES = ("state_dict", "netG", "generator", "g_ema", "G", "model_state_dict")
RENAMINGS = (
    dict,
    nest_in_main,
    number_layers,
    move_norms_last,
    group_in_blocks,
    drop_batch_counters,
)
RENAMINGS += (wrap_data_parallel, add_critic, add_optimizers)
RENAMINGS += (average_weights, sort_names_as_text, use_unordered_names, *map(nest_under, PLACES))
RENAMINGS += (nest_under("ema", "generator", "state_dict"),)


def test_sorted_names_are_not_in_the_order_of_the_layers() -> None:
    for rename in (sort_names_as_text, use_unordered_names):
        names = [
            key for key, value in rename(create_generator().state_dict()).items() if value.ndim == 4
        ]
        assert names[0].rpartition(".")[0] in ("main.10", "final")


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


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("order", [sorted, lambda names: sorted(names, reverse=True)])
def test_kernels_in_any_order_tell_a_generator_from_a_critic(
    tmp_path: Path, order: Callable, width: int, channels: int
) -> None:
    networks = {
        "g.pth": create_generator(width, 64, channels),
        "c.pth": create_critic(width, 64, channels),
    }
    for name, network in networks.items():
        names = ("d", "b", "e", "a", "c")  # of the layers, first to last
        kernels = [value for value in network.state_dict().values() if value.ndim == 4]
        state = dict(zip((f"{name}.weight" for name in names), kernels, strict=True))
        save_torch(tmp_path / name, {name: state[name] for name in order(state)})
    params, _ = read_generator(tmp_path / "g.pth")
    assert infer_generator(params) == DCGANGenerator(width, 64, channels, LATENT, "none")
    params, _ = read_critic(tmp_path / "c.pth")
    assert infer_critic(params) == DCGANCritic(width, 64, channels, "none")
    with pytest.raises(UserError, match="is a generator"):
        read_critic(tmp_path / "g.pth")
    with pytest.raises(UserError, match="is a critic"):
        read_generator(tmp_path / "c.pth")


SAFETENSORS = pytest.importorskip("safetensors.torch")


@pytest.mark.parametrize(
    "rename", [nest_in_main, sort_names_as_text, use_unordered_names, average_weights]
)
def test_safetensors_of_pytorch_networks_are_read(tmp_path: Path, rename: Callable, parity) -> None:
    path = tmp_path / "g.safetensors"
    path.write_bytes(SAFETENSORS.save(rename(create_generator().state_dict())))
    check_images(create_generator(), *read_generator(path), parity, "imported generator's images")


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("format_name", ["safetensors", "torch"])
def test_exported_files_are_read(tmp_path: Path, format_name: str, precision: str, parity) -> None:
    trees = read_generator(save_torch(tmp_path / "g.pth", create_generator().state_dict()))
    module, variables = infer_generator(trees[0]), make_variables(*trees)
    exported = export_generator(
        TrainedGenerator(module, variables), format_name, precision, run_name="x"
    )
    (tmp_path / "g").write_bytes(exported.content)
    params, stats = read_generator(tmp_path / "g")
    assert stats == {}
    latents = np.random.default_rng(1).normal(size=(5, LATENT)).astype(np.float32)
    expected = np.asarray(sampling.sample_images(*exported.generator, latents))
    images = apply_network(infer_generator(params), params, stats, latents)
    parity.check("generator exported and read", np.abs(images - expected).max(), bound=1e-5)


def normalize_weights(network: nn.Sequential, norm: Callable) -> nn.Sequential:
    for module in network:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            norm(module)
    return network


def run_power_iteration(network: nn.Sequential, inputs: torch.Tensor) -> nn.Sequential:
    """Updates `u` and `v`, and scales `g`, so that it is not the norm of `v`."""
    numbers = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _ in range(2):
            network.train()(inputs)
        for name, tensor in network.named_parameters():
            if name.endswith(("_g", "original0")):
                tensor *= 1 + 0.1 * torch.randn(tensor.shape, generator=numbers)
    return network.eval()


NORMS: dict[str, Callable] = {
    "spectral_norm": nn.utils.spectral_norm,
    "weight_norm": nn.utils.weight_norm,
    "weight_norm of outputs": lambda module: nn.utils.weight_norm(module, dim=1),
    "weight_norm of all": lambda module: nn.utils.weight_norm(module, dim=None),
    "parametrizations.spectral_norm": nn.utils.parametrizations.spectral_norm,
    "parametrizations.weight_norm": nn.utils.parametrizations.weight_norm,
}


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch's older weight norm
@pytest.mark.parametrize("latent", [LATENT, 4])  # with 4, the first kernel is square
@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_weight_and_spectral_norm_are_folded(
    tmp_path: Path, norm: Callable, latent: int, parity
) -> None:
    network = twin.generator(2, 16, 1, latent_dim=latent)
    network = normalize_weights(twin.randomise(network, seed=2), norm)
    network = run_power_iteration(network, torch.randn(4, latent, 1, 1))
    params, stats = read_generator(save_torch(tmp_path / "g.pth", network.state_dict()))
    check_images(network, params, stats, parity, "generator with a norm of weights")
    network = run_power_iteration(
        normalize_weights(create_critic(), norm), torch.randn(4, 1, 16, 16)
    )
    check_scores(
        network, *read_critic(save_torch(tmp_path / "c.pth", network.state_dict())), parity
    )


def test_spectral_norm_of_other_shapes_is_rejected(tmp_path: Path) -> None:
    network = normalize_weights(create_generator(), nn.utils.spectral_norm)
    state = network.state_dict()
    path = save_torch(tmp_path / "g.pth", state | {"0.weight_u": torch.ones(3)})
    with pytest.raises(UserError, match=r"0 \(bias 4, weight_orig 7x4x4x4, weight_u 3, .*\): "):
        read_generator(path)
    path = save_torch(tmp_path / "g.pth", state | {"0.weight_u": torch.zeros(4)})
    with pytest.raises(UserError, match="0 has a weight that is not finite once its norm is"):
        read_generator(path)


def test_key_selects_one_of_several_generators(tmp_path: Path) -> None:
    other = create_generator(seed=9).state_dict()
    content = {"generator": create_generator().state_dict(), "ema": {"generator": other}}
    path = save_torch(tmp_path / "g.pth", content)
    for key in ("ema", "ema.generator"):
        kernel = read_generator(path, key)[0]["layer0"]["kernel"]
        np.testing.assert_array_equal(kernel, other["0.weight"].permute(2, 3, 0, 1))
    with pytest.raises(UserError, match=r"several generators .*name one, such as --key=ema\.gen"):
        read_generator(path)
    with pytest.raises(UserError, match="several generators"):
        read_generator(path, "generator")
    with pytest.raises(UserError, match=r"no generator of --key=x; it holds generator, ema\.gen"):
        read_generator(path, "x")
    with pytest.raises(UserError, match="holds one without a name; leave out --key"):
        read_generator(save_torch(tmp_path / "g.pth", other), "ema")


def test_key_selects_a_part_of_one_state_dict(tmp_path: Path) -> None:
    other = create_generator(seed=9).state_dict()
    state = {f"online_model.{k}": v for k, v in create_generator().state_dict().items()}
    state |= {f"ema_model.module.{k}": v for k, v in other.items()}
    path = save_torch(
        tmp_path / "g.pth", state | {"initted": torch.tensor(True), "step": torch.ones(1)}
    )
    kernel = read_generator(path, "ema_model")[0]["layer0"]["kernel"]
    np.testing.assert_array_equal(kernel, other["0.weight"].permute(2, 3, 0, 1))


def test_numbers_too_large_for_float32_are_rejected(tmp_path: Path) -> None:
    state = create_generator().double().state_dict()
    state["0.weight"][0, 0, 0, 0] = 1e39
    with pytest.raises(UserError, match="weight has values that are not finite"):
        read_generator(save_torch(tmp_path / "g.pth", state))


def test_names_that_unwrapping_would_merge_are_kept(tmp_path: Path) -> None:
    other = create_generator(seed=9).state_dict()
    both = create_generator().state_dict() | {f"module.{k}": v for k, v in other.items()}
    kernel = read_generator(save_torch(tmp_path / "g.pth", both), "module")[0]["layer0"]["kernel"]
    np.testing.assert_array_equal(kernel, other["0.weight"].permute(2, 3, 0, 1))


def test_critic_is_read_from_a_checkpoint_of_both_networks(tmp_path: Path, parity) -> None:
    path = save_torch(tmp_path / "both.pth", add_optimizers(create_generator().state_dict()))
    check_scores(create_critic(), *read_critic(path), parity)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    state = create_generator().to(dtype).state_dict()
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
    "layers that do not join": (
        lambda: state_of_widths(7, 8, 4, 1) | state_of_widths(7, 5),
        "not follow",
    ),
    "two layers": (lambda: state_of_widths(7, 4, 1), "has 2 convolutions, not 3 to 6"),
    "seven layers": (
        lambda: state_of_widths(7, 32, 16, 8, 4, 2, 1, 1),
        "has 7 convolutions, not 3 to 6",
    ),
    "another norm of weights": (
        lambda: {f"{k}_bar": v for k, v in state_of_widths(7, 4, 2, 1).items() if v.ndim == 4},
        r"0 \(weight_bar 7x4x4x4\) is neither",
    ),
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
        r"several generators \(g, ema\); name one, such as --key=ema",
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
    latent_dim = params["layer0"]["kernel"].shape[2]
    latents = np.random.default_rng(1).normal(size=(5, latent_dim)).astype(np.float32)
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

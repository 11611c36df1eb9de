"""Generators that were trained elsewhere: files and functions, read or refused in one line."""

import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save

from gankd_jax.export import onnx as onnx_format
from gankd_jax.export.pretrained import load_file, load_pretrained
from gankd_jax.export.stablehlo import write_stablehlo
from gankd_jax.interop import external_generator, onnx_runtime
from gankd_jax.interop.external_generator import load_external
from gankd_jax.models.dcgan import DCGANGenerator
from gankd_jax.models.folding import fold_generator
from gankd_jax.models.sampling import TrainedGenerator, sample_images, sample_latents
from gankd_jax.utils.errors import UserError

LATENT_DIM, SIZE = 5, 16


@pytest.fixture(scope="module")
def dcgan() -> TrainedGenerator:
    module = DCGANGenerator(2, SIZE, 3, latent_dim=LATENT_DIM, norm="none", conv_impl="dilated")
    latents = jnp.zeros((2, LATENT_DIM))
    return TrainedGenerator(module, module.init(jax.random.key(0), latents, train=False))


def draw_circles(latents):
    """Images `[b, s, s, 1]` in 0..1, by an operation that JAX can trace and NumPy can run."""
    axis = np.arange(SIZE) / SIZE
    return (latents[:, 0, None, None] ** 2 < axis[:, None] + axis)[..., None] * 1.0


def draw_on_host(latents):
    """The same images `[b, 1, s, s]` in 0..255, which JAX cannot trace."""
    return 255 * np.asarray(draw_circles(np.array(latents))).transpose(0, 3, 1, 2)


def generate(generator: TrainedGenerator, latents) -> np.ndarray:
    return np.asarray(sample_images(*generator, latents))


def write_torch_safetensors(path, generator: TrainedGenerator, **prefixes: float) -> None:
    """Writes kernels as PyTorch names and orders them, once for each prefix, times a factor."""
    params = generator.variables["params"]
    kernels = {f"main.{3 * k}": params[f"layer{k}"]["kernel"] for k in range(len(params))}
    arrays = {
        f"{prefix}.{name}.weight": factor * np.asarray(kernel).transpose(2, 3, 0, 1)
        for prefix, factor in prefixes.items()
        for name, kernel in kernels.items()
    }
    path.write_bytes(save({k: np.ascontiguousarray(v) for k, v in arrays.items()}))


def test_pytorch_safetensors_are_loaded_under_any_name(dcgan, tmp_path):
    path = tmp_path / "net.safetensors"
    write_torch_safetensors(path, dcgan, module=1.0)
    latents = sample_latents(0, 3, LATENT_DIM)
    for load in (load_external, load_file, load_pretrained):
        images = generate(load(str(path)), latents)
        np.testing.assert_allclose(images, generate(dcgan, latents), atol=1e-6)


def test_key_behind_a_file_selects_one_of_its_generators(dcgan, tmp_path):
    path = tmp_path / "net.safetensors"
    write_torch_safetensors(path, dcgan, g=2.0, g_ema=1.0)
    with pytest.raises(UserError, match=r"g, g_ema.*`gankd distill net\.safetensors:g_ema`"):
        load_file(path)
    latents = sample_latents(0, 3, LATENT_DIM)
    images = generate(load_file(f"{path}:g_ema"), latents)
    np.testing.assert_allclose(images, generate(dcgan, latents), atol=1e-6)
    with pytest.raises(UserError, match="no generator of --key=x; it holds g, g_ema"):
        load_file(f"{path}:x")


@pytest.mark.parametrize("count", [1, 7])
def test_a_stablehlo_file_gives_its_generators_images(dcgan, tmp_path, count):
    path = tmp_path / "generator.stablehlo"
    path.write_bytes(write_stablehlo(dcgan.module, fold_generator(dcgan)))
    generator = load_external(path)
    assert (generator.image_size, generator.channels, generator.latent_dim) == (SIZE, 3, LATENT_DIM)
    assert not generator.module.on_host
    latents = sample_latents(0, count, LATENT_DIM)
    difference = np.abs(generate(generator, latents) - generate(dcgan, latents))
    assert difference.max() < 1e-5


@pytest.mark.parametrize("batch", ["n", 4])
@pytest.mark.parametrize("rank", [2, 4])
def test_an_onnx_file_gives_its_generators_images(dcgan, tmp_path, batch, rank):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model = onnx.load_from_string(onnx_format.write_onnx(fold_generator(dcgan)))
    shape = model.graph.input[0].type.tensor_type.shape
    if batch != "n":
        shape.dim[0].dim_value = batch
    for _ in range(rank - len(shape.dim)):
        shape.dim.add().dim_value = 1
    path = tmp_path / "generator.onnx"
    path.write_bytes(model.SerializeToString())
    generator = load_external(path)
    assert (generator.image_size, generator.channels, generator.latent_dim) == (SIZE, 3, LATENT_DIM)
    latents = sample_latents(0, 6, LATENT_DIM)
    assert np.abs(generate(generator, latents) - generate(dcgan, latents)).max() < 1e-5


def test_an_onnx_file_in_float16_with_its_weights_beside_it_and_any_latent_size(dcgan, tmp_path):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model = onnx.load_from_string(onnx_format.write_onnx(fold_generator(dcgan)))
    graph = model.graph
    tensor = graph.input[0].type.tensor_type
    cast = onnx.helper.make_node("Cast", ["halves"], [graph.input[0].name], to=tensor.elem_type)
    graph.node.insert(0, cast)
    graph.input[0].name, tensor.elem_type = "halves", onnx.TensorProto.FLOAT16
    tensor.shape.dim[1].dim_param = "z"  # as PyTorch's exporter writes a size that may change
    path = tmp_path / "generator.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="data", size_threshold=100)
    with pytest.raises(UserError, match=r"generator\.onnx does not say how many numbers"):
        load_external(path)
    generator = load_external(path, latent_dim=LATENT_DIM)
    latents = np.asarray(sample_latents(0, 6, LATENT_DIM)).astype(np.float16).astype(np.float32)
    assert np.abs(generate(generator, latents) - generate(dcgan, latents)).max() < 1e-5
    (tmp_path / "data").unlink()
    with pytest.raises(UserError, match=r"generator\.onnx cannot be read as an ONNX model: .*data"):
        load_external(path, latent_dim=LATENT_DIM)


def test_a_function_of_any_layout_and_range_gives_images_in_minus_1_to_1():
    latents = sample_latents(0, 9, LATENT_DIM)
    traced = load_external(draw_circles, latent_dim=LATENT_DIM)
    on_host = load_external(draw_on_host, latent_dim=LATENT_DIM)
    assert (traced.module.on_host, on_host.module.on_host) == (False, True)
    expected = 2 * np.asarray(draw_circles(latents)) - 1
    np.testing.assert_allclose(generate(traced, latents), expected)
    np.testing.assert_allclose(generate(on_host, latents), expected)


def test_a_module_in_the_current_folder_makes_the_generator(tmp_path, monkeypatch):
    (tmp_path / "my_teacher.py").write_text(
        "import numpy as np\n"
        "def generate(latents):\n"
        "    return latents.reshape(-1, 1, 16, 16) / 100\n"
        "def make(size=16):\n"
        "    return generate\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [""])
    latents = sample_latents(0, 2, 256)
    for name in ("make", "generate"):
        generator = load_external(f"my_teacher:{name}", latent_dim=256, value_range="-1..1")
        np.testing.assert_allclose(
            generate(generator, latents)[..., 0], np.asarray(latents).reshape(2, 16, 16) / 100, 1e-6
        )
    monkeypatch.delitem(sys.modules, "my_teacher")


REFUSED = {
    "flat": (lambda z: np.zeros((len(z), 12)), r"returns \(16, 12\) for latents \(16, 5\)"),
    "not square": (lambda z: np.zeros((len(z), 3, 8, 9)), "it must return square images"),
    "one image": (lambda z: np.zeros((1, 3, 8, 8)), "it must return square images"),
    "nan": (lambda z: np.full((len(z), 3, 8, 8), np.nan), "values that are not finite"),
    "raises": (lambda z: [][1], "fails on latents .*: IndexError list index out of range"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_function_that_is_no_generator_is_refused(name):
    function, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        load_external(function, latent_dim=LATENT_DIM)


def test_sources_that_are_no_generator_are_refused(tmp_path):
    with pytest.raises(UserError, match="how many numbers a latent has; give --latent-dim=N"):
        load_external(draw_circles)
    with pytest.raises(UserError, match=r"none\.onnx does not exist"):
        load_external(tmp_path / "none.onnx")
    with pytest.raises(UserError, match=r"photo.gif is no generator: give a run's folder"):
        load_external("photo.gif")
    with pytest.raises(UserError, match=r"no_such_module:make raises ModuleNotFoundError"):
        load_external("no_such_module:make")
    with pytest.raises(UserError, match=r"the value range is '0..2'; it can be -1..1, 0..1"):
        load_external(draw_circles, latent_dim=LATENT_DIM, value_range="0..2")
    (tmp_path / "bad.stablehlo").write_bytes(b"no program")
    with pytest.raises(UserError, match="is no serialised JAX function of latents"):
        load_external(tmp_path / "bad.stablehlo")


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_an_onnx_file_that_runs_on_the_cpu_of_a_gpu_machine_is_told(
    dcgan, tmp_path, monkeypatch, caplog, backend
):
    pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    path = tmp_path / "generator.onnx"
    path.write_bytes(onnx_format.write_onnx(fold_generator(dcgan)))
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(onnx_runtime, "available_providers", lambda: ["CPUExecutionProvider"])
    external_generator.read_onnx_generator(path)
    expected = [
        f"{path} runs on the CPU: ONNX Runtime has no working CUDA; install onnxruntime-gpu"
    ]
    assert caplog.messages == (expected if backend == "gpu" else [])


def test_an_onnx_file_with_two_inputs_or_damage_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info(name, kind, ["b", 4]) for name in "ab"]
    output = helper.make_tensor_value_info("c", kind, ["b", 4])
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "g", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "two.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(
        UserError, match=r"must have one input, latents, and one output.*has a, b, c"
    ):
        load_external(tmp_path / "two.onnx")
    (tmp_path / "cut.onnx").write_bytes(model.SerializeToString()[:20])
    with pytest.raises(UserError, match=r"cut.onnx cannot be read as an ONNX model"):
        load_external(tmp_path / "cut.onnx")

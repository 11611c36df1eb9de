"""Exported files: they draw the model's images in the runtimes they are made for."""

import importlib.util
import io

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from gankd_jax.export import formats, onnx, safetensors, stablehlo
from gankd_jax.export import torch as torch_format
from gankd_jax.models import dcgan, sampling
from gankd_jax.models.dcgan import DCGANGenerator
from gankd_jax.models.folding import fold_generator, quantize, unfold_generator
from gankd_jax.study import generators
from gankd_jax.study.context import StudyContext
from gankd_jax.utils.atomic_io import read_json
from gankd_jax.utils.constants import PRECISIONS
from gankd_jax.utils.errors import UserError

GENERATOR = DCGANGenerator(3, 32, 3, latent_dim=7)
OFFERED = [(k, p) for k in formats.FORMATS for p in PRECISIONS]


@pytest.fixture(scope="module")
def drawer():
    """A generator whose every number is random, batch norm's statistics too."""
    blank = jnp.zeros((2, GENERATOR.latent_dim))
    shapes = jax.eval_shape(lambda: GENERATOR.init(jax.random.key(0), blank, train=False))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: random_leaf(rng, leaf.shape), shapes)
    return sampling.TrainedGenerator(GENERATOR, variables)


def random_leaf(rng, shape):
    """Kernels of both signs; positive scales and variances."""
    if len(shape) == 4:
        return jnp.asarray(rng.normal(0, 0.3, shape), jnp.float32)
    return jnp.asarray(rng.uniform(0.3, 0.8, shape), jnp.float32)


def latents(count):
    return np.asarray(sampling.sample_latents(5, count, GENERATOR.latent_dim))


def need(*packages):
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


def test_folded_layers_draw_what_batch_norm_draws(drawer):
    plain = unfold_generator(GENERATOR, fold_generator(drawer))
    assert "batch_stats" not in plain.variables
    theirs = sampling.sample_images(*drawer, latents(9))
    assert np.std(theirs) > 0.1
    np.testing.assert_allclose(sampling.sample_images(*plain, latents(9)), theirs, atol=2e-5)


def test_int8_is_within_half_a_step_of_the_weight(drawer):
    for layer in fold_generator(drawer):
        stored = quantize(layer, "int8")
        assert stored.kernel.dtype == np.int8
        off = np.abs(stored.weights - layer.kernel)
        assert (off <= np.abs(layer.kernel).max(axis=(0, 1, 2)) / 127 / 2 * 1.0001).all()


def test_int8_of_a_channel_of_zeros_is_zeros(drawer):
    layer = fold_generator(drawer)[0]
    layer.kernel[..., 0] = 0
    assert (quantize(layer, "int8").weights[..., 0] == 0).all()


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("count", [1, 5])
def test_onnxruntime_draws_the_stored_weights_images(drawer, precision, count):
    need("onnx", "onnxruntime")
    layers = [quantize(layer, precision) for layer in fold_generator(drawer)]
    images = onnx.run_onnx(onnx.write_onnx(layers), latents(count))
    expected = sampling.sample_images(*unfold_generator(GENERATOR, layers), latents(count))
    np.testing.assert_allclose(images, expected, atol=2e-5)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_stablehlo_draws_any_number_of_images_and_holds_small_weights(drawer, precision):
    layers = [quantize(layer, precision) for layer in fold_generator(drawer)]
    program = stablehlo.write_stablehlo(GENERATOR, layers)
    for count in (1, 5):
        expected = sampling.sample_images(*unfold_generator(GENERATOR, layers), latents(count))
        images = stablehlo.run_stablehlo(program, latents(count))
        np.testing.assert_allclose(images, expected, atol=2e-5)
    assert jax.export.deserialize(program).platforms == stablehlo.PLATFORMS
    assert b".py" not in program  # nothing of the machine that made it


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_stored_weights_are_made_float32_once_when_onnxruntime_loads_them(
    drawer, tmp_path, precision
):
    need("onnx", "onnxruntime")
    import onnx as onnx_package
    import onnxruntime

    def steps(precision):
        """What is done for each image, in onnxruntime's own account."""
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / precision)
        options.log_severity_level = 3
        model = onnx.write_onnx([quantize(layer, precision) for layer in fold_generator(drawer)])
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return [node.op_type for node in onnx_package.load(tmp_path / precision).graph.node]

    assert steps(precision) == steps("float32")


def test_smaller_numbers_make_smaller_files(drawer):
    def size(write, precision):
        return len(write([quantize(layer, precision) for layer in fold_generator(drawer)]))

    kernels = sum(layer.kernel.size for layer in fold_generator(drawer))
    writers = [lambda layers: stablehlo.write_stablehlo(GENERATOR, layers)]
    if importlib.util.find_spec("onnx"):
        writers.append(onnx.write_onnx)
    for write in writers:
        whole, half, quarter = (size(write, p) for p in ("float32", "float16", "int8"))
        assert whole - half == pytest.approx(2 * kernels, rel=0.05)
        assert half - quarter == pytest.approx(kernels, rel=0.15)  # scales and nodes come in


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_torch_file_loads_strictly(drawer, precision):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    nn, layers = torch.nn, [quantize(layer, precision) for layer in fold_generator(drawer)]
    modules = []
    for k, layer in enumerate(layers):
        i, o = layer.kernel.shape[2:]
        modules.append(nn.ConvTranspose2d(i, o, 4, *((1, 0) if k == 0 else (2, 1))))
        modules.append(nn.Tanh() if k == len(layers) - 1 else nn.ReLU())
    network = nn.Sequential(*modules)
    file = torch_format.write_torch(layers)
    state = torch.load(io.BytesIO(file), weights_only=True)
    kinds = {state[name].dtype for name in state if name.endswith("weight")}
    assert kinds == {getattr(torch, precision)}
    for name in [name for name in state if name.endswith("scale")]:
        weight = name.replace("scale", "weight")
        state[weight] = state[weight] * state.pop(name)
    network.load_state_dict(state, strict=True)
    with torch.no_grad():
        images = network(torch.tensor(latents(4))[:, :, None, None]).permute(0, 2, 3, 1)
    stored = unfold_generator(GENERATOR, layers)
    np.testing.assert_allclose(images, sampling.sample_images(*stored, latents(4)), atol=2e-5)
    np.testing.assert_array_equal(torch_format.run_torch(file, latents(4)), images)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_safetensors_hold_the_stored_weights_and_the_card(drawer, precision):
    layers = [quantize(layer, precision) for layer in fold_generator(drawer)]
    file = safetensors.add_card(safetensors.write_safetensors(GENERATOR, layers), {"made": "here"})
    read = safetensors.read_safetensors(file)
    generator, variables = read
    assert read.card == {"made": "here"}
    assert (generator.width, generator.image_size, generator.channels) == (3, 32, 3)
    kept = unfold_generator(GENERATOR, layers).variables
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), variables, kept))


@pytest.mark.parametrize("damage", [lambda f: b"", lambda f: f[:-9], lambda f: b"\x80" + f[1:]])
def test_what_is_no_generators_file_is_refused(drawer, damage):
    file = safetensors.write_safetensors(GENERATOR, fold_generator(drawer))
    with pytest.raises(ValueError, match="not a generator's weights"):
        safetensors.read_safetensors(damage(file))


@pytest.fixture
def study(tmp_path_factory, monkeypatch):
    root = tiny.shared(tmp_path_factory)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tiny.data(root)))
    return tiny.config(), tiny.finished(root)


def settings(out, **changes):
    chosen = {"run": "student-mse-d1-s0", "kind": "stablehlo", "precision": "float32", "out": out}
    return chosen | changes


@pytest.mark.parametrize(("kind", "precision"), OFFERED)
def test_the_command_writes_a_file_and_says_how_near_it_is(study, tmp_path, kind, precision):
    need(*formats.FORMATS[kind].needs)
    out = tmp_path / "made.bin"
    said = generators.export_run(
        *study, **settings(out, kind=kind, precision=precision)
    ).splitlines()
    assert said[0].startswith(f"{out}: {out.stat().st_size:,} bytes; largest difference")
    difference = float(said[0].split("latents ")[1].split()[0])
    bounds = {"float32": 1e-5, "float16": 1e-2, "int8": 0.5}
    assert 0 < difference < bounds[precision]
    images = formats.FORMATS[kind].run(out.read_bytes(), latents_of(study[0].model.latent))
    assert images.shape == (3, 16, 16, 1)
    names = [line.split()[0] for line in said[2:]]
    scored = {"fd_classifier", "inception_score", "pixel_error"} & set(names)
    assert len(scored) == (0 if precision == "float32" else 3)


def test_the_study_scores_the_images_that_the_exported_file_draws(study, tmp_path):
    need("onnx", "onnxruntime")
    config, folder = study
    name, out = "student-mse-d1-s0", tmp_path / "made.onnx"
    generators.export_run(config, folder, **settings(out, kind="onnx", precision="int8"))
    lab, evaluation, total = StudyContext(config, folder), config.evaluation, 0.0
    teacher = lab.drawer(lab.teacher)
    for k in range(3):  # 200 latents, in batches of 80
        key = jax.random.fold_in(jax.random.key(evaluation.seed), k)
        latents = jax.random.normal(key, (80, config.model.latent))[: 200 - 80 * k]
        images = onnx.run_onnx(out.read_bytes(), np.asarray(latents))
        difference = images - np.asarray(sampling.sample_images(*teacher, latents), np.float64)
        total += np.square(difference).mean(axis=(1, 2, 3)).sum()
    found = read_json(folder / name / "scores.json")["precisions"]["int8"]["scores"]
    assert found["pixel_error"] == pytest.approx(total / 200, rel=1e-4)


def test_in_float32_it_is_the_model_itself_that_is_reproduced(drawer, monkeypatch):
    # A fold that forgets epsilon draws what its own layers draw, and not what the model draws.
    monkeypatch.setattr(dcgan, "EPSILON", 1e-2)
    formats.export_generator(drawer, "stablehlo", "float16", what="it")
    with pytest.raises(UserError, match="draws other images than it"):
        formats.export_generator(drawer, "stablehlo", "float32", what="it")


def latents_of(size):
    return np.asarray(sampling.sample_latents(6, 3, size))


def test_a_file_that_draws_other_images_is_not_left_behind(study, tmp_path, monkeypatch):
    config, folder = study
    wrong = formats.ExportFormat(
        stablehlo.write_stablehlo, lambda *a: stablehlo.run_stablehlo(*a) + 1e-4
    )
    monkeypatch.setitem(formats.FORMATS, "stablehlo", wrong)
    with pytest.raises(UserError, match="it draws other images"):
        generators.export_run(config, folder, **settings(tmp_path / "made.bin"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "tflite"}, "--format=tflite is not known"),
        ({"precision": "int4"}, "--precision=int4 is not known; it can be float32, float16, int8"),
        ({"run": "student-mse-d9-s0"}, "is not a run of this study"),
    ],
)
def test_what_cannot_be_exported_is_said(study, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        generators.export_run(*study, **settings(tmp_path / "made.bin", **changes))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept(study, tmp_path):
    path = tmp_path / "made.bin"
    path.write_text("mine")
    with pytest.raises(UserError, match="exists; name another file"):
        generators.export_run(*study, **settings(path))
    assert path.read_text() == "mine"

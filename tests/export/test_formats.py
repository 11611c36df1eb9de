"""Exported files give the model's images in the runtimes of their formats."""

import dataclasses
import importlib.util
import io

import jax
import jax.export
import numpy as np
import pytest
import tiny
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from gankd_jax.config.constants import PRECISIONS
from gankd_jax.export import formats, onnx, safetensors, stablehlo
from gankd_jax.export import torch as torch_format
from gankd_jax.models import dcgan, sampling
from gankd_jax.models.folding import fold_generator, quantize, unfold_generator
from gankd_jax.study import generators
from gankd_jax.study.context import StudyContext
from gankd_jax.study.generators import load_generator
from gankd_jax.utils.atomic_io import read_json
from gankd_jax.utils.errors import UserError

RUN = "student-mse-d1-s0"
FORMATS_AND_PRECISIONS = [(name, precision) for name in formats.FORMATS for precision in PRECISIONS]


def quantized_layers(generator, precision):
    return [quantize(layer, precision) for layer in fold_generator(generator)]


def random_latents(generator, count):
    return np.asarray(sampling.sample_latents(5, count, generator.latent_dim))


def expected_images(generator, layers, latents):
    return sampling.sample_images(*unfold_generator(generator.module, layers), latents)


def skip_without(*packages):
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("count", [1, 5])
def test_onnxruntime_gives_the_images_of_the_stored_weights(generator, precision, count):
    skip_without("onnx", "onnxruntime")
    layers, latents = quantized_layers(generator, precision), random_latents(generator, count)
    images = onnx.run_onnx(onnx.write_onnx(layers), latents)
    np.testing.assert_allclose(images, expected_images(generator, layers, latents), atol=2e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_stablehlo_takes_any_number_of_latents_and_stores_small_weights(generator, precision):
    layers = quantized_layers(generator, precision)
    program = stablehlo.write_stablehlo(generator.module, layers)
    for count in (1, 6):
        latents = random_latents(generator, count)
        images = stablehlo.run_stablehlo(program, latents)
        np.testing.assert_allclose(images, expected_images(generator, layers, latents), atol=2e-5)
    assert jax.export.deserialize(program).platforms == stablehlo.PLATFORMS
    assert b".py" not in program  # no paths of the machine that wrote it


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_onnxruntime_casts_stored_weights_once_when_it_loads_a_model(
    generator, tmp_path, precision
):
    skip_without("onnx", "onnxruntime")
    import onnx as onnx_package
    import onnxruntime

    def list_operators(precision):
        """Lists the operators of the model as optimized by onnxruntime."""
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / precision)
        options.log_severity_level = 3
        model = onnx.write_onnx(quantized_layers(generator, precision))
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return [node.op_type for node in onnx_package.load(tmp_path / precision).graph.node]

    assert list_operators(precision) == list_operators("float32")


def test_lower_precisions_make_smaller_files(generator):
    weights = sum(layer.kernel.size for layer in fold_generator(generator))
    writers = [lambda layers: stablehlo.write_stablehlo(generator.module, layers)]
    if importlib.util.find_spec("onnx"):
        writers.append(onnx.write_onnx)
    for write in writers:
        float32, float16, int8 = (len(write(quantized_layers(generator, p))) for p in PRECISIONS)
        assert float32 - float16 == pytest.approx(2 * weights, rel=0.05)
        assert float16 - int8 == pytest.approx(weights, rel=0.15)  # int8 adds scales and nodes


@pytest.mark.parametrize("precision", PRECISIONS)
def test_torch_file_loads_strictly_into_a_sequential(generator, precision):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    layers, latents = quantized_layers(generator, precision), random_latents(generator, 4)
    modules = []
    for k, layer in enumerate(layers):
        i, o = layer.kernel.shape[2:]
        modules.append(torch.nn.ConvTranspose2d(i, o, 4, *((1, 0) if k == 0 else (2, 1))))
        modules.append(torch.nn.Tanh() if k == len(layers) - 1 else torch.nn.ReLU())
    network = torch.nn.Sequential(*modules)
    file = torch_format.write_torch(layers)
    state = torch.load(io.BytesIO(file), weights_only=True)
    dtypes = {state[name].dtype for name in state if name.endswith("weight")}
    assert dtypes == {getattr(torch, precision)}
    for name in [name for name in state if name.endswith("scale")]:
        weight = name.replace("scale", "weight")
        state[weight] = state[weight] * state.pop(name)
    network.load_state_dict(state, strict=True)
    with torch.no_grad():
        images = network(torch.tensor(latents)[:, :, None, None]).permute(0, 2, 3, 1)
    np.testing.assert_allclose(images, expected_images(generator, layers, latents), atol=2e-5)
    np.testing.assert_array_equal(torch_format.run_torch(file, latents), images)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["safetensors", "stablehlo"])
@pytest.mark.slow
def test_formats_of_any_family_give_a_resnets_images(resnet_generator, name, precision):
    exported = formats.export_generator(resnet_generator, name, precision, run_name="the run")
    latents = random_latents(resnet_generator, 4)
    images = formats.FORMATS[name].run(exported.content, latents)
    rounded = sampling.sample_images(*exported.generator, latents)
    np.testing.assert_allclose(images, rounded, atol=1e-5)
    original = sampling.sample_images(*resnet_generator, latents)
    error = np.abs(np.asarray(rounded - original)).max()
    assert error <= {"float32": 1e-5, "float16": 0.02, "int8": 0.5}[precision]
    assert original.std() > 0.1


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_formats_of_sequential_generators_refuse_a_resnet(resnet_generator, name):
    with pytest.raises(UserError) as error:
        formats.export_generator(resnet_generator, name, "float32", run_name="the run")
    assert f"no {name} file: the run is a resnet generator" in str(error.value)
    assert "formats for it are safetensors, stablehlo" in str(error.value)


def test_safetensors_name_their_family_and_are_dcgan_without_a_name(generator, resnet_generator):
    for original in (generator, resnet_generator):
        layers = fold_generator(original)
        file = safetensors.write_safetensors(original.module, layers)
        assert type(safetensors.read_safetensors(file).module) is type(original.module)
    file = safetensors.write_safetensors(generator.module, fold_generator(generator))
    metadata = safetensors.read_metadata(file)
    assert metadata.pop("family") == "dcgan"
    old_file = save_safetensors(load_safetensors(file), metadata)
    loaded = safetensors.read_safetensors(old_file)
    np.testing.assert_array_equal(loaded.sample(), safetensors.read_safetensors(file).sample())


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_safetensors_hold_the_stored_weights_and_the_card(generator, precision):
    layers = quantized_layers(generator, precision)
    file = safetensors.write_safetensors(generator.module, layers)
    loaded = safetensors.read_safetensors(safetensors.add_card(file, {"run": "student"}))
    assert loaded.card == {"run": "student"}
    assert (loaded.module.width, loaded.image_size, loaded.channels, loaded.latent_dim) == (
        3,
        32,
        3,
        7,
    )
    stored = unfold_generator(generator.module, layers).variables
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), loaded.variables, stored))


@pytest.mark.parametrize("damage", [lambda f: b"", lambda f: f[:-9], lambda f: b"\x80" + f[1:]])
def test_damaged_safetensors_are_rejected(generator, damage):
    file = safetensors.write_safetensors(generator.module, fold_generator(generator))
    with pytest.raises(ValueError, match="not a generator's weights"):
        safetensors.read_safetensors(damage(file))


def test_float32_file_is_compared_with_the_original_model(generator, monkeypatch):
    # With a wrong epsilon, folded layers agree with each other but not with the model.
    monkeypatch.setattr(dcgan, "EPSILON", 1e-2)
    formats.export_generator(generator, "stablehlo", "float16", run_name="student")
    with pytest.raises(UserError, match="its images differ from those of student by"):
        formats.export_generator(generator, "stablehlo", "float32", run_name="student")


def test_format_name_belongs_to_one_writer(registries):
    onnx = formats.FORMATS["onnx"]
    formats.register_format(onnx)  # as when a notebook's cell is executed again
    with pytest.raises(UserError, match="named 'onnx' is registered already"):
        formats.register_format(dataclasses.replace(onnx, write=lambda generator, layers: b""))
    assert formats.FORMATS["onnx"] is onnx


@pytest.mark.parametrize("precision", ["float64", "int16", "fp16"])
def test_a_precision_that_no_reader_knows_is_refused(generator, precision):
    with pytest.raises(UserError, match=f"precision={precision} is not known; it can be float32"):
        formats.export_generator(generator, "stablehlo", precision, run_name="student")


def test_a_function_has_no_layers_to_write():
    function = load_generator(lambda latents: np.zeros((len(latents), 16, 16, 1)), latent_dim=3)
    with pytest.raises(UserError, match="no stablehlo file: the teacher is a function"):
        formats.export_generator(function, "stablehlo", "float32", run_name="the teacher")


def test_missing_packages_are_named_with_their_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(UserError, match=r"onnx files need onnx: .*'gankd-jax\[export\]'"):
        formats.require_packages("onnx")
    with pytest.raises(UserError, match=r"torch files need torch: .*'gankd-jax\[torch\]'"):
        formats.require_packages("torch")


@pytest.fixture
def study(finished, root, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tiny.prepare_data(root)))
    return tiny.config(), finished


def export_student(study, out, **options):
    options = {"run": RUN, "format_name": "stablehlo", "precision": "float32"} | options
    return generators.export_run(*study, **options, out=out)


@pytest.mark.parametrize(("format_name", "precision"), FORMATS_AND_PRECISIONS)
def test_export_writes_a_file_and_reports_its_difference(study, tmp_path, format_name, precision):
    skip_without(*formats.FORMATS[format_name].packages)
    out = tmp_path / f"student{formats.FORMATS[format_name].suffixes[0]}"
    lines = export_student(study, out, format_name=format_name, precision=precision).splitlines()
    assert lines[0].startswith(f"{out}: {out.stat().st_size:,} bytes; largest difference")
    difference = float(lines[0].split("latents ")[1].split()[0])
    bounds = {"float32": 1e-5, "float16": 1e-2, "int8": 0.5}
    assert 0 < difference < bounds[precision]
    latents = np.asarray(sampling.sample_latents(6, 3, study[0].model.latent))
    assert formats.FORMATS[format_name].run(out.read_bytes(), latents).shape == (3, 16, 16, 1)
    names = {line.split()[0] for line in lines[2:]}
    scores = {"fd_classifier", "inception_score", "pixel_error"} & names
    assert len(scores) == (0 if precision == "float32" else 3)


def test_scores_of_a_precision_are_those_of_the_exported_file(study, tmp_path):
    skip_without("onnx", "onnxruntime")
    config, folder = study
    out = tmp_path / "student.onnx"
    export_student(study, out, format_name="onnx", precision="int8")
    context, evaluation, total = StudyContext(config, folder), config.evaluation, 0.0
    teacher = context.load_generator(context.teacher)
    for k in range(3):  # 200 latents, in batches of 80
        key = jax.random.fold_in(jax.random.key(evaluation.seed), k)
        latents = jax.random.normal(key, (80, config.model.latent))[: 200 - 80 * k]
        images = onnx.run_onnx(out.read_bytes(), np.asarray(latents))
        difference = images - np.asarray(sampling.sample_images(*teacher, latents), np.float64)
        total += np.square(difference).mean(axis=(1, 2, 3)).sum()
    scores = read_json(folder / RUN / "scores.json")["precisions"]["int8"]["scores"]
    assert scores["pixel_error"] == pytest.approx(total / 200, rel=1e-4)


def test_file_with_other_images_is_not_written(study, tmp_path, monkeypatch):
    wrong_format = dataclasses.replace(
        formats.FORMATS["stablehlo"], run=lambda *args: stablehlo.run_stablehlo(*args) + 1e-4
    )
    monkeypatch.setitem(formats.FORMATS, "stablehlo", wrong_format)
    with pytest.raises(UserError, match="its images differ"):
        export_student(study, tmp_path / "student.stablehlo")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format_name": "tflite"}, "--format=tflite is not known; it can be onnx, safetensors"),
        ({"precision": "int4"}, "--precision=int4 is not known; it can be float32, float16, int8"),
        ({"run": "student-mse-d9-s0"}, "is not a run of this study"),
    ],
)
def test_unknown_names_are_rejected(study, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        export_student(study, tmp_path / "student.stablehlo", **options)
    assert list(tmp_path.iterdir()) == []


def test_existing_file_is_not_overwritten(study, tmp_path):
    path = tmp_path / "student.stablehlo"
    path.write_text("mine")
    with pytest.raises(UserError, match="exists; name another file"):
        export_student(study, path)
    assert path.read_text() == "mine"

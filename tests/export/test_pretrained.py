"""Pretrained generators: those in the repository, and exported files."""

import numpy as np
import pytest
import tiny

from gankd_jax.export import pretrained
from gankd_jax.models import sampling
from gankd_jax.study import generators, plan
from gankd_jax.study.context import StudyContext
from gankd_jax.utils.atomic_io import read_json
from gankd_jax.utils.errors import UserError

RUN = "student-mse-d1-s0"


@pytest.fixture
def export(finished, root, tmp_path, monkeypatch):
    """Exports a student of the tiny study as safetensors, in a given precision."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tiny.prepare_data(root)))

    def export_student(precision: str):
        out = tmp_path / f"{precision}.safetensors"
        options = {"run": RUN, "format_name": "safetensors", "precision": precision}
        generators.export_run(tiny.config(), finished, **options, out=out)
        return out

    return export_student


def test_card_has_the_scores_of_the_precision_in_the_file(export, finished):
    results = read_json(finished / RUN / "scores.json")
    for precision in ("float16", "int8"):
        scores = pretrained.load_pretrained(str(export(precision))).card["scores"]
        assert scores == results["precisions"][precision]["scores"] != results["scores"]


def test_file_gives_the_images_and_scores_of_its_run(export, finished):
    context = StudyContext(tiny.config(), finished)
    model = context.load_generator(plan.find_run(context.config, RUN))
    generator = pretrained.load_pretrained(str(export("float32")))
    latents = sampling.sample_latents(0, 5, context.config.model.latent)
    images = sampling.sample_images(*generator, latents)
    np.testing.assert_allclose(images, sampling.sample_images(*model, latents), atol=1e-5)
    assert generator.card["recipe"]["alpha"] == 0.0
    assert generator.card["scores"]["fd_classifier"] > 0
    assert generator.card["made"]["samples"] == 200


@pytest.mark.slow
def test_every_pretrained_generator_is_small_and_has_images_and_a_card():
    assert pretrained.pretrained_paths()
    for name, path in pretrained.pretrained_paths().items():
        assert path.stat().st_size < 2_000_000
        generator = pretrained.load_pretrained(name)
        images = generator.sample(seed=0, n=8)
        assert images.shape[1:] == (generator.image_size,) * 2 + (generator.channels,)
        assert images.std() > 0.1
        assert generator.card["scores"]


def test_unknown_name_lists_the_known_names():
    with pytest.raises(UserError, match=r"no pretrained generator 'mnist-d3'; .*mnist-d2"):
        pretrained.load_pretrained("mnist-d3")


def test_missing_and_damaged_files_are_named(tmp_path, export):
    with pytest.raises(UserError, match=r"none.safetensors does not exist"):
        pretrained.load_pretrained(str(tmp_path / "none.safetensors"))
    file = export("float32")
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"float32.safetensors cannot be read"):
        pretrained.load_pretrained(str(file))

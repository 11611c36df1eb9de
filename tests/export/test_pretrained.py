"""Generators that come with the project, and the files of others."""

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
    """A student of the tiny study, as a user would share it, in a precision."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tiny.data(root)))

    def made(precision: str):
        out = tmp_path / f"{precision}.safetensors"
        chosen = {"run": RUN, "kind": "safetensors", "precision": precision}
        generators.export_run(tiny.config(), finished, **chosen, out=out)
        return out

    return made


@pytest.fixture
def file(export):
    return export("float32")


def test_the_card_has_the_scores_of_the_weights_in_the_file(export, finished):
    scored = read_json(finished / RUN / "scores.json")
    for precision in ("float16", "int8"):
        found = pretrained.load_pretrained(str(export(precision))).card["scores"]
        assert found == scored["precisions"][precision]["scores"] != scored["scores"]


def test_a_file_draws_as_the_run_and_carries_its_scores(file, tmp_path_factory):
    lab = StudyContext(tiny.config(), tiny.finished(tiny.shared(tmp_path_factory)))
    run = next(r for r in plan.plan_runs(lab.config) if r.name == "student-mse-d1-s0")
    latents = sampling.sample_latents(0, 5, lab.config.model.latent)
    generator = pretrained.load_pretrained(str(file))
    drawn = sampling.sample_images(*generator, latents)
    np.testing.assert_allclose(drawn, sampling.sample_images(*lab.drawer(run), latents), atol=1e-5)
    card = generator.card
    assert card["recipe"]["alpha"] == 0.0
    assert card["scores"]["fd_classifier"] > 0
    assert card["made"]["samples"] == 200


def test_every_generator_of_the_project_draws_and_has_its_card():
    assert pretrained.pretrained_paths()
    for name, path in pretrained.pretrained_paths().items():
        assert path.stat().st_size < 2_000_000
        generator = pretrained.load_pretrained(name)
        images = generator.sample(seed=0, n=8)
        assert images.shape[1:] == (generator.image_size,) * 2 + (generator.channels,)
        assert images.std() > 0.1
        assert generator.card["scores"]


def test_an_unknown_name_tells_what_there_is():
    with pytest.raises(UserError, match="no pretrained generator 'mnist-d3'; there are: "):
        pretrained.load_pretrained("mnist-d3")


def test_files_that_are_not_there_or_damaged_are_named(tmp_path, file):
    with pytest.raises(UserError, match=r"none.safetensors does not exist"):
        pretrained.load_pretrained(str(tmp_path / "none.safetensors"))
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"float32.safetensors cannot be read"):
        pretrained.load_pretrained(str(file))

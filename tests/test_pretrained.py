"""Generators that come with the project, and the files of others."""

import numpy as np
import pytest
import tiny

from gankd_jax import pretrained, runs, sampling
from gankd_jax.errors import UserError
from gankd_jax.export import command
from gankd_jax.lab import Lab
from gankd_jax.runtime.files import read_json

RUN = "student-mse-d1-s0"


@pytest.fixture
def export(finished, root, tmp_path, monkeypatch):
    """A student of the tiny study, as a user would share it, in a precision."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tiny.data(root)))

    def made(precision: str):
        out = tmp_path / f"{precision}.safetensors"
        chosen = {"run": RUN, "kind": "safetensors", "precision": precision}
        command.export(tiny.config(), finished, **chosen, out=out)
        return out

    return made


@pytest.fixture
def file(export):
    return export("float32")


def test_the_card_has_the_scores_of_the_weights_in_the_file(export, finished):
    scored = read_json(finished / RUN / "scores.json")
    for precision in ("float16", "int8"):
        found = pretrained.card(str(export(precision)))["scores"]
        assert found == scored["precisions"][precision]["scores"] != scored["scores"]


def test_a_file_draws_as_the_run_and_carries_its_scores(file, tmp_path_factory):
    lab = Lab(tiny.config(), tiny.finished(tiny.shared(tmp_path_factory)))
    run = next(r for r in runs.plan(lab.config) if r.name == "student-mse-d1-s0")
    latents = sampling.latents(0, 5, lab.config.model.latent)
    drawn = sampling.draw(*pretrained.load(str(file)), latents)
    np.testing.assert_allclose(drawn, sampling.draw(*lab.drawer(run), latents), atol=1e-5)
    card = pretrained.card(str(file))
    assert card["recipe"]["alpha"] == 0.0
    assert card["scores"]["fd_classifier"] > 0
    assert card["made"]["samples"] == 200


def test_every_generator_of_the_project_draws_and_has_its_card():
    assert pretrained.names()
    for name, path in pretrained.names().items():
        assert path.stat().st_size < 2_000_000
        generator, variables = pretrained.load(name)
        images = np.asarray(sampling.draw(generator, variables, sampling.latents(0, 8, 100)))
        assert images.shape[1:] == (generator.image_size,) * 2 + (generator.channels,)
        assert images.std() > 0.1
        assert pretrained.card(name)["scores"]


def test_an_unknown_name_tells_what_there_is():
    with pytest.raises(UserError, match="no pretrained generator 'mnist-d3'; there are: "):
        pretrained.load("mnist-d3")


def test_files_that_are_not_there_or_damaged_are_named(tmp_path, file):
    with pytest.raises(UserError, match=r"none.safetensors is not there"):
        pretrained.load(str(tmp_path / "none.safetensors"))
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"float32.safetensors cannot be read"):
        pretrained.load(str(file))

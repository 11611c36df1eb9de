"""The names of `gankd_jax`: loaded when used, and their docstrings' examples run."""

import doctest
import subprocess
import sys

import numpy as np
import pytest
import tiny

import gankd_jax
from gankd_jax.evaluation import inference
from gankd_jax.models import sampling
from gankd_jax.utils.atomic_io import read_npz
from gankd_jax.utils.errors import UserError

RUN = "student-mse-d1-s0"


@pytest.mark.parametrize("name", gankd_jax.__all__)
@pytest.mark.slow
def test_the_example_of_a_docstring_runs(checkout, registries, name):
    [example] = doctest.DocTestFinder(recurse=False).find(
        getattr(gankd_jax, name), name, module=False, globs={}
    )
    results = doctest.DocTestRunner().run(example)
    assert results.attempted > 2
    assert results.failed == 0


def test_the_import_loads_no_jax_and_lists_the_names():
    code = "import sys, gankd_jax; print('jax' in sys.modules, *dir(gankd_jax))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tiny.REPO, capture_output=True, text=True, check=True
    )
    has_jax, *names = done.stdout.split()
    assert has_jax == "False"
    assert set(gankd_jax.__all__) <= set(names)
    with pytest.raises(AttributeError, match="no attribute 'load_generators'"):
        gankd_jax.load_generators  # noqa: B018


def test_a_run_folder_gives_the_generator_that_the_study_evaluated(checkout):
    generator = gankd_jax.load_generator(checkout / "runs" / "digits" / RUN)
    module, variables = generator
    grid = sampling.sample_images(module, variables, sampling.grid_latents(generator.latent_dim))
    evaluated = read_npz(checkout / "runs" / "digits" / RUN / "samples.npz")["grid"]
    assert np.abs(sampling.to_uint8(grid).astype(int) - evaluated).max() <= 1
    assert generator.card["run"] == RUN
    assert generator.card["scores"]["fd_classifier"] > 0


def test_samples_are_float_images_and_a_function_of_the_seed(checkout):
    generator = gankd_jax.load_generator("mnist-d2")
    images = generator.sample(seed=1, n=3)
    assert (images.shape, images.dtype) == ((3, 32, 32, 1), np.float32)
    assert -1 <= images.min() < images.max() <= 1
    np.testing.assert_array_equal(images, generator.sample(seed=1, n=3))
    assert not np.array_equal(images, generator.sample(seed=2, n=3))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mnist-d3", "no pretrained generator 'mnist-d3'; there are: "),
        ("none.safetensors", "none.safetensors does not exist"),
        ("runs/digits/untrained-d1-s0", "untrained-d1-s0 is not a run of this study"),
    ],
)
def test_a_generator_that_does_not_exist_is_named(checkout, source, message):
    run = checkout / "runs" / "digits" / "untrained-d1-s0"
    run.mkdir()
    (run / "run.json").touch()
    with pytest.raises(UserError, match=message):
        gankd_jax.load_generator(source)


@pytest.mark.slow
def test_scores_of_a_run_are_those_of_its_images(checkout):
    config = tiny.config()
    settings = {"image_size": 16, "pad": 1}
    by_folder = gankd_jax.score(f"runs/digits/{RUN}", "digits:test", samples=100, **settings)
    generator = gankd_jax.load_generator(f"runs/digits/{RUN}")
    batches = inference.sample_batches(generator, config.evaluation.seed, count=100, batch_size=50)
    by_array = gankd_jax.score(np.concatenate(list(batches)), "digits:test", **settings)
    assert by_array.keys() == by_folder.keys()


def test_an_array_of_one_image_is_refused(checkout):
    with pytest.raises(UserError, match="an array has 1 image; a comparison needs 2 or more"):
        gankd_jax.score(np.zeros((1, 8, 8, 3), np.uint8), "digits:test")

"""The README's Python lines do what they say."""

import re

import numpy as np
import tiny

from gankd_jax.models import sampling
from gankd_jax.utils.atomic_io import read_npz

RUN = "student-mse-d1-s0"  # of the tiny study


def python_lines() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (tiny.REPO / "README.md").read_text(), re.DOTALL)


def test_the_python_lines_draw_a_runs_images(finished, monkeypatch, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits").symlink_to(finished)
    monkeypatch.chdir(tmp_path)
    lines, _ = python_lines()
    [named] = re.findall(r'"(student-\w+-d\d+-s\d+)"', lines)
    names: dict = {}
    exec(lines.replace(named, RUN), names)
    images = np.asarray(names["images"])
    assert images.shape == (16, 16, 16, 1)
    assert -1 <= images.min() < images.max() <= 1
    # They are that run's: on the report's latents they are the report's images.
    generator, variables = names["generator"], names["variables"]
    grid = sampling.sample_images(generator, variables, sampling.grid_latents(generator.latent_dim))
    scored = read_npz(finished / RUN / "samples.npz")["grid"]
    assert np.abs(sampling.to_uint8(grid).astype(int) - scored).max() <= 1


def test_the_python_lines_load_a_generator_that_comes_along(capsys):
    _, lines = python_lines()
    names: dict = {}
    exec(lines, names)
    images = sampling.sample_images(
        names["generator"], names["variables"], sampling.sample_latents(0, 4, 100)
    )
    assert np.asarray(images).std() > 0.1
    assert 1 < float(capsys.readouterr().out) < 10

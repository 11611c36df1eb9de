"""The README's Python lines do what they say."""

import re

import numpy as np
import tiny

from gankd_jax import sampling
from gankd_jax.runtime.files import read_arrays

RUN = "student-mse-d1-s0"  # of the tiny study


def python_lines() -> str:
    [block] = re.findall(r"```python\n(.*?)```", (tiny.REPO / "README.md").read_text(), re.DOTALL)
    return block


def test_the_python_lines_draw_a_runs_images(finished, monkeypatch, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits").symlink_to(finished)
    monkeypatch.chdir(tmp_path)
    [named] = re.findall(r'"(student-\w+-d\d+-s\d+)"', python_lines())
    names: dict = {}
    exec(python_lines().replace(named, RUN), names)
    images = np.asarray(names["images"])
    assert images.shape == (16, 16, 16, 1)
    assert -1 <= images.min() < images.max() <= 1
    # They are that run's: on the report's latents they are the report's images.
    generator, variables = names["generator"], names["variables"]
    grid = sampling.draw(generator, variables, sampling.grid_latents(generator.latent))
    scored = read_arrays(finished / RUN / "samples.npz")["grid"]
    assert np.abs(sampling.to_uint8(grid).astype(int) - scored).max() <= 1

"""The package as a wheel, installed and used outside the checkout."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from gankd_jax.cli.config_flag import split_config_words
from gankd_jax.export.pretrained import pretrained_paths
from gankd_jax.utils import VERSION
from gankd_jax.utils.errors import UserError


def run_python(folder: Path, *words: str, **variables: str) -> str:
    """Runs `python -m WORDS` in a folder; returns its stdout."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "PYTHON"))}
    environment = inherited | {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(folder)} | variables
    command = [sys.executable, "-m", *words]
    streams = {"capture_output": True, "text": True}
    result = subprocess.run(command, cwd=folder, env=environment, check=False, **streams)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the installed wheel."""
    missing = [name for name in ("pip", "setuptools") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"a wheel needs {missing[0]}")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # building writes beside the sources
    for name in ("gankd_jax", "configs"):
        shutil.copytree(tiny.REPO / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(tiny.REPO / name, source)
    options = ["--no-deps", "--no-index", "--quiet"]
    run_python(folder, "pip", "wheel", *options, "--no-build-isolation", "./source")
    [wheel] = folder.glob("*.whl")
    run_python(folder, "pip", "install", *options, "--target=site", wheel.name)
    shutil.rmtree(source)
    return folder / "site"


@pytest.mark.slow
def test_an_installed_wheel_describes_a_config_and_samples_a_pretrained_generator(site, tmp_path):
    variables = {"PYTHONPATH": str(site)}
    costs = run_python(tmp_path, "gankd_jax", "describe", "--config=gankd:mnist:small", **variables)
    assert costs.startswith("mnist-small: 32x32x1, teacher d=32")
    words = ["gankd_jax", "sample", "--pretrained=mnist-d2", "--out=grid.png"]
    assert run_python(tmp_path, *words, **variables) == "grid.png\n"
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")
    installed = {path.name for path in site.glob("gankd_jax/configs/results/*/pretrained/*")}
    assert installed == {path.name for path in pretrained_paths().values()}
    templates = site / "gankd_jax" / "report" / "page" / "templates"
    assert (templates / "page.html.jinja").is_file()
    assert (site / f"gankd_jax-{VERSION}.dist-info").is_dir()


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections
def test_a_config_of_the_package_is_that_of_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    by_name, _ = split_config_words(["--config=gankd:mnist:small,best", "--config.data.pad=1"])
    file = tiny.REPO / "configs" / "mnist.py"
    by_path, _ = split_config_words([f"--config={file}:small,best", "--config.data.pad=1"])
    assert by_name == by_path
    assert by_name is not None
    assert by_name.value.name == "mnist-small"


@pytest.mark.parametrize("value", ["gankd", "gankd:", "gankd:imagenet"])
def test_a_config_that_the_package_lacks_is_refused_with_those_it_has(value):
    with pytest.raises(UserError, match=r"no such config, but celeb_a, cifar10, digits"):
        split_config_words([f"--config={value}"])

"""A user's config file, outside of the package, that registers what it uses by name."""

import re
from pathlib import Path

import pytest
import tiny

import gankd_jax
from gankd_jax.metrics.registry import FEATURE_FUNCTIONS, METRICS
from gankd_jax.study import workdir
from gankd_jax.training import losses
from gankd_jax.training.train_state import OPTIMIZERS
from gankd_jax.utils.atomic_io import read_json
from gankd_jax.utils.errors import UserError

# ml_collections reads a config file by a deprecated call.
pytestmark = [
    pytest.mark.usefixtures("registries"),
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),
]

RUN = "student-own-d2-s0"
FIELDS = {
    "study.teacher_widths": (2,),
    "study.widths": (2,),
    "study.baselines": (),
    "recipes.teacher.steps": 5,
    "recipes.own.steps": 5,
    "recipes.own.features": "l1",
    "recipes.own.feature_network": "classifier",
    "training.steps_per_call": 5,
    "training.log_every": 5,
    "training.grid_every": 0,
    "training.checkpoint_every": 5,
    "evaluation.samples": 20,
    "evaluation.batch_size": 20,
}


@pytest.fixture
def own_config(tmp_path) -> Path:
    """The example of configs/README.md as a file in a temporary folder."""
    text = (tiny.REPO / "configs" / "README.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "own.py"
    path.write_text(code)
    return path


def forget_names() -> None:
    """Leaves a process as it is that never saw the config file."""
    del losses.DISTANCES["charbonnier"], losses.CRITIC_LOSSES["least_squares"]
    del losses.GENERATOR_LOSSES["least_squares"], OPTIMIZERS["lion"]
    del FEATURE_FUNCTIONS["mean_distance"]
    for key in [metric.key for metric in METRICS.values() if metric.name == "mean_distance"]:
        del METRICS[key]


@pytest.mark.slow
def test_every_command_takes_what_the_file_registers(command, own_config, tmp_path):
    folder = tmp_path / "runs"
    config = [f"--config={own_config}", *(f"--config.{k}={v}" for k, v in FIELDS.items())]
    words = [*config, f"--workdir={folder}"]
    for name in ("teacher-d2-s0", RUN):
        assert command("train", *words, f"--run={name}")[0] == 0
    assert command("evaluate", *words)[0] == 0
    scores = read_json(folder / RUN / "scores.json")["scores"]
    assert scores["mean_distance_classifier"] > 0
    log = (folder / RUN / "log.jsonl").read_text()
    assert "feature_distance" in log

    status, _, err = command("report", f"--config={own_config}", f"--workdir={folder}")
    assert (status, err) == (0, "")
    assert "Distance of the means" in (folder / "report.html").read_text()
    out = tmp_path / "student.safetensors"
    assert command("export", *words, f"--run={RUN}", f"--out={out}")[0] == 0
    grid = tmp_path / "grid.png"
    assert command("sample", *words, f"--run={RUN}", f"--out={grid}")[0] == 0
    assert grid.stat().st_size > 0

    forget_names()
    message = (
        "config.recipes.baseline.loss is 'least_squares', which is not registered; the study's"
        " config file registers it: name it by --config=FILE"
    )
    other = tmp_path / "other.png"
    status, _, err = command("sample", f"--workdir={folder}", f"--run={RUN}", f"--out={other}")
    assert (status, err.count("\n")) == (2, 1)
    assert message in err
    with pytest.raises(UserError, match=re.escape(message)):
        gankd_jax.load_generator(folder / RUN)
    status, _, err = command("report", f"--workdir={folder}")  # without the file: by its key
    assert (status, err) == (0, "")
    assert "mean_distance_classifier" in (folder / "table.md").read_text()


def test_the_file_is_valid_and_may_be_read_again(command, own_config):
    for _ in range(2):
        status, out, err = command("describe", f"--config={own_config}")
        assert (status, err) == (0, "")
        assert "own" in out


def test_a_name_of_the_package_is_refused_in_one_line(command, own_config):
    own_config.write_text(own_config.read_text().replace('"charbonnier"', '"l1"'))
    status, _, err = command("describe", f"--config={own_config}")
    assert (status, err.count("\n")) == (2, 1)
    assert "a distance named 'l1' is registered already; choose another name" in err


def test_a_name_that_nobody_registers_is_refused_with_those_there_are(command, own_config):
    status, _, err = command(
        "describe", f"--config={own_config}", "--config.recipes.own.optimizer=lino"
    )
    assert (status, err.count("\n")) == (2, 1)
    assert "is 'lino'; it can be adam, adamw, rmsprop, sgd, muon, lion" in err


def test_a_study_whose_names_are_registered_opens(command, old_workdir):
    assert workdir.read_config(old_workdir).recipes.mse.optimizer == "adam"

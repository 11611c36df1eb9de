"""A user's config file, outside of the package, that registers what it uses by name."""

import re
from pathlib import Path

import pytest
import tiny

import gankd_jax
from gankd_jax.cli.parser import parse_command, stored_config_words
from gankd_jax.metrics.registry import FEATURE_FUNCTIONS, METRICS
from gankd_jax.models.family import FAMILIES
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


FAMILY = """
import dataclasses
import gankd_jax
from gankd_jax.config.schema import apply_variants, base_config, recipe_config
from gankd_jax.models.dcgan import DCGANCritic, DCGANGenerator
from gankd_jax.models.family import FAMILIES

class OwnGenerator(DCGANGenerator):
    pass

class OwnCritic(DCGANCritic):
    pass

names = {"name": "own", "generator": OwnGenerator, "critic": OwnCritic}
gankd_jax.register_family(dataclasses.replace(FAMILIES["dcgan"], **names))

def get_config(variants=""):
    config = base_config()
    config.data.update({"name": "digits", "image_size": 16, "pad": 1, "validation": 0})
    config.model.student.family = "own"
    study = {"teacher_widths": (2,), "widths": (1,), "students": ("mse",), "baselines": ()}
    config.study.update(study)
    config.recipes.teacher = recipe_config(steps=5)
    config.recipes.mse = recipe_config(alpha=0.0, steps=5, optimizer="muon", gradient_clip=1.0)
    intervals = {"steps_per_call": 5, "log_every": 5, "grid_every": 0, "checkpoint_every": 5}
    config.training.update(intervals)
    return apply_variants(config, variants, {})
"""


WRITER = """
import gankd_jax
from gankd_jax.config.schema import apply_variants, base_config

@gankd_jax.register_writer("own")
class OwnWriter(gankd_jax.MetricWriter):
    def __init__(self, folder, study, resume_step):
        pass

def get_config(variants=""):
    config = base_config()
    config.data.update({"name": "digits", "image_size": 16, "pad": 1, "validation": 0})
    config.training.writers = ("jsonl", "own")
    return apply_variants(config, variants, {})
"""


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


@pytest.mark.slow
def test_family_of_a_config_file_trains_and_samples(command, tmp_path):
    path, folder, out = tmp_path / "own_family.py", tmp_path / "runs", tmp_path / "grid.png"
    path.write_text(FAMILY)
    words = [f"--config={path}", f"--workdir={folder}"]
    for name in ("teacher-d2-s0", "student-mse-d1-s0"):
        assert command("train", *words, f"--run={name}")[0] == 0
    run = "--run=student-mse-d1-s0"
    assert command("sample", *words, run, f"--out={out}") == (0, f"{out}\n", "")
    del FAMILIES["own"]
    status, _, err = command("sample", f"--workdir={folder}", run, f"--out={tmp_path / 'b.png'}")
    assert (status, err.count("\n")) == (2, 1)
    assert "config.model.student.family is 'own', which is not registered" in err


def test_name_of_a_family_of_the_package_is_refused_in_one_line(command, tmp_path):
    path = tmp_path / "own_family.py"
    path.write_text(FAMILY.replace('"name": "own"', '"name": "resnet"'))
    status, _, err = command("describe", f"--config={path}")
    assert (status, err.count("\n")) == (2, 1)
    assert "a network family named 'resnet' is registered already" in err


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


def test_a_writer_of_the_file_is_one_of_the_choices(command, tmp_path):
    path = tmp_path / "own_writer.py"
    path.write_text(WRITER)
    status, _, err = command("describe", f"--config={path}")
    assert (status, err) == (0, "")
    words = ["study", f"--config={path}", f"--workdir={tmp_path / 'study'}"]
    status, _, err = command(*words, "--writers=jsonl,owl")
    assert (status, err.count("\n")) == (2, 1)
    assert "config.training.writers is 'owl'; it can be jsonl, tensorboard, wandb, own" in err


def test_a_study_whose_names_are_registered_opens(command, old_workdir):
    assert workdir.read_config(old_workdir).recipes.mse.optimizer == "adam"


@pytest.mark.parametrize("words", [["report"], ["score", "a", "b"], ["distill", "mnist-d2"]])
def test_command_without_a_study_takes_the_file_for_what_it_registers(words):
    words = [*words, "--workdir=x"] if "score" not in words else words
    assert stored_config_words(words) == []  # nor is a config read from the work directory
    assert parse_command([*words, "--config=own.py"]).config == "own.py"

"""Commands that go on with a study: its config is read from the work directory."""

from pathlib import Path

import pytest
import tiny

from gankd_jax.cli import commands
from gankd_jax.cli.parser import stored_config_words
from gankd_jax.config import schema
from gankd_jax.study import workdir
from gankd_jax.utils import atomic_io

# ml_collections reads a config file by a deprecated call.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

RUN = "--run=student-mse-d1-s0"


def config_words(folder: Path) -> list[str]:
    """The flags that make the stored config out of that of the digits."""
    fields = schema.flatten_config(tiny.load_config(tiny.DIGITS).to_dict())
    stored = schema.flatten_config(workdir.read_config(folder).to_dict())
    changes = {name: value for name, value in stored.items() if value != fields[name]}
    return [f"--config={tiny.DIGITS}", *(f"--config.{k}={v}" for k, v in changes.items())]


def test_a_sample_is_the_same_with_and_without_the_config(command, old_workdir, tmp_path):
    for name, words in {"with.png": config_words(old_workdir), "without.png": []}.items():
        out = tmp_path / name
        result = command("sample", *words, f"--workdir={old_workdir}", RUN, f"--out={out}")
        assert result[:2] == (0, f"{out}\n")
    assert (tmp_path / "with.png").read_bytes() == (tmp_path / "without.png").read_bytes()


def test_the_ending_of_a_file_decides_its_format(command, old_workdir, tmp_path):
    named, other = tmp_path / "named.stablehlo", tmp_path / "other.stablehlo"
    words = ["export", f"--workdir={old_workdir}", RUN]
    assert command(*words, "--format=stablehlo", f"--out={named}")[0] == 0
    assert command(*words, f"--out={other}")[0] == 0
    assert named.read_bytes() == other.read_bytes()


def test_an_unknown_ending_is_refused_before_any_work(command, old_workdir, tmp_path):
    out = tmp_path / "student.tflite"
    status, _, err = command("export", f"--workdir={old_workdir}", RUN, f"--out={out}")
    assert (status, err.count("\n")) == (2, 1)
    assert "the name of the file must end in .onnx" in err


@pytest.mark.parametrize("words", [["study"], ["train", RUN], ["evaluate"]])
def test_a_study_goes_on_with_its_stored_config(command, old_workdir, monkeypatch, words):
    configs = []

    def load_config(args):
        """Stand in for the work."""
        configs.append(args.config.load())

    monkeypatch.setattr(commands, f"run_{words[0]}", load_config)
    change = "--config.evaluation.layer_samples=77"
    assert command(*words, f"--workdir={old_workdir}", change) == (0, "", "")
    [config] = configs
    expected = workdir.read_config(old_workdir)
    assert (expected.evaluation.layer_samples, config.evaluation.layer_samples) == (0, 77)
    expected.evaluation.layer_samples = 77
    assert config.to_dict() == expected.to_dict()


@pytest.mark.parametrize(
    "words",
    [
        ["study"],
        ["train", RUN],
        ["evaluate"],
        ["sample", RUN, "--out=x.png"],
        ["export", RUN, "--out=x.onnx"],
        ["bench", "--export"],
    ],
)
def test_a_folder_without_a_study_is_named_in_one_line(command, tmp_path, words):
    status, out, err = command(*words, f"--workdir={tmp_path}")
    message = f"gankd: --workdir={tmp_path} holds no study, whose config could be used;"
    assert (status, out, err) == (2, "", f"{message} name --config=FILE\n")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_config_is_named_in_one_line(command, tmp_path):
    (tmp_path / "config.json").write_text("{")
    status, _, err = command("evaluate", f"--workdir={tmp_path}")
    assert (status, err.count("\n")) == (2, 1)
    assert f"{tmp_path / 'config.json'} is damaged" in err


@pytest.mark.parametrize(
    "words",
    [
        ["study", "--config=configs/digits.py", "--workdir=x"],
        ["study", "--config", "configs/digits.py", "--workdir=x"],
        ["report", "--workdir=x"],
        ["sample", "--pretrained=mnist-d2", "--out=x.png"],
        ["distill", "mnist-d2", "--workdir=x"],
    ],
)
def test_the_work_directory_is_not_read_where_it_is_not_needed(words):
    assert stored_config_words(words) == []


def test_the_home_folder_may_hold_the_study(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    [word] = stored_config_words(["evaluate", "--workdir=~/study"])
    assert Path(word.partition(":")[2]) == tmp_path / "study"


def test_a_writer_that_only_the_config_file_registers_is_named_and_left_out(
    command, old_workdir, tmp_path
):
    path = old_workdir / workdir.CONFIG_FILE
    stored = atomic_io.read_json(path)
    stored["training"]["writers"] = ["jsonl", "own"]
    atomic_io.write_json(path, stored)
    out = tmp_path / "grid.png"
    status, _, err = command("sample", f"--workdir={old_workdir}", RUN, f"--out={out}")
    assert (status, err.count("\n")) == (0, 1)
    assert err.startswith("nothing is written to own, which the study's config file registers")

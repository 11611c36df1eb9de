"""Commands: what they print and write; each mistake gives one line and changes nothing."""

import itertools
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from gankd_jax.cli import commands
from gankd_jax.cli.config_flag import split_config_words
from gankd_jax.evaluation import sheet
from gankd_jax.study import workdir
from gankd_jax.utils.atomic_io import read_npz

TINY = tiny.flags()
MNIST = f"--config={tiny.REPO / 'configs' / 'mnist.py'}"
DIGITS = f"--config={tiny.DIGITS}"
# ml_collections reads a config file by a deprecated call.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def table_rows(text: str) -> list[list[str]]:
    """The rows of the table of widths, split into words, without the family."""
    lines = [line.split() for line in text.splitlines()]
    return [words[1:] for words in lines if len(words) > 5 and words[0] == "dcgan"]


def test_describe_prints_the_parameter_counts_of_the_paper_for_mnist(command):
    status, out, err = command("describe", MNIST)
    assert (status, err) == (0, "")
    table = {row[0]: row for row in table_rows(out)}
    assert list(table) == ["2", "4", "8", "16", "32", "64", "128", "256"]
    assert (table["2"][1], table["2"][-1]) == ("28,351", "1669:1")
    assert table["256"][1] == "47,324,929"
    # 30 d parameters of batch norm, which the paper leaves out; one channel, as the paper counts.
    assert table["2"][2] == f"{28_351 + 30 * 2:,}"
    assert table["2"][4] == f"{4 * 28_411:,}"
    assert table["2"][5] == f"{(47_324_929 + 30 * 256) / 28_411:.0f}:1"


@pytest.mark.slow
def test_the_script_and_the_module_print_the_same(root):
    script = Path(sys.executable).with_name("gankd")
    if not script.exists():
        pytest.skip("the package is not installed")
    words = ["describe", DIGITS]
    streams = {"capture_output": True, "text": True, "check": True}
    by_script = subprocess.run([script, *words], env=tiny.environment(root), **streams)
    by_module = tiny.run_gankd(root, *words)
    assert by_script.stdout == by_module.stdout
    assert "digits: 16x16x1, teacher d=32" in by_script.stdout
    assert by_script.stderr == by_module.stderr == ""


def test_the_config_may_stand_before_the_command(command):
    assert command(DIGITS, "describe") == command("describe", DIGITS)


def test_data_prepare_writes_the_digits_once(command, tmp_path):
    status, out, err = command("data", "prepare", "digits", f"--data-dir={tmp_path}")
    assert (status, err) == (0, "")
    folder = Path(out.strip())
    assert folder == tmp_path / "digits" / "1.0.0"
    before = tiny.snapshot(tmp_path)
    err = f"digits is already prepared in {folder}\n"
    assert command("data", "prepare", "digits", f"--data-dir={tmp_path}") == (0, out, err)
    assert tiny.snapshot(tmp_path) == before


def test_sample_writes_the_images_of_the_report_as_a_sheet(command, finished, tmp_path):
    out_file = tmp_path / "new" / "grid.png"
    words = ["sample", *TINY, f"--workdir={finished}", "--run=student-mse-d1-s0"]
    status, out, _ = command(*words, f"--out={out_file}")
    assert (status, out) == (0, f"{out_file}\n")
    with Image.open(out_file) as image:
        sheet_pixels = np.asarray(image).astype(int)
    with np.load(finished / "student-mse-d1-s0" / "samples.npz") as arrays:
        images = arrays["grid"].astype(int)
    side = 64  # 16 pixels, four times as large
    for k in range(64):
        top, left = (sheet.MARGIN + (side + sheet.GAP) * place for place in divmod(k, 8))
        shown = sheet_pixels[top : top + side : 4, left : left + side : 4]
        assert np.abs(shown - images[k, ..., 0]).max() <= 1
    assert (sheet_pixels[: sheet.MARGIN] == 255).all()
    assert sheet_pixels[-sheet.LINE_HEIGHT - sheet.MARGIN // 2 :].min() < 100  # the caption
    before = tiny.snapshot(tmp_path)
    status, _, err = command(*words, f"--out={out_file}")
    assert (status, err.count("\n")) == (2, 1)
    assert f"{out_file} exists; name another file or remove it" in err
    assert tiny.snapshot(tmp_path) == before


def test_report_writes_three_files(command, finished, tmp_path):
    for path in ("config.json", "teacher.json"):
        (tmp_path / path).write_bytes((finished / path).read_bytes())
    status, out, _ = command("report", f"--workdir={tmp_path}")
    assert status == 0
    assert out.splitlines()[-1] == str(tmp_path / "report.html")
    written = {"table.md", "table.csv", "report.html"}
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "teacher.json"} | written


def test_evaluate_keeps_scores_and_writes_missing_report_files(command, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "study")
    name = "student-mse-d1-s0"
    path = folder / name / "folded.npz"
    before = read_npz(path)
    path.unlink()
    files_before = tiny.snapshot(folder)
    status, _, err = command("evaluate", *TINY, f"--workdir={folder}")
    assert (status, err) == (0, f"generating samples of {name}\n")
    files = tiny.snapshot(folder)
    changed = {path for path, content in files.items() if content != files_before.get(path)}
    assert changed <= {f"{name}/folded.npz", f"{name}/samples.npz", name}
    after = read_npz(path)
    assert after.keys() == before.keys()
    for key in before:
        np.testing.assert_allclose(after[key], before[key], rtol=1e-5, atol=1e-6)


def test_train_does_not_repeat_a_trained_run(command, finished):
    before = tiny.snapshot(finished)
    words = ["train", *TINY, f"--workdir={finished}"]
    status, _, err = command(*words, "--run=baseline-d1-s0")
    assert (status, err) == (0, "baseline-d1-s0 is already trained\n")
    assert tiny.snapshot(finished) == before


@pytest.mark.slow
def test_train_whose_run_fails_ends_with_status_2(command, finished, tmp_path):
    folder, name = shutil.copytree(finished, tmp_path / "study"), "student-l1-d1-s0"
    shutil.rmtree(folder / name)
    status, _, err = command("train", *TINY, f"--workdir={folder}", f"--run={name}")
    assert (folder / name / "failed.json").is_file()
    assert status == 2
    assert err.splitlines()[-1].startswith(f"gankd: {name} has failed; ")


# The words of each mistake, in which {x} stands for a folder, and the message.
MISTAKES = {
    "unknown command": (["frobnicate"], "no command `gankd frobnicate`; there are study, train"),
    "flags only": ([DIGITS], "name a command of `gankd`: study"),
    "half a command": (["data"], "name a command of `gankd data`: prepare"),
    "too many words": (["study", "now", DIGITS, "{new}"], "`gankd study` takes no argument 'now'"),
    "too few words": (["data", "prepare"], "required: NAME; see `gankd data prepare --help`"),
    "unknown flag": (["study", DIGITS, "{new}", "--wrokdir=x"], "did you mean --workdir?"),
    "flag without value": (["study", DIGITS, "--workdir"], "--workdir: expected one argument"),
    "another command's flag": (
        ["report", "{finished}", "--shard=1/2"],
        "`gankd report` takes no --shard; see `gankd report --help`",
    ),
    "another command's config": (["watch", DIGITS, "{finished}"], "takes no --config; see"),
    "no config": (["study", "{new}"], "holds no study, whose config could be used; name --config"),
    "no config file": (
        ["describe", "--config=configs/none.py"],
        "none.py is not a file; try",
    ),
    "config is a folder": (["describe", "--config=configs"], "--config=configs is not a file"),
    "no workdir": (["study", DIGITS], "the following arguments are required: --workdir; see"),
    "no run": (["train", DIGITS, "{new}"], "the following arguments are required: --run; see"),
    "no out": (
        ["sample", *TINY, "{finished}", "--run=teacher-d4-s0"],
        "arguments are required: --out",
    ),
    "two benches": (["bench", "--memory", "--start", DIGITS], "not allowed with argument"),
    "cases of a config": (["bench", DIGITS], "`gankd bench` takes no --config"),
    "start against torch": (
        ["bench", "--start", DIGITS, "--against=torch"],
        "`gankd bench --start` takes no --against",
    ),
    "no slice": (["bench", "--compile-for=", DIGITS], "--compile-for: the value is empty"),
    "memory with rounds": (["bench", "--memory", DIGITS, "--rounds=2"], "takes no --rounds"),
    "no rounds": (
        ["bench", "--rounds=0", "--only=draw-2"],
        "'0' is not a whole number from 1",
    ),
    "no pixels": (["score", "a", "mnist:test", "--image-size=0"], "--image-size: '0' is not"),
    "no B": (["score", "a"], "`gankd score` needs B, or --out=FILE.npz to save the statistics"),
    "scores of one set": (["score", "a", "--out={new}/a.json"], "`gankd score` needs B"),
    "scores as a table": (["score", "a", "b", "--out={new}/a.csv"], "A and B are a .json"),
    "statistics of two sets": (
        ["score", "a", "b", "--out={new}/a.npz"],
        "leave out B to save the statistics of A as .npz",
    ),
    "grid of another format": (
        ["sample", "--pretrained=mnist-d2", "--out={new}/grid.jpg"],
        "grid.jpg must end in .png",
    ),
    "sample of a run and of a pretrained generator": (
        ["sample", "--pretrained=mnist-d2", "--run=teacher-d4-s0", "--out={new}/grid.png"],
        "--pretrained is not a run of a study",
    ),
    "distill to nowhere": (["distill", "mnist-d2"], "`gankd distill` needs --out=FILE"),
    "distill to an unknown format": (
        ["distill", "mnist-d2", "--out={new}.tflite"],
        "the name of the file must end in .onnx",
    ),
    "distill nothing": (["distill", "no.onnx", "--out={new}.pth"], "no.onnx does not exist"),
    "distill to width 0": (["distill", "mnist-d2", "--width=4,0", "{new}"], "'0' is not a whole"),
    "distill to a width twice": (
        ["distill", "mnist-d2", "--width=4,4", "{new}"],
        "repeats a width",
    ),
    "distill by an unknown recipe": (
        ["distill", "mnist-d2", "--recipe=fast", "{new}"],
        "the recipe is 'fast'; it can be mse, l1, best",
    ),
    "distill against a mistyped split": (
        ["distill", "mnist-d2", "--reference=digits:tset", "{new}"],
        "has no split 'tset', only train, test; did you mean test?",
    ),
    "unknown variant": (["study", f"{MNIST}:tiny", "{new}"], "no variant 'tiny'; there are: small"),
    "unknown field": (["study", DIGITS, "--config.data.pda=3", "{new}"], "no field data.pda"),
    "unknown block": (
        ["study", DIGITS, "--config.dat.pad=3", "{new}"],
        "no field dat; did you mean data?",
    ),
    "renamed field": (
        ["describe", DIGITS, "--config.recipes.teacher.critic_sees=teacher"],
        "no field recipes.teacher.critic_sees; it is now called real_source",
    ),
    "removed field": (["describe", DIGITS, "--config.recipes.mse.late_batch=9"], "was removed"),
    "no number": (["study", DIGITS, "--config.data.pad=big", "{new}"], "--config.data.pad=big"),
    "no whole number": (["study", DIGITS, "--config.recipes.mse.steps=1.5", "{new}"], "steps=1.5"),
    "no tuple": (["study", DIGITS, "--config.study.widths=(1,", "{new}"], "widths=(1,"),
    "tuple of words": (["study", DIGITS, "--config.study.widths=a", "{new}"], "whole numbers"),
    "no such data": (
        ["study", DIGITS, "--config.data.name=imagenet", "{new}"],
        "unknown data set 'imagenet': choose one of digits, mnist, cifar10, celeb_a",
    ),
    "no such data to prepare": (["data", "prepare", "imagenet"], "choose one of digits"),
    "data not prepared": (
        ["study", f"{MNIST}:small", "--config.data.dir={empty}", "{new}"],
        "holds no mnist: run `gankd data prepare mnist` first",
    ),
    "data of one run not prepared": (
        ["train", f"{MNIST}:small", "--config.data.dir={empty}", "{new}", "--run=teacher-d32-s0"],
        "holds no mnist: run `gankd data prepare mnist` first",
    ),
    "width 0": (["study", DIGITS, "--config.study.widths=(0,)", "{new}"], "1 or more"),
    "width 0 described": (["describe", DIGITS, "--config.study.widths=(0,)"], "1 or more"),
    "negative width": (["study", DIGITS, "--config.study.teacher_widths=-4", "{new}"], "1 or more"),
    "48 pixels": (
        ["study", DIGITS, "--config.data.image_size=48", "{new}"],
        "config.data.image_size is 48; it can be 16, 32, 64, 128",
    ),
    "alpha": (["study", DIGITS, "--config.recipes.mse.alpha=1.5", "{new}"], "must be 0 to 1"),
    "negative seed": (["study", DIGITS, "--config.study.seeds=(-1,)", "{new}"], "whole numbers, 0"),
    "steps": (
        ["study", DIGITS, "--config.recipes.mse.steps=2001", "{new}"],
        "config.recipes.mse.steps is 2001; it must be a multiple of training.steps_per_call = 50",
    ),
    "no log": (
        ["study", DIGITS, "--writers=tensorboard", "{new}"],
        "config.training.writers is ('tensorboard',); it must be with jsonl, which resuming reads",
    ),
    "unknown writer": (
        ["train", DIGITS, "--writers=jsonl,disk", "{new}", "--run=teacher-d32-s0"],
        "config.training.writers is 'disk'; it can be jsonl, tensorboard, wandb",
    ),
    "penalty and batch norm": (
        ["study", DIGITS, "--config.recipes.teacher.critic_norm=batch", "{new}"],
        "critic_norm is batch; set that to layer, spectral or none",
    ),
    "batch": (
        ["study", DIGITS, "--config.recipes.baseline.batch_size=1439", "{new}"],
        "config.recipes.baseline.batch_size is 1439; digits has 1438 training images",
    ),
    "one run's batch": (
        [
            *("train", DIGITS, "--config.recipes.teacher.batch_size=1439", "{new}"),
            "--run=teacher-d32-s0",
        ],
        "batch_size is 1439; digits has 1438 training images",
    ),
    "devices that are not there": (
        ["study", DIGITS, "--config.training.devices=99", "{new}"],
        "config.training.devices is 99; JAX sees",
    ),
    "half of a cluster": (["study", *TINY, "{new}", "--processes=2"], "need --coordinator=HOST"),
    "held out": (
        ["study", DIGITS, "--config.data.validation=1438", "{new}"],
        "validation=1438 leaves none of digits's 1438 train images",
    ),
    "no FID weights": (
        ["study", DIGITS, "--config.evaluation.layers=('192',)", "{new}"],
        "no Inception weights; `gankd weights fetch` downloads them",
    ),
    "teachers not to be compared": (
        ["study", DIGITS, "--config.study.teacher_widths=(4,8)", "{new}"],
        "data.validation above 0",
    ),
    "one of several teachers": (
        ["train", DIGITS, "--config.study.teacher_widths=(4,8)", "{new}", "--run=teacher-d4-s0"],
        "data.validation above 0",
    ),
    "no teacher": (
        ["train", *TINY, "{new}", "--run=student-mse-d1-s0"],
        "a student needs a teacher, and none is trained: run teacher-d4-s0 first",
    ),
    "unknown run": (["train", *TINY, "{new}", "--run=x"], "--run=x is not a run of this study"),
    "failed run": (
        ["train", *TINY, "{finished}", "--run=student-l1-d1-s0"],
        "student-l1-d1-s0 has failed; ",
    ),
    "another config": (
        ["study", DIGITS, "{finished}"],
        "holds another config: config.evaluation.batch_size is 80 there and 250 here",
    ),
    "another config to train": (
        ["train", DIGITS, "{finished}", "--run=teacher-d32-s0"],
        "name another folder",
    ),
    "another config to evaluate": (["evaluate", DIGITS, "{finished}"], "name another folder"),
    "another config to sample": (
        ["sample", DIGITS, "{finished}", "--run=teacher-d32-s0", "--out={new}"],
        "name another folder",
    ),
    "other files": (["study", DIGITS, "{other}"], "has files but no study"),
    "other files to train": (["train", *TINY, "{other}", "--run=teacher-d4-s0"], "but no study"),
    "no study to evaluate": (["evaluate", *TINY, "{new}"], "holds no study"),
    "no study to report": (["report", "{new}"], "holds no study"),
    "other files to report": (["report", "{other}"], "holds no study"),
    "no study to sample from": (
        ["sample", *TINY, "{new}", "--run=teacher-d4-s0", "--out={new}/grid.png"],
        "holds no study; `gankd study` begins one",
    ),
    "not trained": (
        ["sample", *TINY, "{finished}", "--run=student-l1-d1-s0", "--out={new}/grid.png"],
        "student-l1-d1-s0 is not trained",
    ),
    "unknown run to sample": (
        ["sample", *TINY, "{finished}", "--run=student", "--out={new}/grid.png"],
        "--run=student is not a run of this study; did you mean student-",
    ),
    "out exists": (
        ["sample", *TINY, "{finished}", "--run=teacher-d4-s0", "--out={other}/grid.png"],
        "grid.png exists; name another file or remove it",
    ),
    "out cannot be written": (
        ["sample", *TINY, "{finished}", "--run=teacher-d4-s0", "--out={other}/notes.txt/grid.png"],
        "cannot be written",
    ),
    "workdir is a file": (["study", *TINY, "--workdir={other}/notes.txt"], "has files but no"),
    "workdir below a file": (["study", *TINY, "--workdir={other}/notes.txt/x"], "be written"),
}


@pytest.fixture
def places(tmp_path) -> dict[str, str]:
    """The folders that {x} stands for in `MISTAKES`, without {finished}."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    for name in ("notes.txt", "grid.png"):
        (tmp_path / "other" / name).write_text("not to be lost")
    return {name: str(tmp_path / name) for name in ("new", "empty", "other")}


def words_of(mistake: str, places: dict[str, str]) -> list[str]:
    """The words of a mistake; a folder alone becomes --workdir=FOLDER."""
    line = [
        f"--workdir={word}" if word in ("{new}", "{finished}", "{other}") else word
        for word in MISTAKES[mistake][0]
    ]
    return [word.format(**places) for word in line]


OF_FINISHED_STUDY = {name for name, (line, _) in MISTAKES.items() if "{finished}" in line}


@pytest.mark.parametrize("mistake", [name for name in MISTAKES if name not in OF_FINISHED_STUDY])
def test_a_mistake_prints_one_line_and_writes_nothing(command, places, tmp_path, mistake):
    before = tiny.snapshot(tmp_path)
    check_error(command(*words_of(mistake, places)), MISTAKES[mistake][1])
    assert tiny.snapshot(tmp_path) == before


@pytest.mark.parametrize("mistake", sorted(OF_FINISHED_STUDY))
def test_a_mistake_leaves_a_finished_study_as_it_is(command, places, tmp_path, finished, mistake):
    before = tiny.snapshot(tmp_path), tiny.snapshot(finished)
    line = words_of(mistake, places | {"finished": str(finished)})
    check_error(command(*line), MISTAKES[mistake][1])
    assert (tiny.snapshot(tmp_path), tiny.snapshot(finished)) == before


def check_error(result: tuple[int, str, str], message: str) -> None:
    """The status is 2, and one line with the message is all that was printed."""
    status, out, err = result
    assert (status, out) == (2, "")
    assert err.startswith("gankd: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.slow
@pytest.mark.parametrize("mistake", ["unknown field", "data not prepared", "no teacher"])
def test_a_separate_process_prints_that_line_alone(root, places, tmp_path, mistake):
    before = tiny.snapshot(tmp_path)
    done = tiny.run_gankd(root, *words_of(mistake, places))
    check_error((done.returncode, done.stdout, done.stderr), MISTAKES[mistake][1])
    assert tiny.snapshot(tmp_path) == before


def test_an_interrupt_prints_one_line_without_a_traceback(command, monkeypatch):
    def interrupt(args):
        """Stand in for a long command."""
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "run_describe", interrupt)
    status, out, err = command("describe", DIGITS)
    assert (status, out) == (130, "")
    assert err == "gankd: stopped; the same command resumes from here\n"


def test_import_torch_prints_the_command_that_continues_the_study(command, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    sides = itertools.pairwise([7, 10, 5, 1])  # another width and latent than the config has
    kernels = {f"main.{3 * k}.weight": torch.ones(*side, 4, 4) for k, side in enumerate(sides)}
    torch.save({"g": kernels, "g_ema": kernels}, tmp_path / "g.pth")
    folder = tmp_path / "a study"
    words = ["weights", "import-torch", str(tmp_path / "g.pth"), *TINY, f"--workdir={folder}"]
    status, _, err = command(*words)
    assert (status, err.count("\n")) == (2, 1)
    assert "several generators (g, g_ema); name one, such as --key=g_ema" in err
    status, out, err = command(*words, "--key=g_ema")
    assert (status, err) == (0, "")
    run_folder, next_command = out.splitlines()
    assert run_folder == str(folder / "teacher-d5-s0")
    program, name, *flags = shlex.split(next_command)
    assert (program, name, flags[-1]) == ("gankd", "study", f"--workdir={folder}")
    config, _ = split_config_words(flags)
    assert config.value.model.latent == 7
    assert workdir.matches_config(folder, config.value)

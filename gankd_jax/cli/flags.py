"""The flags of all commands: what is said of them, how they are read, and their values."""

import re
from collections.abc import Container
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from gankd_jax.utils.errors import UserError

Values = flags.FlagValues

CONFIG = {"config": "a study's file, FILE[:variant,variant]; --config.FIELD=VALUE changes a field"}
FLAGS = {
    "workdir": "the study's folder",
    "shard": "the share of a study's groups that `study` takes: 1/4 to 4/4",
    "wait": "seconds that a share waits for another to begin with its teacher (default: 0)",
    "processes": "how many processes train as one: a number, or auto, which asks the cluster",
    "process": "which of them this one is, from 0",
    "coordinator": "HOST:PORT of process 0, where they meet",
    "run": "a run's name, such as student-mse-d4-s0",
    "pretrained": "a generator that comes with the project, such as mnist-d2, or a .safetensors",
    "out": "the file to write",
    "reference": "a table to compare with (default: the paper's)",
    "weights": "folded weights of the FID network (default: those that were fetched)",
    "from": "a copy of the published weights, or folded ones",
    "critic": "a PyTorch file of the teacher's critic",
    "image-size": "pixels to which `score` resizes a data set's images (default: none)",
    "pad": "pixels that `score` adds on each side of them before",
    "samples": "images that `score` takes of A and of B, at random (default: all)",
    "format": "of an exported file: onnx, stablehlo, torch, safetensors",
    "precision": "of an exported file's weights: float32 (default), float16, int8",
    "against": "what `bench` compares with: torch, onnxruntime, or both with a comma",
    "only": "the cases that `bench` times, with commas between (default: all)",
    "compile-for": "a TPU slice, such as tpu:v5e:2x4: `bench` compiles a config's programs for it",
    "rounds": "turns that `bench` takes at each case (default: 5)",
    "rate": "TFLOP/s at which `describe` reckons hours (default: 1)",
    "source-dir": "folder of original files",
    "data-dir": "folder of prepared data sets (default: TFDS's own)",
}

SWITCHES = {
    "memory": "`bench` prints the memory of a config's groups, and runs nothing",
    "start": "`bench` times how long a config's first step takes to come, cold and warm",
    "once": "`watch` looks once",
    "export": "`bench` times a study's exported files, and writes its latency.json",
}


def parse(argv: list[str]) -> tuple[Values, list[str]]:
    """The flags and the other words; every way in which flags can be wrong becomes a UserError."""
    values = Values()
    values.set_gnu_getopt(True)  # words and flags in any order
    config_flags.DEFINE_config_file(
        "config", None, CONFIG["config"], lock_config=True, flag_values=values
    )
    for flag, text in FLAGS.items():
        flags.DEFINE_string(flag, None, text, flag_values=values)
    for flag, text in SWITCHES.items():
        flags.DEFINE_bool(flag, False, text, flag_values=values)
    _check_config_file(argv)
    try:
        words = values(argv)[1:]
    except (AttributeError, KeyError) as error:  # ml_collections' own for a field that is not there
        found = re.findall(r"\w[\w.]*", str(error.args[0]).replace("\\n", " "))
        if "get_config" in found:
            raise UserError("the file of --config has no function get_config") from None
        advice = (
            f"did you mean {found[-4]}?" if "mean" in found else "see gankd_jax/config/schema.py"
        )
        raise UserError(f"the config has no field {found[-1]}; {advice}") from None
    except UserError:
        raise
    except (flags.Error, TypeError, ValueError) as error:
        # A config file that raises comes with its traceback; the last line is the message.
        raise UserError(str(error).strip().splitlines()[-1].split("UserError: ")[-1]) from None
    except Exception as error:  # a config file is code and may raise anything
        told = " ".join(str(error).split())
        raise UserError(f"the config file raises {type(error).__name__}: {told}") from None
    return values, words


def _check_config_file(argv: list[str]) -> None:
    for k, word in enumerate(argv):
        if word in ("--config", "-config"):
            word = f"--config={argv[k + 1]}" if k + 1 < len(argv) else "--config="
        if word.startswith("--config="):
            path = word.removeprefix("--config=").split(":")[0]
            if not Path(path).is_file():
                raise UserError(f"--config={path} is no file; try configs/digits.py")


def config(values: Values) -> ConfigDict:
    """The config of --config with its fields changed, found to be a study's."""
    from gankd_jax.study.validation import validate_config

    if not values["config"].present:
        raise UserError("this command needs --config=FILE, such as --config=configs/digits.py")
    given = values["config"].value
    if not isinstance(given, ConfigDict):
        raise UserError(f"get_config of the file of --config gives {given!r}, no ConfigDict")
    validate_config(given)
    return given


def workdir(values: Values) -> Path:
    """The folder of --workdir, which must be given."""
    return Path(needed(values, "workdir")).expanduser()


def needed(values: Values, flag: str) -> Any:
    """The value of a flag that must be given."""
    if not values[flag].value:
        raise UserError(f"this command needs --{flag}=..., {FLAGS[flag]}")
    return values[flag].value


def whole(values: Values, flag: str, least: int = 0) -> int | None:
    """A whole number from `least`; None where the flag is not given."""
    text = values[flag].value
    if text and not (text.isdecimal() and int(text) >= least):
        raise UserError(f"--{flag}={text} is no whole number from {least}")
    return int(text) if text else None


def only(values: Values, flags: Container[str], command: str) -> None:
    """Refuse a flag that the command would ignore.

    Raises:
      UserError: one is given that is not among `flags`.
    """
    for flag in values:
        if values[flag].present and flag.split(".")[0] not in flags:
            name = command.split(" --")[0]
            raise UserError(f"`gankd {command}` takes no --{flag}; see `gankd {name} --help`")


def rate(values: Values) -> float:
    """--rate in TFLOP/s, above 0; 1 without."""
    text = values["rate"].value or "1"
    if not re.fullmatch(r"\d*\.?\d+", text) or float(text) == 0:
        raise UserError(f"--rate={text} is no rate, such as 0.2 or 80 TFLOP/s")
    return float(text)


def share(values: Values) -> tuple[int, int]:
    """--shard=k/n; all of it without."""
    text = values["shard"].value or "1/1"
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--shard={text} is no share, such as 1/4 to 4/4")
    return int(found[1]), int(found[2])


def path(values: Values, flag: str) -> Path | None:
    """A path, its ~ resolved; None where the flag is not given."""
    text: str | None = values[flag].value
    return Path(text).expanduser() if text else None

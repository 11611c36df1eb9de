"""Shell completion: the printed script, asked by the shell itself."""

import shutil
import subprocess
from pathlib import Path

import pytest
import tiny

from gankd_jax.cli.completion import script
from gankd_jax.cli.flags import SWITCHES
from gankd_jax.cli.table import COMMANDS
from gankd_jax.utils.errors import UserError

CONFIGS = {str(path.relative_to(tiny.REPO)) for path in (tiny.REPO / "configs").glob("*.py")}
FIRST = {name.split()[0] for name in COMMANDS}


def flags(name: str) -> set[str]:
    named = COMMANDS[name].flags
    return {f"--{flag}" if flag in SWITCHES else f"--{flag}=" for flag in named} | {"--help"}


# What is typed, in which {x} is a folder with two runs, and what may come.
CASES = {
    "gankd ": FIRST,
    "gankd st": {"study"},
    "gankd weights ": {"fetch", "import-torch", "export-torch"},
    "gankd weights ex": {"export-torch"},
    "gankd completion ": {"bash", "zsh"},
    "gankd study --": flags("study"),
    "gankd weights fetch --": flags("weights fetch"),
    "gankd watch --o": {"--once"},
    "gankd study --config=": CONFIGS,
    "gankd study --config=configs/dig": {"configs/digits.py"},
    "gankd sample --workdir={x} --run=": {"student-mse-d1-s0", "teacher-d4-s0"},
    "gankd sample --workdir={x} --run=t": {"teacher-d4-s0"},
    "gankd sample --run=x --config=configs/mn": {"configs/mnist.py"},
    "gankd report --workdir=conf": {"configs/"},
}


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("student-mse-d1-s0", "teacher-d4-s0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").touch()
    return tmp_path


def answers(shell: list[str], program: str, *arguments: str) -> set[str]:
    """What a shell's completion offers, in the root of the checkout."""
    command = [*shell, "-c", program, "-", *arguments]
    done = subprocess.run(command, cwd=tiny.REPO, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


def source(shell: str, folder: Path) -> Path:
    path = folder / f"gankd.{shell}"
    path.write_text(script(shell, COMMANDS, SWITCHES))
    return path


@pytest.mark.parametrize("typed", CASES)
def test_bash_offers_what_may_come(folder, typed):
    program = """
        source "$1"
        complete -p gankd | grep --quiet -- '-F _gankd gankd'
        COMP_LINE=$2 COMP_POINT=${#2}
        _gankd
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    line = typed.format(x=folder)
    bash = ["bash", "--norc", "-u"]
    assert answers(bash, program, str(source("bash", folder)), line) == CASES[typed]


def test_where_bash_does_not_split_at_the_sign_the_flag_is_part_of_the_answer(folder):
    program = """
        source "$1"
        COMP_WORDBREAKS=' ' COMP_LINE=$2 COMP_POINT=${#2}
        _gankd
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    path = str(source("bash", folder))
    found = answers(["bash", "--norc"], program, path, "gankd study --config=configs/dig")
    assert found == {"--config=configs/digits.py"}


@pytest.mark.parametrize("typed", [typed for typed in CASES if "workdir=c" not in typed])
def test_zsh_offers_what_may_come(folder, typed):
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    # Its completion system needs a terminal; what is asked of it is written down instead.
    program = """
        compdef() { : }
        compset() { prefix=${current%%=*}= }
        compadd() {
          local word
          while [[ $1 != -- ]]; do shift; done
          shift
          for word in $@; do [[ $prefix$word == $current* ]] && print -r -- $word; done
          return 0
        }
        _files() { for word in ${current#*=}*$~2(N) ${current#*=}*(N); do print -r -- $word; done }
        source $1
        words=(${(z)2}) current=
        if [[ $2 == *' ' ]]; then words+=(''); else current=$words[-1]; fi
        CURRENT=$#words prefix=
        _gankd
    """
    line = typed.format(x=folder)
    zsh = ["zsh", "--no-rcs"]
    assert answers(zsh, program, str(source("zsh", folder)), line) == CASES[typed]


def test_the_command_prints_the_script(command):
    status, out, err = command("completion", "zsh")
    assert (status, err) == (0, "")
    assert out == script("zsh", COMMANDS, SWITCHES) + "\n"


def test_another_shell_is_a_mistake():
    with pytest.raises(UserError, match="no completion for fish; there is bash, zsh"):
        script("fish", COMMANDS, SWITCHES)

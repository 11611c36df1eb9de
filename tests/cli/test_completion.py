"""Shell completion: the printed script, tried in the shell itself."""

import shutil
import subprocess

import pytest
import tiny

from gankd_jax.cli.parser import build_parser, completion_script

COMMANDS = set(build_parser().commands)

# What is typed before the tab key, and the completions.
CASES = {
    "gankd ": COMMANDS,
    "gankd st": {"study"},
    "gankd weights ": {"fetch", "import-torch"},
    "gankd weights i": {"import-torch"},
    "gankd completion ": {"bash", "zsh"},
    "gankd watch --": {"--help", "--once", "--workdir"},
    "gankd weights fetch --": {"--help", "--from"},
    "gankd watch --o": {"--once"},
    "gankd study --config configs/dig": {"configs/digits.py"},
    "gankd report --workdir conf": {"configs"},
}


def complete_in_bash(script: str, line: str) -> set[str]:
    program = f"""{script}
        COMP_LINE={line!r}
        read -ra COMP_WORDS <<< "$COMP_LINE"
        [[ $COMP_LINE != *' ' ]] || COMP_WORDS+=('')
        COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        _shtab_gankd
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", program],
        cwd=tiny.REPO,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("line", CASES)
def test_bash_completes_commands_flags_files_and_folders(line):
    assert complete_in_bash(completion_script("bash"), line) == CASES[line]


def test_zsh_accepts_the_script_and_values_behind_an_equals_sign():
    script = completion_script("zsh")
    assert "\"--workdir=[the study's work directory]:" in script.replace("\\'", "'")
    specifications = [line for line in script.splitlines() if line.startswith('  "--')]
    assert all(line.replace(r"\:", "").count(":") <= 2 for line in specifications)
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    subprocess.run(["zsh", "--no-rcs", "-n", "-c", script], check=True)


def test_the_command_prints_the_script(command):
    status, out, err = command("completion", "zsh")
    assert (status, err) == (0, "")
    assert out == completion_script("zsh") + "\n"

"""Help: it shows what commands take, and its examples are commands that work."""

import ast
import inspect
import re
import shlex
import sys
from types import ModuleType

import pytest
import tiny
from ml_collections import ConfigDict

from gankd_jax.bench import start
from gankd_jax.cli import flags, main
from gankd_jax.cli.table import COMMANDS
from gankd_jax.export.formats import FORMATS
from gankd_jax.study import plan
from gankd_jax.study.validation import validate_config
from gankd_jax.utils.constants import PRECISIONS

# ml_collections reads a config file by a deprecated call.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
TEXTS = flags.CONFIG | flags.FLAGS | flags.SWITCHES
EXAMPLES = sorted({e for command in COMMANDS.values() for e in command.examples})


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("weights", "--help")])
def test_help_names_every_command(command, words):
    status, out, _ = command(*words)
    assert status == 0
    for name in COMMANDS:
        assert f"\n  {name} " in out


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_help_shows_its_own_flags_and_examples(command, name):
    status, out, _ = command(*name.split(), "--help")
    assert status == 0
    shown = {word for line in out.splitlines() for word in re.findall(r"^  --([a-z-]+)", line)}
    assert shown == set(COMMANDS[name].flags)
    assert COMMANDS[name].examples
    for example in COMMANDS[name].examples:
        assert f"\n  {example}" in out


def test_help_of_an_unknown_command_is_a_mistake(command):
    status, out, err = command("frobnicate", "--help")
    assert (status, out) == (2, "")
    assert err.startswith("gankd: no command 'frobnicate'; there are describe")


def parts(module: ModuleType) -> dict[str, ast.stmt]:
    """A module's functions, and its tables of functions."""
    nodes = ast.parse(inspect.getsource(module)).body
    typed = [node for node in nodes if isinstance(node, ast.AnnAssign)]
    tables = {ast.unparse(n.target): n for n in typed if "Callable" in ast.unparse(n.annotation)}
    return {n.name: n for n in nodes if isinstance(n, ast.FunctionDef)} | tables


VALUES = parts(flags)


def used(function: str, tree: dict[str, ast.stmt]) -> set[str]:
    """The flags that a command's function reads, or one that it calls."""
    found = set()
    for node in ast.walk(tree[function]):
        if isinstance(node, ast.Constant) and node.value in TEXTS:
            found.add(node.value)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == f"flags.{node.attr}":
            found |= used(node.attr, VALUES)
        elif isinstance(node, ast.Name) and node.id in tree and node.id != function:
            found |= used(node.id, {name: n for name, n in tree.items() if name != function})
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_names_the_flags_that_it_reads(name):
    run = COMMANDS[name].run
    assert used(run.__name__, parts(inspect.getmodule(run))) == set(COMMANDS[name].flags)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_a_command_that_its_flags_allow(monkeypatch, example):
    monkeypatch.chdir(tiny.REPO)
    inner = re.fullmatch(r'eval "\$\((.*)\)"', example)
    gankd, *words = shlex.split(inner[1] if inner else example)
    assert gankd == "gankd"
    monkeypatch.setattr(sys, "argv", ["gankd", *words])  # where ml_collections finds fields
    monkeypatch.delitem(sys.modules, "config_config", raising=False)
    values, words = flags.parse(sys.argv)
    name, command = main._command(words)
    assert len(words) == len(name.split()) + len(command.takes)
    given = {flag.split(".")[0] for flag in values if values[flag].present}
    assert given <= set(command.flags)
    assert set(command.needs) <= given
    if "config" in given:
        config: ConfigDict = values["config"].value
        validate_config(config)
        assert not given & {"run"} or plan.find_run(config, values["run"].value)
    if "format" in given:
        assert values["precision"].value in (None, *PRECISIONS)
        assert values["format"].value in FORMATS


def test_an_example_runs(command):
    status, out, _ = command(*shlex.split(COMMANDS["describe"].examples[0])[1:])
    assert status == 0
    assert "1669:1" in out


def test_a_start_is_measured_with_all_that_the_words_change(command, monkeypatch):
    started = []
    monkeypatch.setattr(start, "start", lambda *given: started.append(given))
    words = [f"--config={tiny.REPO / 'configs' / 'mnist.py'}:small", "--config.study.seeds", "(3,)"]
    words += ["-config.study.widths=(2,)", "--config.recipes.mse.warm_start"]
    words += ["--config.evaluation.layers=()", "--noconfig.recipes.l1.warm_start"]
    assert command("bench", "--start", *words, "--rounds=2")[0] == 0
    [(config, words, rounds)] = started
    assert (config.study.seeds, config.study.widths, rounds) == ((3,), (2,), 2)
    assert config.recipes.mse.warm_start
    monkeypatch.setattr(sys, "argv", ["gankd", "train", *words])
    monkeypatch.delitem(sys.modules, "config_config", raising=False)
    assert flags.config(flags.parse(sys.argv)[0]) == config

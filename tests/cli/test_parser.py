"""The commands' flags: examples parse, help shows them, and mistakes are named."""

import re
import shlex

import pytest
import tiny

from gankd_jax.bench import start
from gankd_jax.cli.config_flag import split_config_words
from gankd_jax.cli.parser import CommandParser, build_parser, parse_command
from gankd_jax.config.constants import PRECISIONS
from gankd_jax.export.formats import FORMATS, format_of
from gankd_jax.study import plan
from gankd_jax.utils.errors import UserError

# ml_collections reads a config file by a deprecated call.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def list_commands(parser: CommandParser) -> dict[str, CommandParser]:
    """Every command, by its words."""
    if not parser.commands:
        return {parser.prog.removeprefix("gankd "): parser}
    commands: dict[str, CommandParser] = {}
    for child in parser.commands.values():
        commands |= list_commands(child)
    return commands


COMMANDS = list_commands(build_parser())
EXAMPLES = {
    line.strip()
    for parser in COMMANDS.values()
    for line in (parser.epilog or "").splitlines()
    if line.startswith("  ")
}


def flags_of(name: str) -> set[str]:
    return set(re.findall(r"--[a-z-]+", COMMANDS[name].format_usage()))


ALL_FLAGS = set[str]().union(*map(flags_of, COMMANDS))


def parse_line(line: str):
    """The namespace of a whole command line."""
    config, words = split_config_words(shlex.split(line)[1:])
    args = parse_command(words + ([f"--config={config.filename}"] if config else []))
    args.config = config
    return args


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_help_names_every_command(command, words):
    status, out, _ = command(*words)
    assert status == 0
    for name in COMMANDS:
        assert f"\n    {name.split()[0]}" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_shows_its_flags_and_examples(command, name):
    for words in ([*name.split(), "--help"], ["-h", *name.split()]):
        status, out, _ = command(*words)
        assert status == 0
        shown_flags = set(re.findall(r"^  (?:-h, )?(--[a-z-]+)", out, re.MULTILINE))
        assert shown_flags == flags_of(name) | {"--help"}
        assert re.search(r"^Examples.*:\n  .*gankd ", out, re.MULTILINE)


def test_help_does_not_read_the_config(command):
    assert command("study", "--config=configs/none.py", "--help")[0] == 0


def test_help_of_an_unknown_command_is_a_mistake(command):
    status, out, err = command("frobnicate", "--help")
    assert (status, out) == (2, "")
    assert err.startswith("gankd: no command `gankd frobnicate`; there are study, train")


@pytest.mark.parametrize("example", sorted(EXAMPLES))
def test_an_example_parses_and_names_what_exists(monkeypatch, example):
    monkeypatch.chdir(tiny.REPO)
    substitution = re.fullmatch(r'eval "\$\((.*)\)"', example)
    args = parse_line(substitution[1] if substitution else example)
    if args.config:
        config = args.config.load()
        assert not getattr(args, "run_name", None) or plan.find_run(config, args.run_name)
    if hasattr(args, "format"):
        assert args.precision in PRECISIONS
        assert (args.format or format_of(args.out)) in FORMATS


def test_an_example_runs(command):
    status, out, _ = command(*shlex.split("describe --config=configs/mnist.py"))
    assert status == 0
    assert "1669:1" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_a_flag_of_another_command_is_refused(name):
    for flag in ALL_FLAGS - flags_of(name):
        with pytest.raises(UserError, match=rf"`gankd {name}` takes no {flag}; "):
            parse_command([*name.split(), f"{flag}=1", *required_words(name)])


def required_words(name: str) -> list[str]:
    """Words that a command needs, with values of the right form."""
    usage = re.sub(r"\[.*?\]", "", COMMANDS[name].format_usage().split(name, 1)[1])
    flags = [f"{flag}=x" for flag in re.findall(r"--[a-z-]+", usage)]
    if name == "completion":
        return [*flags, "bash"]
    has_argument = name in ("data prepare", "distill", "score", "weights import-torch")
    return [*flags, "x"] if has_argument else flags


@pytest.mark.parametrize("name", COMMANDS)
def test_a_required_flag_must_be_given_and_not_be_empty(name):
    words = required_words(name)
    assert parse_command([*name.split(), *words]).run
    for k, word in enumerate(words):
        others = words[:k] + words[k + 1 :]
        with pytest.raises(UserError, match="required"):
            parse_command([*name.split(), *others])
        if word.startswith("--") and word != "--config=x":
            with pytest.raises(UserError, match="the value is empty"):
                parse_command([*name.split(), f"{word[:-1]}", *others])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("gankd stduy", "did you mean study?"),
        ("gankd weights fetsh", "did you mean fetch?"),
        ("gankd report --wrokdir=x --workdir=x", "takes no --wrokdir; did you mean --workdir?"),
        ("gankd report --workdri=x", "takes no --workdri; did you mean --workdir?"),
        ("gankd weights export-torch --run=x", "use `gankd export --format=torch` instead"),
        ("gankd completion fish", "choose from 'bash', 'zsh'"),
    ],
)
def test_a_misspelt_or_removed_word_gets_a_suggestion(line, message):
    with pytest.raises(UserError, match=re.escape(message)):
        parse_line(line)


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("gankd study --config=configs/digits.py --workdir=x", "shard", (1, 1)),
        ("gankd study --config=configs/digits.py --workdir=x --shard=2/4", "shard", (2, 4)),
        ("gankd distill x --out=a.pth --writers=jsonl,wandb", "writers", ["jsonl", "wandb"]),
        ("gankd bench --only=draw-2,students", "only", ["draw-2", "students"]),
        ("gankd describe --config=configs/digits.py --rate=.5", "rate", 0.5),
        ("gankd --workdir=x watch --once", "once", True),
    ],
)
def test_values_of_flags(monkeypatch, line, name, value):
    monkeypatch.chdir(tiny.REPO)
    assert getattr(parse_line(line), name) == value


def test_bench_start_measures_the_config_with_all_changes(command, monkeypatch):
    calls = []
    monkeypatch.setattr(start, "time_start", lambda *arguments: calls.append(arguments))
    words = [f"--config={tiny.REPO / 'configs' / 'mnist.py'}:small", "--config.study.seeds", "(3,)"]
    words += ["-config.study.widths=(2,)", "--config.recipes.mse.warm_start"]
    words += ["--config.evaluation.layers=()", "--noconfig.recipes.l1.warm_start"]
    assert command("bench", "--start", *words, "--rounds=2")[0] == 0
    [(config, config_words, rounds)] = calls
    assert (config.study.seeds, config.study.widths, rounds) == ((3,), (2,), 2)
    assert config.recipes.mse.warm_start
    again, _ = split_config_words(config_words)
    assert again is not None
    assert again.load() == config

"""The READMEs: their links, paths and commands exist, and their Python runs."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import tiny

from gankd_jax.cli.config_flag import split_config_words
from gankd_jax.cli.parser import build_parser, parse_command

TOP = tiny.REPO / "README.md"
PAGES = sorted(
    tiny.REPO / name
    for name in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=tiny.REPO,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
)
READMES = [page for page in PAGES if page.name == "README.md"]
MAX_LINES, MAX_WORDS = 150, 1_600  # of the top README: two minutes of reading
RUN = "student-mse-d1-s0"  # in the study of the fixture `checkout`


def relative_name(path: Path) -> str:
    return str(path.relative_to(tiny.REPO))


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def headings(path: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", without_code(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def python_blocks(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


def command_lines(path: Path) -> list[str]:
    """The commands of indented lines, without comments."""
    text = without_code(path.read_text()).replace("\\\n", " ")
    return re.findall(r"^    (gankd [^#\n]*)", text, re.MULTILINE)


def command_spans(path: Path) -> list[str]:
    """The commands, or beginnings of commands, within sentences and tables."""
    prose = re.sub(r"^    .*$", "", without_code(path.read_text()), flags=re.MULTILINE)
    return re.findall(r"`(?:[A-Z]\S* )?(gankd [^`]*)`", prose)


@pytest.mark.parametrize("page", PAGES, ids=relative_name)
def test_links_lead_to_files_and_headings(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in headings(path)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", READMES, ids=relative_name)
def test_files_that_are_named_exist(page):
    """A file is named from the root of the checkout, or from the folder of the README."""
    spans = re.findall(r"`([\w./-]+)`", page.read_text())
    names = {
        name
        for name in spans
        if re.fullmatch(r"[\w./-]+\.(py|sh|yaml|sbatch|jinja)", name)
        or re.match(r"(gankd_jax|tests|configs|launch|\.ci)/", name)
    }
    missing = [
        name
        for name in names
        if not (tiny.REPO / name).exists() and not (page.parent / name).exists()
    ]
    assert missing == []


@pytest.mark.parametrize("page", READMES, ids=relative_name)
def test_commands_and_flags_exist(page):
    parser = build_parser()
    for command in command_lines(page) + command_spans(page):
        words = command.split()[1:]
        if words[0].isupper():  # gankd COMMAND --help
            continue
        found, _ = parser.find_command(words)
        flags = {word.split("=")[0] for word in words if word.startswith("--")}
        known = set(re.findall(r"--[a-z-]+", found.format_usage())) | {"--config", "--help"}
        assert {flag for flag in flags if not flag.startswith("--config.")} <= known, command


def test_every_readme_is_linked_from_the_top():
    links = re.findall(r"\]\(([^)\s]+)\)", TOP.read_text())
    assert {relative_name(page) for page in READMES if page != TOP} <= set(links)


def test_the_top_is_read_in_two_minutes():
    text = TOP.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert len(text.split()) <= MAX_WORDS


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections
@pytest.mark.parametrize("command", command_lines(TOP))
def test_commands_of_the_top_are_complete(command, monkeypatch):
    monkeypatch.chdir(tiny.REPO)
    config, words = split_config_words(shlex.split(command)[1:])
    args = parse_command(words + ([f"--config={config.filename}"] if config else []))
    assert callable(args.run)


@pytest.mark.parametrize("page", [TOP, tiny.REPO / "gankd_jax" / "README.md"], ids=relative_name)
@pytest.mark.slow
def test_python_runs(page, checkout, capsys):
    [code] = python_blocks(page)
    names: dict = {}
    exec(re.sub(r"student-\w+-d\d+-s\d+", RUN, code), names)
    images = names["images"]
    assert images.shape[0] == 16
    assert -1 <= images.min() < images.max() <= 1

    if page == TOP:
        score = float(capsys.readouterr().out.splitlines()[0])
        assert 1 < score < 10
        assert names["scores"]["fd_64"] > 0

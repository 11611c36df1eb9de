"""What a command takes, and the help that is printed of it."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping

AT_HOME = (
    "Examples, from the root of a checkout; what they need of runs/digits is there after"
    " launch/quickstart:"
)


@dataclasses.dataclass(frozen=True)
class Command:
    """A command: the function of its name, and everything that is said of it."""

    run: Callable[..., None]
    needs: tuple[str, ...] = ()  # flags, without their dashes
    may: tuple[str, ...] = ()  # flags that can be left out
    takes: tuple[str, ...] = ()  # words
    examples: tuple[str, ...] = ()  # commands that work when pasted one after the other

    @property
    def flags(self) -> tuple[str, ...]:
        """Every flag."""
        return self.needs + self.may

    @property
    def about(self) -> str:
        """What it does, in a line."""
        return (inspect.getdoc(self.run) or "").splitlines()[0]


def overview(commands: Mapping[str, Command]) -> str:
    """Every command in a line."""
    names = {" ".join((name, *command.takes)): command for name, command in commands.items()}
    width = max(map(len, names))
    lines = [f"  {name:{width}}  {command.about}" for name, command in names.items()]
    first = commands["study"].examples[0]
    return "\n".join(
        [
            "gankd COMMAND --config=FILE[:variant] --config.FIELD=VALUE --workdir=DIR",
            "",
            *lines,
            "",
            "`gankd COMMAND --help` shows a command's flags and examples. To begin:",
            f"  {first}",
        ]
    )


def help_of(name: str, command: Command, texts: Mapping[str, str], switches: Mapping) -> str:
    """A command's words, flags and examples."""
    shown = {flag: f"--{flag}" if flag in switches else f"--{flag}=..." for flag in command.flags}
    needed = [shown[flag] for flag in command.needs]
    left = [f"[{shown[flag]}]" for flag in command.may]
    width = max(map(len, shown.values()), default=0)
    parts = [" ".join(["gankd", name, *command.takes, *needed, *left]), inspect.getdoc(command.run)]
    if shown:
        parts.append("\n".join(f"  {text:{width}}  {texts[flag]}" for flag, text in shown.items()))
    parts.append("\n".join([AT_HOME, *(f"  {example}" for example in command.examples)]))
    return "\n\n".join(part or "" for part in parts)

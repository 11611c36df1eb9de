"""Shell completion: a script for bash or zsh that knows the commands and their flags."""

from collections.abc import Collection, Mapping

from gankd_jax.cli.usage import Command
from gankd_jax.utils.errors import UserError

FOLDERS = ("workdir", "source-dir", "data-dir")  # flags whose value is a folder

# What both shells ask: the words that may follow others, a command's flags, the names of runs.
SHARED = """\
_gankd_next() {{
  case $1 in
{next}
  esac
}}
_gankd_flags() {{
  case $1 in
{flags}
  esac
}}
_gankd_configs() {{
  find configs -maxdepth 1 -name '*.py' 2>/dev/null | sort
}}
_gankd_runs() {{
  find "$1" -mindepth 2 -maxdepth 2 -name run.json 2>/dev/null |
    sed 's#/run.json$##; s#.*/##' | sort
}}
"""

BASH = """\
# Completion of gankd for bash; in ~/.bashrc: eval "$(gankd completion bash)"
{shared}
_gankd() {{
  local line=${{COMP_LINE:0:COMP_POINT}} typed= workdir=. word prefix=
  local -a before
  local current=${{line##* }}
  read -ra before <<< "${{line% *}}"
  for word in "${{before[@]:1}}"; do
    case $word in
      --workdir=*) workdir=${{word#*=}} ;;
      -*) ;;
      *) typed="${{typed:+$typed }}$word" ;;
    esac
  done
  local value=${{current#*=}}
  # bash splits words at =, unless it is told otherwise, and replaces what follows it.
  [[ $current != *=* || $COMP_WORDBREAKS == *=* ]] || prefix=${{current%%=*}}=
  mapfile -t COMPREPLY < <(
    case $current in
      --config=) _gankd_configs ;;
      --config=*) compgen -f -X '!*.py' -- "$value"; compgen -S / -d -- "$value" ;;
      --run=*) compgen -W "$(_gankd_runs "$workdir")" -- "$value" ;;
      {folders}) compgen -S / -d -- "$value" ;;
      --*=*) compgen -f -- "$value" ;;
      -*) compgen -W "$(_gankd_flags "$typed") --help" -- "$current" ;;
      *) compgen -W "$(_gankd_next "$typed")" -- "$current" || compgen -f -- "$current" ;;
    esac
  )
  COMPREPLY=("${{COMPREPLY[@]/#/$prefix}}")
  # What ends so is not the whole word yet.
  [[ ${{#COMPREPLY[@]}} -ne 1 || ${{COMPREPLY[0]}} != *[=/] ]] || compopt -o nospace 2>/dev/null
}}
complete -F _gankd gankd
"""

ZSH = """\
#compdef gankd
# Completion of gankd for zsh; in ~/.zshrc, below compinit: eval "$(gankd completion zsh)"
{shared}
_gankd() {{
  local current=${{words[CURRENT]}} typed= workdir=. word
  for word in ${{words[2,CURRENT-1]}}; do
    case $word in
      --workdir=*) workdir=${{word#*=}} ;;
      -*) ;;
      *) typed="${{typed:+$typed }}$word" ;;
    esac
  done
  case $current in
    *=*) compset -P '*=' ;;
  esac
  case $current in
    --config=) compadd -- $(_gankd_configs) ;;
    --config=*) _files -g '*.py' ;;
    --run=*) compadd -- $(_gankd_runs $workdir) ;;
    {folders}) _files -/ ;;
    --*=*) _files ;;
    -*) compadd -S '' -- $(_gankd_flags $typed) --help ;;
    *) compadd -- $(_gankd_next $typed) || _files ;;
  esac
}}
compdef _gankd gankd
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH}


def script(shell: str, commands: Mapping[str, Command], switches: Collection[str]) -> str:
    """The script for a shell, to be evaluated by it.

    Raises:
      UserError: there is none for that shell.
    """
    if shell not in SCRIPTS:
        raise UserError(f"no completion for {shell}; there is {', '.join(SCRIPTS)}")
    flags = {
        name: [f"--{flag}" if flag in switches else f"--{flag}=" for flag in command.flags]
        for name, command in commands.items()
    }
    shared = SHARED.format(next=_cases(_next(commands)), flags=_cases(flags))
    folders = "|".join(f"--{flag}=*" for flag in FOLDERS)
    return SCRIPTS[shell].format(shared=shared, folders=folders)


def _next(commands: Mapping[str, Command]) -> dict[str, list[str]]:
    """By the words before it, which words may come."""
    found: dict[str, list[str]] = {"": []}
    for name, command in commands.items():
        before = ""
        for word in name.split():
            known = found.setdefault(before, [])
            known += [] if word in known else [word]
            before = f"{before} {word}".strip()
        if command.takes and "|" in command.takes[0]:
            found[name] = command.takes[0].split("|")
    return found


def _cases(words: Mapping[str, list[str]]) -> str:
    return "\n".join(f'    "{name}") echo "{" ".join(those)}" ;;' for name, those in words.items())

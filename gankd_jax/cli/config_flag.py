"""The flag --config=FILE:variant and its --config.FIELD=VALUE, read by ml_collections.

`--config=gankd:NAME:variant` names a config of the package, wherever that is installed.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from gankd_jax.config import schema
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.paths import configs_dir, expand_path

PACKAGE = "gankd"  # in place of a file's name, before the name of a config of the package


@dataclasses.dataclass(frozen=True)
class ConfigFlag:
    """A config file that was named on the command line, with its changed fields.

    Attributes:
        filename: The file, with its variants as `FILE:variant,variant`.
        changes: The new value of each changed field, by the field's dotted name.
        value: What the file's `get_config` returned, with the fields changed.
    """

    filename: str
    changes: dict[str, object]
    value: object

    def load(self, fields: Mapping[str, object] | None = None) -> ConfigDict:
        """Returns the config after the checks that need JAX's modules.

        Args:
            fields: Values that other flags set, by the dotted name of the field.

        Raises:
            UserError: It is not a study's config, or a field has a value that it cannot have, or
                the data set is not prepared.
        """
        from gankd_jax.study.validation import resolve_layers, validate_config

        if not isinstance(self.value, ConfigDict):
            raise UserError(
                f"get_config in {self.filename} returns {self.value!r}; it must return a ConfigDict"
            )
        self.value.update_from_flattened_dict(fields or {})
        validate_config(self.value)
        resolve_layers(self.value)
        return self.value

    def to_words(self) -> list[str]:
        """Returns the words of a command line that give the same config."""
        changes = [f"--config.{field}={value}" for field, value in self.changes.items()]
        return [f"--config={self.filename}", *changes]


def names_config(words: list[str]) -> bool:
    """Returns whether a command line has --config, and not only its fields."""
    return any(re.match(r"--?config(=|$)", word) for word in words)


def split_config_words(words: list[str]) -> tuple[ConfigFlag | None, list[str]]:
    """Reads the words that begin with --config, -config or --noconfig.

    Args:
        words: A command line without the program's name.

    Returns:
        The config, None if no file is named, and the words that ml_collections has no use for.

    Raises:
        UserError: The file cannot be read, or a field does not exist or has another type.
    """
    words = _expand_config_file(words)
    argv = ["gankd", *words]
    values = flags.FlagValues()
    values.set_gnu_getopt(True)  # flags may stand before and behind other words
    config_flags.DEFINE_config_file(
        "config", None, "a study's config", lock_config=True, flag_values=values, sys_argv=argv
    )
    try:
        other_words = values(argv, known_only=True)[1:]
    except (AttributeError, KeyError) as error:  # how ml_collections reports an unknown field
        raise UserError(_describe_unknown_field(str(error.args[0]), words)) from None
    except UserError:
        raise
    except (flags.Error, TypeError, ValueError) as error:
        # If a config file raises, the text is its traceback, and the last line is the message.
        raise UserError(str(error).strip().splitlines()[-1].split("UserError: ")[-1]) from None
    except Exception as error:  # a config file is code and may raise anything
        message = " ".join(str(error).split())
        raise UserError(f"the config file raises {type(error).__name__}: {message}") from None
    flag = values["config"]
    if not flag.present:
        return None, other_words
    changes = config_flags.get_override_values(flag)
    return ConfigFlag(config_flags.get_config_filename(flag), changes, flag.value), other_words


def _expand_config_file(words: list[str]) -> list[str]:
    """Writes the config as `--config=FILE`, with whole paths in place of ~ and `gankd:NAME`.

    Raises:
        UserError: There is no such file.
    """
    expanded, remaining = [], iter(words)
    for word in remaining:
        if word in ("--config", "-config"):
            word = f"--config={next(remaining, '')}"
        if word.startswith(("--config=", "-config=")):
            path, colon, variants = _find_config(word.split("=", 1)[1])
            word = f"--config={path}{colon}{variants}"
        expanded.append(word)
    return expanded


def _find_config(value: str) -> tuple[Path, str, str]:
    """Returns the file that a value of --config names, and its variants behind a colon.

    Raises:
        UserError: There is no such file, or the package has no config of that name.
    """
    name, colon, variants = value.partition(":")
    if name != PACKAGE:
        path = expand_path(name)
        if not path.is_file():
            raise UserError(f"--config={name} is not a file; try --config={PACKAGE}:digits")
        return path, colon, variants
    name, colon, variants = variants.partition(":")
    files = {path.stem: path for path in sorted(configs_dir().glob("*.py"))}
    if name not in files:
        names = ", ".join(files)
        raise UserError(f"--config={PACKAGE}:{name}: the package has no such config, but {names}")
    return files[name], colon, variants


def _describe_unknown_field(message: str, words: list[str]) -> str:
    """Returns the name of an unknown field, and what to do about it.

    Args:
        message: What ml_collections says: the last part of the name, perhaps a similar one.
        words: The command line, which has the whole name.
    """
    names = re.findall(r"\w[\w.]*", message.replace("\\n", " "))
    if "get_config" in names:
        return "the file of --config has no function get_config"
    fields = [match[1] for word in words if (match := re.match(r"--?config\.([^=]+)", word))]
    field = next((field for field in fields if names[-1] in field.split(".")), names[-1])
    field = re.sub(rf"\b{names[-1]}\..*", names[-1], field)  # the block that does not exist
    advice = schema.field_advice(field, names[-4] if "mean" in names else "")
    return f"the config has no field {field}; {advice}"

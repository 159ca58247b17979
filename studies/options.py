"""A configuration from a preset and the command line."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import pydantic
import yaml

from fade_study.config import sentences
from fade_study.exceptions import ConfigError

__all__ = ["Setting", "meanings", "parse_config", "settings_of"]

T = TypeVar("T")
DEFAULT_PRESET = "fashion14"
LONGEST_PRESET = 20_000
"""Characters; ours have less than 1,000."""


def parse_config(cls: type[T], folder: Path | None, argv: Sequence[str] | None = None) -> T:
    """A configuration from a preset and the command line.

    Args:
        cls: which configuration.
        folder: where presets lie; ``--preset NAME`` is ``folder/NAME.yaml``, and may also be the path of a file. None
            where there are none.
        argv: ``--preset NAME``, and ``--dotted.name value`` for whatever shall differ from it; default the process's.

    Raises:
        ConfigError: with all unknown keys, wrong types and values out of range of preset and command line.
    """
    words = _joined(sys.argv[1:] if argv is None else argv)
    settings: dict[str, Any] = {}
    if folder is not None:
        presets = [word for word in words if word.startswith("--preset=")]
        words = [word for word in words if word not in presets]
        path = _preset_path(presets[-1].removeprefix("--preset=") if presets else DEFAULT_PRESET, folder)
        settings = _read_preset(path)
    if {"-h", "--help"} & {*words}:
        _print_help(cls, folder, settings)
    problems = [problem for word in words for problem in _override(settings, word)]
    try:
        return _build(cls, settings, problems)
    except ConfigError as error:
        names = [setting.name for setting in settings_of(cls)]
        raise ConfigError([_with_suggestion(problem, names) for problem in error.problems]) from None


def _with_suggestion(problem: str, names: Sequence[str]) -> str:
    """A problem with the name that was probably meant, where a name is unknown."""
    name = problem.partition(":")[0]
    close = difflib.get_close_matches(name, names, n=1) if "unknown name" in problem else []
    return problem.replace("unknown name;", f"unknown name; did you mean {close[0]}?") if close else problem


def _build(cls: type[T], settings: dict[str, Any], problems: Sequence[str] = ()) -> T:
    """The configuration, or a ConfigError with its problems and those that came up before."""
    try:
        config: T = pydantic.TypeAdapter(cls).validate_python(settings)
    except pydantic.ValidationError as error:
        raise ConfigError([*problems, *sentences(error)]) from None
    if problems:
        raise ConfigError(problems)
    return config


def _joined(argv: Sequence[str]) -> list[str]:
    """``--name value`` as ``--name=value``: a value such as -1e-3 would be taken for an option otherwise."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1].startswith("--") and "=" not in joined[-1] and not word.startswith("--"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _preset_path(name: str, folder: Path) -> Path:
    path = Path(name) if name.endswith((".yaml", ".yml")) else _presets(folder).get(name)
    if path is None or not os.path.isfile(path):  # a pipe would be waited for
        raise ConfigError([f"preset: expected {_preset_choices(folder)}, got {name!r}"])
    return path


def _presets(folder: Path) -> dict[str, Path]:
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def _preset_choices(folder: Path) -> str:
    return f"one of {', '.join(_presets(folder))}, or the path of a YAML file"


class _Loader(yaml.SafeLoader):
    """YAML that runs nothing and means what it shows: mappings, lists, texts and null.

    Numbers stay texts. What a text means is for the type of its setting to say: a name may consist of digits.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - as the base class has it
        letter: [(tag, pattern) for tag, pattern in resolvers if tag.endswith(":null")]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose names are all different: of two values nobody knows which is meant."""
        names = [self.construct_object(name, deep=True) for name, _ in node.value]
        twice = sorted({str(name) for name in names if names.count(name) > 1})
        if twice:
            raise yaml.MarkedYAMLError(
                problem=f"expected each name once, got {twice} twice", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """A value; an alias could stand for billions of them, and a tag for a call."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
            raise yaml.MarkedYAMLError(problem="settings have no aliases and tags", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


def _read_preset(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LONGEST_PRESET + 1)
        if len(text) > LONGEST_PRESET:
            raise yaml.YAMLError(f"more than {LONGEST_PRESET} characters")
        settings = yaml.load(text, _Loader) or {}
    except (yaml.YAMLError, OSError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError([f"{path}: expected YAML, got {error}"]) from None
    if not isinstance(settings, dict):
        raise ConfigError([f"{path}: expected names and values, got {type(settings).__name__}"])
    return settings


def _override(settings: dict[str, Any], word: str) -> list[str]:
    """Put ``--dotted.name=value`` into the settings; what is wrong with it, otherwise."""
    name, separator, value = word.removeprefix("--").partition("=")
    if not word.startswith("--") or not name:
        return [f"unrecognized arguments: {word}"]
    if not separator:
        return [f"{name}: expected a value, got none"]
    *sections, last = name.split(".")
    for section in sections:
        settings = settings.setdefault(section, {})
        if not isinstance(settings, dict):
            return [f"{name}: unknown name; --help lists all, got {value!r}"]
    try:
        # Only lists and mappings are YAML here: a text such as a password may contain anything.
        plain = None if value in ("null", "~") else value
        settings[last] = yaml.load(value, _Loader) if value.lstrip()[:1] in ("[", "{") else plain
    except (yaml.YAMLError, RecursionError):
        return [f"{name}: expected a YAML value, got {value!r}"]
    return []


class Setting(NamedTuple):
    """A setting of a study."""

    name: str
    """Dotted."""
    kind: str
    default: Any
    meaning: str


def settings_of(cls: type[Any], default: Any = dataclasses.MISSING, prefix: str = "") -> Iterator[Setting]:
    """All settings of a configuration class, with their meaning from its docstrings.

    Args:
        cls: the class.
        default: an instance whose values hold where none is given; the class's own defaults otherwise.
        prefix: of the names, for a section.
    """
    documented = meanings(cls)
    for field in dataclasses.fields(cls):
        own = field.default if default is dataclasses.MISSING else getattr(default, field.name)
        kind = get_type_hints(cls)[field.name]
        if dataclasses.is_dataclass(kind):
            yield from settings_of(kind, own, f"{prefix}{field.name}.")  # pyright: ignore[reportArgumentType]
        else:
            yield Setting(f"{prefix}{field.name}", _name_of(kind), own, documented.get(field.name, ""))


def meanings(cls: type[Any]) -> dict[str, str]:
    """What the docstrings of a class and its bases say of its arguments."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        arguments = inspect.cleandoc(base.__doc__ or "").partition("Args:\n")[2].partition("\n\n")[0]
        for name, text in re.findall(r"^    (\w+): ((?:.*\n?)(?:^     .*\n?)*)", arguments, flags=re.MULTILINE):
            found[name] = " ".join(text.split())
    return found


def _name_of(kind: Any) -> str:
    """A type, as users write its values."""
    if dataclasses.is_dataclass(kind):
        return "section"
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"[{_name_of(get_args(kind)[0])}, ...]"
    if get_args(kind):
        return "|".join(_name_of(part) for part in get_args(kind))
    return {"NoneType": "null", "str": "text"}.get(kind.__name__, kind.__name__)


def _print_help(cls: type[Any], folder: Path | None, preset: dict[str, Any]) -> NoReturn:
    """Print all names, with their meaning and the values that hold; exit."""
    print(f"{inspect.cleandoc(cls.__doc__ or '').partition(chr(10))[0]}\n\nEach setting is given as --name VALUE.\n")
    if folder is not None:
        print(f"  --preset NAME\n      {_preset_choices(folder)} (default: {DEFAULT_PRESET})")
    for name, kind, default, meaning in settings_of(cls, _build(cls, preset) if preset else dataclasses.MISSING):
        text = meaning if default is dataclasses.MISSING else f"{meaning} (default: {_shown(default)})"
        print(f"  --{name} {kind}\n" + textwrap.fill(text, 100, initial_indent=" " * 6, subsequent_indent=" " * 6))
    sys.exit()


def _shown(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return "null" if value is None else str(value)

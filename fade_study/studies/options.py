"""Configurations from presets and the command line, and the help that describes them."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import pydantic
import yaml

from fade_study.config import sentences
from fade_study.exceptions import ConfigError

T = TypeVar("T")
DEFAULT_PRESET = "fashion14"
NULL = ("null", "~")
"""Spellings of no value."""
LONGEST_PRESET = 20_000
"""Largest number of characters of a preset; ours have fewer than 1,000."""
LIMITS = {"gt": ">", "ge": ">=", "lt": "<"}
"""Signs for pydantic's limits of a number, in the types that users see."""


def parse_config(cls: type[T], folder: Path | None, argv: Sequence[str] | None = None, about: str = "") -> T:
    """Read a configuration from a preset and the command line; ``about`` is what ``--help`` prints first.

    ``--preset NAME`` reads ``folder/NAME.yaml``, or the file NAME if that is the path of a YAML file.

    Raises:
        ConfigError: With all unknown names, wrong types and values out of range in the preset and the command line.
    """
    words = _joined(sys.argv[1:] if argv is None else argv)
    settings: dict[str, Any] = {}
    preset = DEFAULT_PRESET
    if folder is not None:
        presets = [word for word in words if word.startswith("--preset=")]
        words = [word for word in words if word not in presets]
        preset = presets[-1].removeprefix("--preset=") if presets else preset
        settings = _read_preset(_preset_path(preset, folder))
    if {"-h", "--help"} & {*words}:
        lines = [about.strip(), "", *(["Each setting is given as --name VALUE."] if settings_of(cls) else [])]
        lines += [] if folder is None else _help_presets(folder, preset)
        print("\n".join([*lines, "", *_help_settings(cls, settings)]))  # at once, for `fade search --help | head`
        sys.exit()
    problems = [problem for word in words for problem in _override(settings, word)]
    try:
        return _build(cls, settings, problems)
    except ConfigError as error:
        names = [setting.name for setting in settings_of(cls)]
        raise ConfigError([_with_suggestion(problem, names) for problem in error.problems]) from None


def _with_suggestion(problem: str, names: Sequence[str]) -> str:
    """A problem, with the name that was probably meant if it is an unknown name."""
    if "unknown name;" not in problem:
        return problem
    return problem.replace("unknown name;", f"unknown name;{meant(problem.partition(':')[0], names)}")


def meant(name: str, names: Iterable[str]) -> str:
    """A question whether the closest of some names was meant, or nothing if none of them is close."""
    close = difflib.get_close_matches(name, names, n=1)
    return f" did you mean {close[0]}?" if close else ""


def _build(cls: type[T], settings: dict[str, Any], problems: Sequence[str] = ()) -> T:
    """The configuration, or a ``ConfigError`` with its problems and those that were found before."""
    try:
        config: T = pydantic.TypeAdapter(cls).validate_python(settings)
    except pydantic.ValidationError as error:
        raise ConfigError([*problems, *sentences(error)]) from None
    if problems:
        raise ConfigError(problems)
    return config


def _joined(argv: Sequence[str]) -> list[str]:
    """Join ``--name value`` into ``--name=value``, so that a value such as -1e-3 is not taken for an option."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1].startswith("--") and "=" not in joined[-1] and not word.startswith("--"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _preset_path(name: str, folder: Path) -> Path:
    path = Path(name) if name.endswith((".yaml", ".yml")) else _presets(folder).get(name)
    if path is None or not os.path.isfile(path):  # reading a pipe would block
        choices = f"one of {', '.join(_presets(folder))}, or the path of a YAML file"
        raise ConfigError([f"preset: expected {choices}, got {name!r};{meant(name, _presets(folder))}".rstrip(";")])
    return path


def _presets(folder: Path) -> dict[str, Path]:
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


class _Loader(yaml.SafeLoader):
    """Loader of a subset of YAML: mappings, lists, strings and null.

    Numbers are left as strings, since the type of a setting decides what its value means: a name may be all digits.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - as the base class has it
        letter: [(tag, pattern) for tag, pattern in resolvers if tag.endswith(":null")]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping; duplicate names are refused."""
        names = [self.construct_object(name, deep=True) for name, _ in node.value]
        twice = sorted({str(name) for name in names if names.count(name) > 1})
        if twice:
            raise yaml.MarkedYAMLError(
                problem=f"expected each name once, got {twice} twice", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """A value; aliases, which may expand to billions of values, and tags, which may call code, are refused."""
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
    """Put ``--dotted.name=value`` into the settings; returns what is wrong with it, if anything."""
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
        # Only lists and mappings are read as YAML: a string such as a password may contain anything.
        plain = None if value in NULL else value
        settings[last] = yaml.load(value, _Loader) if value.lstrip()[:1] in ("[", "{") else plain
    except (yaml.YAMLError, RecursionError):
        return [f"{name}: expected a YAML value, got {value!r}"]
    return []


class Setting(NamedTuple):
    """A setting of a study."""

    name: str
    """Its name, with dots if it belongs to a section."""
    type: Any
    """Its type, or a configuration class if it is a section."""
    default: Any
    """Its default, or ``dataclasses.MISSING``."""
    meaning: str
    """Its entry in the section ``Args:`` of the docstring, on one line."""

    @property
    def kind(self) -> str:
        """The type as users write its values, such as ``int > 0|null``."""
        return _name_of(self.type)


def settings_of(cls: type[Any], default: Any = dataclasses.MISSING, prefix: str = "") -> Iterator[Setting]:
    """All settings of a class and its sections, with dotted names; an instance may hold the defaults."""
    for field in fields_of(cls, default):
        if dataclasses.is_dataclass(field.type):
            section: Any = field.type
            yield from settings_of(section, field.default, f"{prefix}{field.name}.")
        else:
            yield field._replace(name=prefix + field.name)


def fields_of(cls: type[Any], default: Any = dataclasses.MISSING) -> Iterator[Setting]:
    """The settings of a configuration class, each section as a whole; the arguments are those of `settings_of`."""
    types, documented = get_type_hints(cls, include_extras=True), meanings(cls)
    for field in dataclasses.fields(cls):
        own = field.default if default is dataclasses.MISSING else getattr(default, field.name)
        yield Setting(field.name, types[field.name], own, documented.get(field.name, ""))


def meanings(cls: type[Any]) -> dict[str, str]:
    """Entries in the sections ``Args:`` of the docstrings of a class and its bases, by argument."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        arguments = inspect.cleandoc(base.__doc__ or "").partition("Args:\n")[2].partition("\n\n")[0]
        for name, text in re.findall(r"^    (\w+): ((?:.*\n?)(?:^     .*\n?)*)", arguments, flags=re.MULTILINE):
            found[name] = " ".join(text.split())
    return found


def _name_of(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        plain, *extras = get_args(kind)
        found = [limit for extra in extras for limit in getattr(extra, "metadata", ())]
        limits = [
            f"{LIMITS[name]} {getattr(limit, name)}" for limit in found for name in LIMITS if hasattr(limit, name)
        ]
        return f"{_name_of(plain)} {', '.join(limits)}".strip()
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"[{_name_of(get_args(kind)[0])}, ...]"
    if get_args(kind):
        return "|".join(_name_of(part) for part in get_args(kind))
    name: str = kind.__name__
    return {"NoneType": "null", "str": "text"}.get(name, name)


def _help_presets(folder: Path, preset: str) -> list[str]:
    """Lines on what each preset is for, which the first line of its file says."""
    lines = [
        f"Those that are not given have the defaults below, of the preset {preset}.\n",
        f"  --preset NAME\n      One of these, or the path of a YAML file (default: {DEFAULT_PRESET})",
    ]
    for name, path in _presets(folder).items():
        first = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        lines.append(textwrap.fill(f"{name:10} {first}", 100, initial_indent=" " * 8, subsequent_indent=" " * 19))
    return lines


def _help_settings(cls: type[Any], preset: dict[str, Any]) -> Iterator[str]:
    """Lines on all settings, with their meanings and current values."""
    for setting in settings_of(cls, _build(cls, preset) if preset else dataclasses.MISSING):
        text = re.sub(r":\w+:`|`", "", setting.meaning)  # as plain text
        if setting.default is not dataclasses.MISSING:
            text += f" (default: {shown(setting.default)})"
        yield f"  --{setting.name} {setting.kind}"
        yield textwrap.indent(textwrap.fill(text, 94, break_on_hyphens=False), " " * 6)


def shown(value: Any) -> str:
    """A value as users write it."""
    if dataclasses.is_dataclass(value):  # a section as a whole: what differs from its defaults
        parts = {field.name: (getattr(value, field.name), field.default) for field in dataclasses.fields(value)}
        changed = [f"{name}: {shown(own)}" for name, (own, default) in parts.items() if own != default]
        return f"{{{', '.join(changed)}}}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(shown, value))}]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)

"""Pages that would say twice what is said elsewhere: the README, CONTRIBUTING, and the tables of all settings.

The tables are made from the configuration classes: types and defaults, and meanings from docstrings.
"""

import dataclasses
import inspect
import json
import re
from pathlib import Path

import pydantic

from fade_study import config
from studies import schemas

CLASSES = {
    "`mlflow run . -e search`": schemas.SearchConfig,
    "`mlflow run . -e validate`": schemas.ValidationConfig,
    "`mlflow run . -e compare`": schemas.ComparisonConfig,
    "`mlflow run . -e analyze`": schemas.AnalyzeConfig,
    "`mlflow run . -e evaluate`": schemas.EvaluateConfig,
    "`mlflow run . -e benchmark`": schemas.BenchmarkConfig,
    "`mlflow run . -e scale`": schemas.ScaleConfig,
    # sections of those above
    "DataConfig": config.DataConfig,
    "SpaceConfig": schemas.SpaceConfig,
    "NetworkConfig": config.NetworkConfig,
    "OptimizerConfig": config.OptimizerConfig,
    "BilevelConfig": config.BilevelConfig,
    "ScratchConfig": config.ScratchConfig,
    "SamplerConfig": schemas.SamplerConfig,
}
ROOT = Path(__file__).parents[1]
PAGES = {"index": "README.md", "contributing": "CONTRIBUTING.md"}
LINKS = {
    "](docs/": "](",
    "](CONTRIBUTING.md": "](contributing.md",
    "](LICENSE": "](../LICENSE",
    "](analysis/": "](../analysis/",
}
"""Links of the files above, and how they look from a page."""


def complete(app, docname, source):
    """Sphinx's hook for every page: put a file of the repository at the beginning, or tables of settings at the end."""
    if docname in PAGES:
        text = (ROOT / PAGES[docname]).read_text(encoding="utf-8")
        for link, seen_from_here in LINKS.items():
            text = text.replace(link, seen_from_here)
        source[0] = f"{text}\n{source[0]}"
        app.env.note_dependency(str(ROOT / PAGES[docname]))
    if docname == "configuration":
        source[0] += "\n".join(table(title, cls) for title, cls in CLASSES.items())


def table(title, cls):
    """One configuration class as a Markdown section."""
    lines = [f"## {title}\n", f"{sentence(cls.__doc__.split('Args:')[0])}\n"]
    lines += ["| setting | type | default | meaning |", "|---|---|---|---|"]
    properties, text = pydantic.TypeAdapter(cls).json_schema()["properties"], meanings(cls)
    for field in dataclasses.fields(cls):
        default = "required" if field.default is dataclasses.MISSING else shown(field.default)
        cells = [f"`{field.name}`", kind(properties[field.name]), default, text[field.name]]
        lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def meanings(cls):
    """What the ``Args`` of a class and of its bases say, by setting; a class's own text wins."""
    found = {}
    for base in reversed(cls.__mro__):
        arguments = inspect.cleandoc(base.__dict__.get("__doc__") or "").partition("Args:\n")[2]
        found |= {name: sentence(text) for name, text in re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", arguments, re.M)}
    return found


def sentence(text):
    """A docstring's text as Markdown on one line."""
    text = re.sub(r":(\w+):`", r"{py:\1}`", " ".join(text.split()))
    return text[:1].upper() + text[1:]


def shown(value):
    """A default as one would type it."""
    if dataclasses.is_dataclass(value):
        return "as below"
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"


def kind(schema):
    """A type in words, from its JSON schema."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(kind(one) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema["type"] == "array":
        return f"list of {kind(schema['items'])}"
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[name]}" for name, sign in signs.items() if name in schema]
    return f"{schema['type']} {', '.join(limits)}".strip()

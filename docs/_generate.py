"""Generates what the pages share with other files: the README, CONTRIBUTING, and tables of settings and of the record.

The tables of settings are made from the configuration classes and their docstrings, as ``--help`` is; those of the
record from ``fade_study.tracking.schema``.
"""

import dataclasses
import re
from pathlib import Path

from fade_study import config
from fade_study.studies import options, schemas
from fade_study.tracking import schema

CLASSES = {
    "`mlflow run . -e search`": schemas.SearchConfig,
    "`mlflow run . -e validate`": schemas.ValidationConfig,
    "`mlflow run . -e compare`": schemas.ComparisonConfig,
    "`mlflow run . -e analyze`": schemas.AnalyzeConfig,
    "`mlflow run . -e evaluate`": schemas.EvaluateConfig,
    "`mlflow run . -e train`": schemas.TrainConfig,
    "`mlflow run . -e benchmark`": schemas.BenchmarkConfig,
    "`mlflow run . -e scale`": schemas.ScaleConfig,
    # the sections of those above
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
    "](fade_study/": "](../fade_study/",
}
"""Links of these files, and the same links as seen from a page."""
BACK = {f"](../{file}": f"]({page}.md" for page, file in PAGES.items()}
"""Links from the pages to these files, and to the pages that hold them."""


def complete(app, docname, source):
    """Sphinx's hook for every page: insert a file of the repository at its beginning, or tables at its end."""
    if docname in PAGES:
        text = (ROOT / PAGES[docname]).read_text(encoding="utf-8")
        for link, seen_from_here in LINKS.items():
            text = text.replace(link, seen_from_here)
        source[0] = f"{text}\n{source[0]}"
        app.env.note_dependency(str(ROOT / PAGES[docname]))
    for link, page in BACK.items():
        source[0] = source[0].replace(link, page)
    if docname == "configuration":
        source[0] += "\n".join(settings(title, cls) for title, cls in CLASSES.items())
    if docname == "record":
        source[0] += "\n".join(map(recorded, schema.RECORDED))


def settings(title, cls):
    """One configuration class as a Markdown section."""
    rows = [
        (
            f"`{setting.name}`",
            kind(setting),
            "as below" if dataclasses.is_dataclass(setting.type) else default(setting),
            markdown(setting.meaning),
        )
        for setting in options.fields_of(cls)
    ]
    return section(title, cls.__doc__.split("Args:")[0], ("setting", "type", "default", "meaning"), rows)


def recorded(group):
    """One group of runs as a Markdown section."""
    rows = [(entry.what, f"`{entry.name}`", entry.meaning) for entry in group.entries]
    return section(group.title, group.description, ("what", "name", "meaning"), rows)


def section(title, text, columns, rows):
    """A Markdown section with a table."""
    lines = [f"## {title}\n", f"{markdown(text)}\n", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def kind(setting):
    """A setting's type; that of a section links to its table."""
    words = [f"[{word}](#{word.lower()})" if word in CLASSES else f"`{word}`" for word in setting.kind.split("|")]
    return " or ".join(words)


def default(setting):
    """A setting's default as users write it."""
    return "required" if setting.default is dataclasses.MISSING else f"`{options.shown(setting.default)}`"


def markdown(text):
    """A docstring's text as Markdown on one line."""
    return re.sub(r":(\w+):`", r"{py:\1}`", " ".join(text.split()))

"""What importing the package costs, and that its layers point one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from fade_study.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fade_study"
HEAVY = {"torch", "torchvision", "mlflow", "accelerate", "matplotlib", "pandas", "sklearn", "pydantic"}
HEAVY |= {"dask", "distributed"}

CORE = {"_optuna", "arrays", "exceptions", "cells", "architecture", "generation", "past", "ranking", "seeding"}
CORE |= {"samplers", "study", "urls"}
MAY_IMPORT = {
    "_optuna": set(),
    "arrays": set(),
    "exceptions": set(),
    "seeding": set(),
    "interrupt": set(),
    "urls": set(),
    "datasets": set(),
    "cells": {"arrays", "exceptions"},
    "builders": {"exceptions"},
    "effects": {"exceptions", "cells", "architecture"},
    "ranking": {"arrays", "exceptions"},
    "statistics": {"arrays", "exceptions", "seeding"},
    "architecture": {"exceptions", "cells"},
    "benchmarks": {"exceptions", "cells", "architecture"},
    "generation": {"cells", "architecture"},
    "past": {"_optuna", "exceptions", "generation"},
    "samplers": {"_optuna", "arrays", "exceptions", "cells", "generation", "past", "seeding"},
    "study": CORE - {"study"},
    "testing": CORE,
    "config": {"exceptions"},
    "nn": {"exceptions", "builders", "cells", "architecture", "config"},
    "execution": {"exceptions", "builders", "interrupt", "__init__"},
    "training": {
        "exceptions",
        "interrupt",
        "architecture",
        "builders",
        "config",
        "cells",
        "datasets",
        "effects",
        "execution",
        "nn",
        "ranking",
        "seeding",
    },
    "tracking": {
        "__init__",
        "analysis",
        "exceptions",
        "interrupt",
        "architecture",
        "benchmarks",
        "study",
        "training",
        "urls",
    },
    "__init__": CORE | {"analysis"},  # inside of a function
    "analysis": {"exceptions", "cells", "architecture", "statistics", "__init__"},
    "__main__": {"studies"},  # inside of a function
}
"""Samplers know no torch, training knows no study: they meet in ``studies``, which may import everything."""


def imports(path):
    """Full names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layers"
            if node.module == "fade_study":
                # a name other than a module's comes from the package itself
                yield from (
                    f"fade_study.{n}" if n[0].islower() else "fade_study.__init__" for n in map(name_of, node.names)
                )
            else:
                yield node.module or ""


def name_of(alias):
    return alias.name


def test_importing_the_package_imports_nothing_heavy():
    script = f"import sys, fade_study; print({HEAVY!r} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "set()"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_misspelt_setting_is_refused_before_anything_heavy_is_imported(command):
    script = f"""
import sys
from fade_study.__main__ import main
sys.argv = ["fade", {command!r}, "--generation", "3"]
try:
    main()
except SystemExit as error:
    print(error)
print({HEAVY - {"pydantic"}!r} & set(sys.modules))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "generation: unknown name" in run.stdout
    assert run.stdout.endswith("set()\n")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    inner = {name.split(".")[1] for name in imports(path) if name.startswith("fade_study.")}
    assert layer == "studies" or inner <= MAY_IMPORT[layer] | {layer}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_libraries_stay_at_the_edge(path):
    layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    outer = {name.split(".")[0] for name in imports(path)}
    assert "tests" not in outer
    assert ("mlflow" in outer) <= (layer == "tracking")
    assert ("accelerate" in outer) <= (layer in {"training", "studies"})
    assert path.name in {"cluster.py", "scale.py"} or not outer & {"dask", "distributed"}
    assert ("matplotlib" in outer) <= (layer in {"analysis", "studies", "tracking", "__init__"})
    assert ("torch" in outer) <= (layer in {"nn", "training", "studies"})


def test_every_public_name_exists():
    import importlib

    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        module = importlib.import_module(name)
        names = getattr(module, "__all__", [])  # scripts have none
        assert sorted(names) == sorted(n for n in names if hasattr(module, n)), name

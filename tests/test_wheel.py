"""The installed package is whole: it works without a clone."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import mlflow
import pytest

ROOT = Path(__file__).parents[1]
SMOKE = ["--preset", "smoke", "--executor", "inline"]


def run(*command, cwd):
    hidden = ("PYTHONPATH", "MLFLOW_TRACKING_URI")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built in a copy, so that the build leaves nothing in the checkout."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "fade_study", source / "fade_study", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", "dist", ".", cwd=source)
    (file,) = (source / "dist").glob("*.whl")
    return file


@pytest.fixture(scope="module")
def fade(wheel, tmp_path_factory):
    """The command of an environment in which the wheel is installed, beside the dependencies of this one."""
    home = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home)
    (packages,) = home.glob("lib/python*/site-packages")
    # Only the folder itself: Python does not read the .pth files in it, by which the clone may be installed.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    run(sys.executable, "-m", "pip", "--python", home / "bin" / "python", "install", "--no-deps", wheel, cwd=home)
    where = run(home / "bin" / "python", "-c", "import fade_study; print(fade_study.__file__)", cwd=home)
    assert where.startswith(str(home))
    return home / "bin" / "fade"


@pytest.mark.slow
def test_a_wheel_holds_one_package_with_all_its_files(wheel):
    files = zipfile.ZipFile(wheel).namelist()
    assert {file.split("/")[0].split("-")[0] for file in files} == {"fade_study"}
    here = {str(path.relative_to(ROOT)) for path in (ROOT / "fade_study").rglob("*") if path.is_file()}
    assert {path for path in here if "__pycache__" not in path} <= {*files}


@pytest.mark.slow
def test_every_command_works_in_an_empty_folder(fade, tmp_path):
    assert "search" in run(fade, "--help", cwd=tmp_path)
    said = run(fade, "search", *SMOKE, "--study", "s", "--final_seeds", "1", cwd=tmp_path)
    assert "Kept as a model" in said
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (search,) = client.search_runs(experiments, "tags.`fade.kind` = 'search'")
    figures = client.list_artifacts(search.info.run_id, "figures")
    assert any(figure.path.endswith("trajectory.png") for figure in figures)
    # The documented way to use the winner, in a process that can't import the package.
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "use-the-winner.md").read_text(), flags=re.DOTALL)
    assert len(code.splitlines()) <= 10
    used = run(sys.executable, "-c", f"import sys; sys.modules['fade_study'] = None\n{code}", cwd=tmp_path)
    assert all(0 <= label < 10 for label in json.loads(used.splitlines()[-1]))
    for command in ("evaluate", "train"):
        run(fade, command, "--run_id", search.info.run_id, "--executor", "inline", cwd=tmp_path)
    run(fade, "analyze", "--run_id", search.info.run_id, cwd=tmp_path)
    for command in ("validate", "compare"):
        run(fade, command, *SMOKE, cwd=tmp_path)
    assert run(fade, "deliver", cwd=tmp_path) == "All delivered\n"

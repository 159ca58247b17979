"""MLflow's user interface tells the story of a run, in a real browser."""

import re
import shutil
import subprocess
import sys

import pytest

from tests.studies.harness import MlflowServer

pytestmark = pytest.mark.slow
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
if BROWSER is None:
    pytest.skip("no headless browser is installed: apt-get install chromium", allow_module_level=True)


def run(folder, *arguments):
    """What a command prints."""
    command = [sys.executable, "-m", "fade_study", *arguments, "--preset", "smoke"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def told(tmp_path_factory, mlflow_template):
    """The server on a store with a search and a validation, and the pages that they have printed."""
    from tests.studies.harness import make_place

    folder = make_place(tmp_path_factory.mktemp("ui") / "place", mlflow_template)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
            patch.delenv(name, raising=False)
        search = run(folder, "search", "--study", "told", "--generations", "3", "--evaluate_every", "1")
        validation = run(folder, "validate")
    server = MlflowServer(folder)
    yield server.start(), {"search": search, "validation": validation}
    server.stop()


def browse(server, printed, folder, page=""):
    """The page of a run, at the address that its command has printed, as the browser shows it."""
    (address,) = re.findall(r"open http://127.0.0.1:5000/(\S+)", printed)
    path, _, query = address.partition("?")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}"]
    options += ["--virtual-time-budget=20000", "--window-size=1400,2500", "--dump-dom"]
    command = [BROWSER, *options, f"{server.uri}/{path}{page}?{query}"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def fetched(server, source):
    """The first bytes of a picture of a page."""
    import urllib.request

    with urllib.request.urlopen(f"{server.uri}/{source.replace('&amp;', '&')}") as answer:
        return answer.read(8)


def test_the_page_of_a_search_names_the_winner_and_shows_its_trajectory(told, tmp_path):
    server, printed = told
    page = browse(server, printed["search"], tmp_path)
    (accuracy,) = re.findall(r"test accuracy (\d\.\d+ ± \d\.\d+)", printed["search"])
    assert f"Winner: test accuracy {accuracy} (sd of 2 seeds), chance 0.10" in page
    assert "fade train --run_id" in page
    pictures = re.findall(r'<img src="(get-artifact[^"]+)"', page)
    assert {"best_architecture", "trajectory", "accuracy"} <= {
        re.search(r"pictures/(\w+)\.png", one)[1] for one in pictures
    }
    assert {fetched(server, one) for one in pictures} == {b"\x89PNG\r\n\x1a\n"}
    charts = browse(server, printed["search"], tmp_path, "/model-metrics")
    assert "anchor/row0" in charts
    assert "alpha/row1" in charts
    assert "column0" not in charts


def test_the_page_of_a_validation_shows_its_coefficient_and_ranks(told, tmp_path):
    server, printed = told
    page = browse(server, printed["validation"], tmp_path)
    value = re.search(r"^fade +(-?\d\.\d\d \[.*?\])", printed["validation"], re.MULTILINE)[1]
    assert f"Spearman correlation of FaDE-ranks with accuracy from scratch: {value}" in page
    assert "mlflow.load_table(" in page
    assert f"validate digits ρ={value.split()[0]}" in page
    (picture, *_) = re.findall(r'<img src="(get-artifact[^"]+ranks\.png[^"]+)"', page)
    assert fetched(server, picture) == b"\x89PNG\r\n\x1a\n"

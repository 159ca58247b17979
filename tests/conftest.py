"""Fixtures: small real data, and an MLflow store that opens at once."""

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
import sqlalchemy

ROOT = Path(__file__).parent.parent
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("ACCELERATE_USE_CPU", "true")  # a GPU's sums are others
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several tests run at a time, and small tensors gain nothing from more
optuna.logging.set_verbosity(optuna.logging.WARNING)

RENAME = "mlflow.MlflowClient().rename_experiment('0', 'fade_study')"
"""Makes the experiment with number 0, in which MLflow looks for runs by default, that of our runs."""
SEARCHERS = ["random", "fade pseudo-gradient", "tpe", *(f"another searcher {k}" for k in range(10))]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def finals(rng):
    """13 searchers of different quality with 10 seeds, some of which are luckier than others."""
    luck = 0.01 * rng.normal(size=10)
    return {name: 0.9 + 0.002 * k + luck + 0.004 * rng.normal(size=10) for k, name in enumerate(SEARCHERS)}


@pytest.fixture(scope="session")
def digits():
    from fade_study.training import DataConfig, load_data

    return load_data(DataConfig(limit=300))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    """The processor, and a GPU if the machine has one, with the settings of a training."""
    import torch

    from fade_study.training.session import _exact

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    with _exact(torch.device(request.param)):
        yield torch.device(request.param)


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory):
    """A fresh MLflow database: its migrations take seconds, a copy none."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    script = f"import mlflow; mlflow.set_tracking_uri('sqlite:///{path}'); {RENAME}"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, cwd=path.parent)
    return path


@pytest.fixture(scope="session")
def postgresql_mlflow_template(postgresql, tmp_path_factory):
    """The same in PostgreSQL: the name of a database to make others from. Artifacts go through the server."""
    url = postgresql.make_database()
    script = f"import mlflow; mlflow.set_tracking_uri({url!r}); {RENAME}"
    folder = tmp_path_factory.mktemp("mlflow")
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, cwd=folder)
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE experiments SET artifact_location = 'mlflow-artifacts:/0'"))
    engine.dispose()
    return url.rpartition("/")[2]


@pytest.fixture
def mlflow_store(mlflow_template, tmp_path, monkeypatch):
    """An empty store in this test's folder, for this process and for its children."""
    path = tmp_path / "mlflow.db"
    shutil.copy(mlflow_template, path)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE experiments SET artifact_location = ?", (str(tmp_path / "artifacts"),))
    uri = f"sqlite:///{path}"
    monkeypatch.chdir(tmp_path)  # where checkpoints, and what is on its way to MLflow, are kept
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    if "mlflow" in sys.modules:
        import mlflow

        mlflow.set_tracking_uri(uri)
    return uri


@pytest.fixture
def no_figures(monkeypatch):
    """Figures are not drawn, which takes seconds in each search."""
    from fade_study import tracking

    monkeypatch.setattr(tracking.Run, "figure", lambda *_, **__: None)


@pytest.fixture(scope="session")
def postgresql():
    """A real server, where its programs are installed: Debian's package ``postgresql``."""
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed: pip install 'fade-study[postgresql]'")
    from tests import postgresql

    programs = postgresql.programs()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed: apt-get install postgresql")
    server = postgresql.Server(programs)
    yield server
    server.stop()


@pytest.fixture
def project(tmp_path):
    """What ``mlflow run`` needs, in a folder of its own, so that runs leave nothing in the checkout."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(ROOT / "MLproject", folder)
    return folder

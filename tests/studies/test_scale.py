"""The simulation of a cluster as a user starts it, with fewer of everything."""

import os
import subprocess
import sys

import mlflow
import pytest

pytest.importorskip("distributed", reason="Dask is not installed: pip install 'fade-study[cluster]'")
pytestmark = pytest.mark.slow


def test_it_runs_and_records(project, mlflow_store):
    command = [sys.executable, "-m", "studies.scale", "--evaluations", "100", "--workers", "5", "--recorded", "20"]
    output = subprocess.run(command, cwd=project, env=os.environ, capture_output=True, text=True, check=True).stdout
    (run,) = mlflow.search_runs(output_format="list")  # none of the results that are made up
    assert run.data.tags["fade.kind"] == "benchmark"
    metrics = run.data.metrics
    names = ("cluster", "cluster_own", "record", "record_own")
    assert metrics.keys() == {f"scale/milliseconds/{name}" for name in names}
    assert 0 < metrics["scale/milliseconds/cluster_own"] < metrics["scale/milliseconds/cluster"]
    assert 0 < metrics["scale/milliseconds/record_own"] < metrics["scale/milliseconds/record"]
    assert "5 workers are kept busy by evaluations of" in output

"""The simulation of a cluster as a user starts it, at a small scale."""

import mlflow
import pytest

from tests.studies.test_search import mlflow_run

pytest.importorskip("distributed", reason="Dask is not installed: pip install 'fade-study[cluster]'")
pytestmark = pytest.mark.slow


def test_it_runs_and_records(project, mlflow_store):
    fewer = ["-P", "evaluations=100", "-P", "workers=5", "-P", "recorded=20"]
    result = mlflow_run(project, "-e", "scale", *fewer)
    assert result.returncode == 0, result.stdout + result.stderr
    (run,) = mlflow.search_runs(output_format="list")  # none of the results that are made up
    assert run.data.tags["fade.kind"] == "benchmark"
    metrics = run.data.metrics
    names = ("cluster", "cluster_own", "record", "record_own")
    assert metrics.keys() == {f"scale/milliseconds/{name}" for name in names}
    assert 0 < metrics["scale/milliseconds/cluster_own"] < metrics["scale/milliseconds/cluster"]
    assert 0 < metrics["scale/milliseconds/record_own"] < metrics["scale/milliseconds/record"]
    assert "5 workers are kept busy by evaluations of" in result.stdout

import pytest

from tests.studies import harness


@pytest.fixture
def place(tmp_path, mlflow_template):
    """A folder with an empty tracking store."""
    return harness.make_place(tmp_path / "place", mlflow_template)


@pytest.fixture(scope="session")
def reference(tmp_path_factory, mlflow_template):
    """What a search that nothing happens to leaves."""
    folder = harness.make_place(tmp_path_factory.mktemp("reference") / "place", mlflow_template)
    harness.finish(folder)
    return harness.outcome(folder)

"""Everything that runs hold is named in the schema."""

import re
from pathlib import Path

import mlflow
import pytest

from fade_study.studies.options import parse_config
from fade_study.studies.schemas import AnalyzeConfig, ComparisonConfig, EvaluateConfig, SearchConfig, TrainConfig
from fade_study.tracking.schema import KIND, RECORDED, Entry

CONFIGS = Path(__file__).parents[2] / "fade_study" / "studies" / "configs"


def describes(entry, name):
    """Whether an entry describes a name."""
    parts = re.split(r"\{\w+\}", entry.name)
    return re.fullmatch("[^/]+".join(map(re.escape, parts)), name) is not None


def test_a_name_matches_its_pattern_alone():
    entry = Entry("metric", "anchor/row{i}/{feature}", "")
    assert describes(entry, "anchor/row0/degree_variance")
    for other in ("anchor/row0", "anchor/row0/degree_variance/x", "my_anchor/row0/degree_variance"):
        assert not describes(entry, other)
    assert describes(Entry("artifact", "figures/{name}.{format}", ""), "figures/ranks.svg")
    assert not describes(Entry("artifact", "figures/{name}.png", ""), "figures/ranks_png")


def test_each_entry_stands_once_for_a_kind_of_runs():
    for kind in {kind for group in RECORDED for kind in group.kinds}:
        titles = [group.title for group in RECORDED if kind in group.kinds]
        assert len(titles) == len(set(titles))
    for group in RECORDED:
        names = [(entry.what, entry.name) for entry in group.entries]
        assert len(names) == len(set(names)), group.title


def files(client, run_id, folder=None):
    """All artifacts of a run, through all folders."""
    for file in client.list_artifacts(run_id, folder):
        if file.is_dir:
            yield from files(client, run_id, file.path)
        else:
            yield file.path


def names_of(client, run):
    """All that a run holds, as pairs of what it is and its name."""
    held = [("metric", name) for name in run.data.metrics]
    held += [("param", name) for name in run.data.params]
    held += [("tag", name) for name in run.data.tags if name.startswith("fade.")]
    held += [("artifact", name) for name in files(client, run.info.run_id)]
    held += [("model", client.get_logged_model(one.model_id).name) for one in run.outputs.model_outputs]
    return held + [("input", one.dataset.name) for one in run.inputs.dataset_inputs]


def unnamed():
    """What runs in the current store hold, but the schema does not name, with the kind of run."""
    client = mlflow.MlflowClient()
    found = set()
    for run in mlflow.search_runs(search_all_experiments=True, output_format="list"):
        kind = run.data.tags[KIND]
        entries = [entry for group in RECORDED if kind in group.kinds for entry in group.entries]
        for what, name in names_of(client, run):
            if not any(entry.what == what and describes(entry, name) for entry in entries):
                found.add((kind, what, name))
    return found


@pytest.mark.filterwarnings("ignore")
def test_all_that_a_search_and_its_evaluation_record_is_named(mlflow_store, capsys):
    from fade_study.studies.evaluate import evaluate
    from fade_study.studies.search import search
    from fade_study.studies.train import train

    arguments = ["--preset", "smoke", "--evaluate_every", "1", "--final_seeds", "2"]
    search(parse_config(SearchConfig, CONFIGS / "search", arguments))
    (run,) = mlflow.search_runs(filter_string=f"tags.`{KIND}` = 'search'", output_format="list")
    evaluate(EvaluateConfig(run_id=run.info.run_id, executor="inline"))
    train(TrainConfig(run_id=run.info.run_id, executor="inline"))
    said = capsys.readouterr().out
    assert "generation  test accuracy ± sd  seeds  architecture\n         0  0." in said
    assert "Best, chosen by validation accuracy: " in said
    kinds = {run.data.tags[KIND] for run in mlflow.search_runs(output_format="list")}
    assert kinds == {"search", "hyper", "scratch", "evaluation", "training"}
    assert unnamed() == set()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_all_that_a_comparison_and_its_analysis_record_is_named(mlflow_store):
    from fade_study.studies.analyze import analyze
    from fade_study.studies.compare import compare

    arguments = ["--preset", "smoke", "--searchers", "[fade]"]
    compare(parse_config(ComparisonConfig, CONFIGS / "compare", arguments))
    run, *_ = mlflow.search_runs(filter_string=f"tags.`{KIND}` = 'search'", output_format="list")
    analyze(AnalyzeConfig(run_id=run.info.run_id))
    kinds = {run.data.tags[KIND] for run in mlflow.search_runs(output_format="list")}
    assert kinds == {"comparison", "search", "analysis"}
    assert unnamed() == set()

"""The arena, by its command and in parts."""

import dataclasses
import itertools
import json

import mlflow
import numpy as np
import pytest
from pandas import testing as pd_testing

from fade_study import Dag, tracking
from fade_study.benchmarks import FOLDER, load_table
from fade_study.config import BilevelConfig
from fade_study.exceptions import DataError, InvalidInputError
from fade_study.statistics import arena, trend
from fade_study.studies import analyze, notes, outcomes
from fade_study.studies.command import CONFIGS
from fade_study.studies.compare import compare
from fade_study.studies.json_lines import read_lines
from fade_study.studies.options import parse_config
from fade_study.studies.outcomes import best_so_far, recipe_of
from fade_study.studies.schemas import AnalyzeConfig, ComparisonConfig, SamplerConfig
from fade_study.studies.searchers import CONTROLS, check_budget, names, run_search, simulated_correlation
from fade_study.studies.worlds import Tabulated, Trained
from fade_study.training import load_data
from tests.studies.test_search import artifacts, mlflow_run, runs

SMOKE = parse_config(ComparisonConfig, CONFIGS / "compare", ["--preset", "smoke"])
DIGITS = parse_config(ComparisonConfig, CONFIGS / "compare", ["--preset", "digits", "--mode", "tabular"])


@pytest.fixture(scope="module")
def world():
    return Tabulated(DIGITS, load_table("digits625"))


@pytest.mark.filterwarnings("ignore")
def test_mlflow_run_compares_records_and_analyzes(project, mlflow_store, monkeypatch, no_figures, capsys):
    result = mlflow_run(project, "-e", "compare", "-P", "preset=smoke", "-P", "searchers=[fade,tpe]")
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert "Anchors of fade, generation by generation" in output
    (parent,) = runs("comparison")
    for name in ("fade", "tpe", "random"):
        low, value, high = (
            parent.data.metrics[f"searcher/{name}/final_accuracy{end}"] for end in ("_low", "", "_high")
        )
        assert low <= value <= high
    assert "searcher/fade/p_vs_random" in parent.data.metrics
    assert {"report.txt", "standings.json", "finals.json"} <= artifacts(parent)
    searches = runs("search")
    assert len(searches) == 6
    assert {run.data.tags["mlflow.parentRunId"] for run in searches} == {parent.info.run_id}

    # Finished searches are not repeated, give the same results, and can be analyzed.
    monkeypatch.chdir(project)
    monkeypatch.setattr("fade_study.studies.compare.run_search", None)  # any search would fail
    file = project / "kept" / "arena.jsonl"
    config = dataclasses.replace(SMOKE, searchers=("fade", "tpe"), results=str(file))
    again = compare(config)
    assert len(runs("search")) == 6
    finals = {name: np.mean([outcome.final for outcome in found]) for name, found in again.items()}
    assert finals["fade"] == pytest.approx(parent.data.metrics["searcher/fade/final_accuracy"])
    with pytest.raises(InvalidInputError, match="of kind comparison; its report"):
        analyze.analyze(AnalyzeConfig(run_id=parent.info.run_id))
    one = next(run.info.run_id for run in searches if run.data.tags["fade.searcher"] == "fade")
    analyze.analyze(AnalyzeConfig(run_id=one))
    assert "An anchor's cell changed" in capsys.readouterr().out
    (analysis,) = runs("analysis")
    assert analysis.data.tags["fade.analyzed"] == one

    # They were kept in a file, from which an empty store gets them.
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["searcher"], line["seed"]) for line in lines] == [
        (name, seed) for seed in (0, 1) for name in ("fade", "tpe", "random")
    ]
    standings = mlflow.load_table("standings.json", run_ids=[parent.info.run_id])
    for run in (*runs("search"), *runs("comparison")):
        mlflow.delete_run(run.info.run_id)
    there = compare(config)
    assert "phase 1 of 2: 6 searches, 6 of them on record" in capsys.readouterr().out
    assert len(file.read_text().splitlines()) == 6
    (parent,) = runs("comparison")
    pd_testing.assert_frame_equal(mlflow.load_table("standings.json", run_ids=[parent.info.run_id]), standings)
    assert {run.data.tags["mlflow.parentRunId"] for run in runs("search")} == {parent.info.run_id}
    for name, searches in again.items():
        for one, other in zip(searches, there[name], strict=True):
            assert one.record.to_json() == other.record.to_json()
            assert (one.spent, one.best, one.final) == (other.spent, other.best, other.final)
    file.write_text(file.read_text().replace('"best"', '"worst"', 1))
    with pytest.raises(DataError, match=r"expected the outcome of a search in line 1 of .*arena.jsonl, got KeyError"):
        compare(config)


def test_a_search_on_record_keeps_the_commit_that_made_it(world, mlflow_store, tmp_path, monkeypatch):
    """Wherever it is copied from: from a shipped file to MLflow and to the user's file, and from MLflow to another."""
    outcome = run_search("random", 0, world, 1036)
    monkeypatch.setattr(tracking, "commit", lambda: "then")
    outcomes.write(outcome, "random", 0, "recipe", str(tmp_path / "shipped" / "arena-x.jsonl"))
    monkeypatch.setattr(tracking, "commit", lambda: "now")
    for folder in ("shipped", "nothing_shipped"):
        monkeypatch.setattr(outcomes, "FOLDER", tmp_path / folder)
        file = str(tmp_path / f"{folder}.jsonl")
        with tracking.start_study("comparison", DIGITS, "cpu"):
            (found,) = outcomes.find({"random": "recipe"}, [("random", 0)], file).values()
        assert found.final == outcome.final
        assert [line["commit"] for line in read_lines(file)] == ["then"]


def test_searches_of_two_generations_have_no_trend(world):
    records = [run_search("shuffled", seed, world, 1036).record for seed in (0, 1)]
    text = analyze.summary(records)
    assert "An anchor's cell changed" in text
    assert "No trend: expected" in text


def test_searches_are_a_function_of_their_seed(world):
    one, again, other = (run_search("fade", seed, world, 3626) for seed in (0, 0, 1))
    assert one.record.to_json() == again.record.to_json()
    assert one.record.to_json() != other.record.to_json()
    assert one.spent == tuple(range(518, 3627, 518))
    top = run_search("fade_top_five", 0, world, 3626)
    assert top.spent == (1110, 2220, 3330)  # of a supernet and five trainings each
    assert top.record.cells[0] == one.record.cells[0]
    paired = run_search("printed_sign", 0, world, 3626)
    np.testing.assert_array_equal(one.record.anchors[0], paired.record.anchors[0])


def test_a_searcher_that_trains_several_architectures_can_be_compared_alone(mlflow_store, monkeypatch, capsys):
    monkeypatch.setattr("fade_study.execution.progress.EVERY", 0.0)
    alone = {"searchers": ("fade_top_five",), "baseline": "fade_top_five", "seeds": 2, "executor": "inline"}
    compare(dataclasses.replace(DIGITS, **alone))
    assert "phase 1 of 2: searches, 2 of 2; about 0 s left in all" in capsys.readouterr().out
    (run,) = runs("comparison")
    assert "report.txt" in artifacts(run)
    assert "figures/best.png" not in artifacts(run)  # its record lacks four of five trainings


def test_an_oracle_of_trainings_may_know_a_sample():
    """The recipe of a sample has a prefix, since its seeds are the architectures' positions."""
    trained = parse_config(ComparisonConfig, CONFIGS / "compare", ["--preset", "digits"])
    data = load_data(trained.data)
    Trained(trained, data).check_oracle()
    other = dataclasses.replace(trained, scratch=dataclasses.replace(trained.scratch, epochs=1))
    with pytest.raises(InvalidInputError, match="expected one of the same data, network and trainings"):
        Trained(other, data).check_oracle()
    config = parse_config(ComparisonConfig, CONFIGS / "compare", ["--table", "fashion14-h2"])
    with pytest.raises(InvalidInputError, match=r"expected one with the same graphs .*, got fashion14-h2; take one"):
        Trained(config, load_data(config.data)).check_oracle()
    for setting, value, message in (
        ("--depth", "5", "depth: expected 4"),
        ("--space.max_vertices", "6", "space: .*other"),
    ):
        config = parse_config(ComparisonConfig, CONFIGS / "compare", [setting, value])
        with pytest.raises(InvalidInputError, match=message):
            Trained(config, load_data(config.data)).check_oracle()


def test_the_p_value_of_a_trend_depends_on_the_number_of_searches(world, mlflow_store, no_figures):
    """For one search it is Kendall's, for several that of the signs of whole searches."""
    records = [run_search("fade", seed, world, 3626).record for seed in (0, 1)]
    with tracking.start_study("analysis", AnalyzeConfig(run_id="x"), "cpu") as run:
        analyze.report(records[:1], run)
    metrics = mlflow.get_run(run.id).data.metrics
    assert metrics["trend/kendall_p"] == pytest.approx(trend.trend(*records[0].trend).mann_kendall_p)
    with tracking.start_study("analysis", AnalyzeConfig(run_id="x"), "cpu") as both:
        analyze.report(records, both)
    found = mlflow.get_run(both.id).data.metrics
    pooled = trend.pooled_trend([record.trend for record in records])
    assert found["trend/signs_p"] == pytest.approx(pooled.signs_p)
    assert "trend/signs_p" not in metrics
    assert "trend/kendall_p" not in found


def test_true_alphas_find_better_architectures_than_shuffled_ones(world):
    finals = {
        name: np.mean([run_search(name, seed, world, 3626).final for seed in range(40)])
        for name in ("oracle", "shuffled", "printed_sign")
    }
    assert finals["oracle"] > finals["shuffled"] + 0.01
    assert finals["oracle"] > finals["printed_sign"] + 0.03


def test_simulated_ranks_get_worse_with_noise():
    def correlation(noise):
        config = dataclasses.replace(DIGITS, alpha_noise=noise, seeds=20)
        return simulated_correlation(config, Tabulated(config, load_table("digits625")))

    exact, noisy, lost = map(correlation, (0, 0.5, 100))
    assert exact > 0.7  # alphas have the same scale in all rows, effects have not
    assert 0.4 < noisy < exact - 0.05
    assert abs(lost) < 0.15


def test_a_sample_is_extended_by_a_linear_model():
    world = Tabulated(dataclasses.replace(DIGITS, table="digits342"), load_table("digits342"))
    table = world.table
    fitted = np.array([world.mean + world.marginals[np.arange(4), path].sum() for path in table.paths])
    accuracy = table.ground_truth.test.mean(axis=1)
    np.testing.assert_allclose(fitted + world.residual, accuracy)
    assert 0.25 < 1 - world.residual.var() / accuracy.var() < 0.4
    chain, wide = world.column[Dag(5, ((0, 1), (1, 2), (2, 3), (3, 4))).key], world.column[Dag(5, ()).key]
    assert (world.marginals[:, chain] < world.marginals[:, wide]).all(), "long paths learn slowly"


def test_names_and_budgets(world):
    paper = BilevelConfig(estimator="straight-through", paths="alphas")
    assert "gp" not in names(ComparisonConfig(mode="tabular"))
    assert {"fade", "fade_best_ranked", "gp"} <= {*names(ComparisonConfig())}
    assert not {"straight_through", "fade_top_five"} & {*names(ComparisonConfig())}
    assert "straight_through" in names(ComparisonConfig(straight_through=paper))
    with pytest.raises(InvalidInputError, match=r"expected straight_through\.\* settings"):
        names(ComparisonConfig(searchers=("straight_through",)))
    assert names(ComparisonConfig(searchers=("tpe",))) == ["tpe", "random"]
    with pytest.raises(InvalidInputError, match=r"expected names among fade, .*, got nobody"):
        names(ComparisonConfig(searchers=("nobody",)))
    champion = SamplerConfig(name="champion")
    assert "printed_sign" not in names(ComparisonConfig(sampler=champion))
    with pytest.raises(InvalidInputError, match="champion, which has no sign"):
        names(ComparisonConfig(sampler=champion, searchers=("printed_sign",)))
    check_budget(["fade", "random"], world, 3626)
    for preset in ("smoke", "digits", "fashion14"):  # as a user runs them
        config = parse_config(ComparisonConfig, CONFIGS / "compare", ["--preset", preset])
        check_budget(names(config), Trained(config, load_data(config.data)), config.budget)
    with pytest.raises(InvalidInputError, match=r"got 620; a generation of fade has 518, and"):
        check_budget(["random", "fade"], world, 620)


def test_the_best_so_far_is_chosen_by_validation():
    np.testing.assert_array_equal(best_so_far(np.array([3, 1, 4, 4, 5]), np.array([0.3, 0.9, 0.2, 0.8, 0.1])),
                                  [0.3, 0.3, 0.2, 0.2, 0.1])  # fmt: skip


def test_recipes_know_what_matters():
    base = recipe_of("fade", DIGITS, None)
    assert base == recipe_of("fade", dataclasses.replace(DIGITS, seed=5, seeds=3), None)
    sampler = dataclasses.replace(DIGITS.sampler, offset=0.2)
    assert base != recipe_of("fade", dataclasses.replace(DIGITS, sampler=sampler), None)
    assert recipe_of("tpe", DIGITS, None) == recipe_of("tpe", dataclasses.replace(DIGITS, sampler=sampler), None)


def test_searches_of_another_precision_are_not_taken_for_ours(digits, monkeypatch):
    single = recipe_of("fade", DIGITS, digits)
    monkeypatch.setattr("fade_study.studies.outcomes.surroundings", lambda _: {"device": "cpu", "precision": "bf16"})
    assert recipe_of("fade", DIGITS, digits) != single


def test_a_control_is_not_called_the_best_searcher():
    finals = {"oracle": [0.9, 0.9, 0.9], "tpe": [0.8, 0.81, 0.8], "random": [0.7, 0.72, 0.7]}
    text = notes.comparison(arena.standings(finals, "random"), CONTROLS, ComparisonConfig(seeds=3), ())
    assert "Best of 2 searchers: tpe, final test accuracy 0.803" in text


def test_the_shipped_arena_is_found_by_the_default():
    config = parse_config(ComparisonConfig, CONFIGS / "compare", [])
    data = load_data(config.data)
    lines = list(read_lines(FOLDER / "arena-fashion14.jsonl"))
    assert {line["recipe"] for line in lines} == {
        recipe_of(name, config, data) for name in {line["searcher"] for line in lines}
    }
    seeds = range(config.seed, config.seed + config.seeds)
    assert {(line["searcher"], line["seed"]) for line in lines} >= set(itertools.product(names(config), seeds))

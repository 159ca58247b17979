"""The comparison of settings of supernets, on made-up losses and on those on record."""

import dataclasses
import itertools

import numpy as np
import pytest

from fade_study import HyperArchitecture, enumerate_dags
from fade_study.benchmarks import Table, Trainings
from fade_study.effects import PathLosses
from fade_study.studies.frontier import (
    BASE,
    CHOOSING,
    SETTINGS,
    UNIT,
    Supernets,
    cell_scores,
    collect,
    describe,
    mean_coefficients,
    read,
    recipes_of,
)
from fade_study.studies.tabulate import DATA
from fade_study.training import HyperResult, load_data

HYPER = HyperArchitecture((tuple(enumerate_dags(3))[:3],) * 2)
PATHS = np.array(list(itertools.product(range(3), repeat=2)))
TRUTH = np.array([[-0.1, 0.0, 0.1], [-0.5, 0.1, 0.4]])
"""Effects ``(2, 3)`` of the cells; no two paths have the same sum."""


def supernets(*values):
    """Trainings of two epochs that find these effects by all of their losses."""
    found = np.array(values)
    return Supernets(epochs=np.stack([found, found], axis=1), sweep=found, alpha=np.full(found.shape, 1 / 3))


@pytest.fixture
def table():
    accuracies = 0.5 - TRUTH[np.arange(2), PATHS].sum(axis=1, keepdims=True) / 2
    trainings = Trainings({}, (0,), accuracies, accuracies, 1.0)
    return Table(HYPER, PATHS, "recipe", {"recipe": trainings}, (10, 10), "commit", "cpu")


def test_what_is_stored_are_effects_of_each_epoch_and_of_the_sweep():
    sums = TRUTH[np.arange(2), PATHS].sum(axis=1)
    training = PathLosses(np.tile(PATHS, (2, 1)), np.concatenate([3 - sums, 2 + sums]), np.repeat([0, 1], 9))
    sweep = PathLosses(PATHS, 1 + 2 * sums, np.zeros(9, dtype=int))
    alpha = np.full((2, 3), 1 / 3)
    line = describe(
        HyperResult(
            alpha=alpha, alpha_history=alpha[None], accuracy=0.5, path_accuracies=np.ones(0), losses=training,
            sweep=sweep, effects=None, epochs=({}, {}), warning=None, seconds=1.0, path_seconds=0.0,
        )
    )  # fmt: skip
    np.testing.assert_allclose(np.array(line["epochs"]) * UNIT, [-TRUTH, TRUTH], atol=UNIT)
    np.testing.assert_allclose(np.array(line["sweep"]) * UNIT, 2 * TRUTH, atol=UNIT)


def test_losses_of_training_and_sweep_count_the_same_in_both():
    config = dataclasses.replace(BASE, epochs=2)
    epochs = np.array([[np.zeros((2, 3)), 2 * TRUTH]])  # mean TRUTH, second half 2 * TRUTH
    found = Supernets(epochs, 100 * TRUTH[None, ::-1], np.full((1, 2, 3), 1 / 3))
    scores = cell_scores(found, config, HYPER)
    np.testing.assert_allclose(scores["training"], -TRUTH, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(scores["second half"], -2 * TRUTH, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(scores["both"], -(TRUTH + TRUTH[::-1]) / TRUTH.std(), rtol=1e-6, atol=1e-8)
    drawn = cell_scores(found, dataclasses.replace(config, paths="alphas"), HYPER)
    assert drawn.keys() == {"sweep", "sweep, not pooled"}


def test_coefficients_are_means_over_all_choices_of_supernets(table):
    config = dataclasses.replace(BASE, epochs=2)
    found = supernets(TRUTH, TRUTH, -TRUTH)
    assert mean_coefficients(found, 1, config, table)["sweep"] == pytest.approx(1 / 3)
    noise = np.array([[0.5, -0.5, 0.0], [-0.5, 0.0, 0.5]])
    found = supernets(TRUTH + noise, TRUTH - noise)
    alone, together = (mean_coefficients(found, count, config, table)["training"] for count in (1, 2))
    assert alone < 0.9 < together


def test_averages_of_alphas_and_of_effects_that_are_not_pooled():
    config = dataclasses.replace(BASE, epochs=2, estimator="straight-through")
    found = supernets(TRUTH, 3 * TRUTH)
    found.alpha[:, 0] = [[0.1, 0.2, 0.7], [0.3, 0.4, 0.3]]
    scores = cell_scores(found, config, HYPER)
    np.testing.assert_allclose(np.exp(scores["alphas"]), [[0.2, 0.3, 0.5], [1 / 3, 1 / 3, 1 / 3]])
    np.testing.assert_allclose(scores["sweep, not pooled"], -2 * TRUTH, rtol=1e-6, atol=1e-8)


def test_all_supernets_are_on_record():
    found = collect()
    for (name, setting), table in itertools.product(SETTINGS.items(), CHOOSING):
        assert found[table, name].epochs.shape[:2] == (setting.seeds, setting.config.epochs)


def test_trainings_of_other_settings_do_not_count(monkeypatch):
    data = load_data(DATA)
    everything = list(read(recipes_of(data, "cpu")))
    assert len(everything) == len(CHOOSING) * sum(setting.seeds for setting in SETTINGS.values())
    config = dataclasses.replace(SETTINGS["8 epochs"].config, epochs=9)
    monkeypatch.setitem(SETTINGS, "8 epochs", SETTINGS["8 epochs"]._replace(config=config))
    assert {line["setting"] for line in read(recipes_of(data, "cpu"))} == {*SETTINGS} - {"8 epochs"}

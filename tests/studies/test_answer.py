"""How good a search's answer is said to be."""

import dataclasses

import numpy as np
import pytest

from fade_study import HyperArchitecture, enumerate_dags
from fade_study.benchmarks import Table, Trainings
from fade_study.config import BilevelConfig, NetworkConfig
from fade_study.studies.answer import against_random_search, difference, random_searches, regime
from fade_study.studies.command import CONFIGS
from fade_study.studies.options import parse_config
from fade_study.studies.schemas import SearchConfig
from fade_study.studies.search_log import tell_regime
from fade_study.training import DataConfig, load_data


def table(rng, noise):
    """200 architectures whose accuracies spread by 0.01, each trained twice with noise."""
    cells = tuple(enumerate_dags(4))[:20]
    paths = rng.integers(20, size=(200, 2))
    quality = 0.8 + 0.01 * rng.normal(size=(200, 1))
    test, validation = (quality + noise * rng.normal(size=(200, 2)) for _ in range(2))
    trainings = Trainings(settings={}, seeds=(0, 1), test=test, validation=validation, seconds=1.0)
    return Table(HyperArchitecture((cells, cells)), paths, "r", {"r": trainings}, (100, 100), "x", "cpu"), quality[:, 0]


def test_random_searches_are_better_the_more_they_train(rng):
    found, quality = table(rng, 0.001)
    means = [random_searches(found, trainings).mean() for trainings in (1, 10, 100)]
    assert means[0] == pytest.approx(quality.mean(), abs=1e-3)
    expected = [np.mean([rng.choice(quality, n).max() for _ in range(2000)]) for n in (10, 100)]
    np.testing.assert_allclose(means[1:], expected, atol=1e-3)


def test_a_random_search_is_not_judged_by_what_it_chose_by(rng):
    """If accuracies are nothing but noise, the best of many is no better than any other."""
    found, _ = table(rng, 0.0)
    noise = 0.8 + 0.01 * rng.normal(size=(2, 200, 2))
    trainings = dataclasses.replace(found.ground_truth, test=noise[0], validation=noise[1])
    nothing = dataclasses.replace(found, trainings={"r": trainings})
    assert random_searches(nothing, 50).mean() == pytest.approx(
        noise[0].mean(), abs=0.01
    )  # the accuracies it chose by are 0.022 higher


def test_a_good_answer_is_better_than_random_searches(rng):
    found, quality = table(rng, 0.002)
    lead = against_random_search(quality.max() + 0.001 * rng.normal(size=4), found, 5)
    assert lead.low > 0
    lead = against_random_search(quality.mean() + 0.001 * rng.normal(size=4), found, 5)
    assert lead.high < 0


def test_a_difference_has_welchs_interval():
    found = difference(np.array([0.83, 0.84, 0.85]), np.array([0.80, 0.81, 0.82]))
    assert found.value == pytest.approx(0.03)
    assert found.low == pytest.approx(0.03 - 2.776 * np.sqrt(2e-4 / 3), abs=1e-5)
    assert difference(np.array([0.8]), np.array([0.7, 0.8])) is None


def test_what_is_known_of_a_regime_is_found_by_data_network_and_estimator():
    digits = parse_config(SearchConfig, CONFIGS / "search", ["--preset", "digits"])
    data = load_data(digits.data)
    assert regime(data, digits).spearman[0] < 0.3
    marginal = dataclasses.replace(digits, bilevel=BilevelConfig())
    assert regime(data, marginal).spearman[0] != regime(data, digits).spearman[0]
    assert regime(data, dataclasses.replace(digits, network=NetworkConfig(final_channels=32))) is None
    assert regime(load_data(DataConfig(split_seed=1)), digits) is None


@pytest.mark.parametrize(
    ("overrides", "said", "not_said"),
    [
        ([], "Ranks like these have had a rank correlation 0.46 [0.02, 0.90]", "other settings"),
        (["--repetitions", "8"], "number of operations, which costs nothing, has 0.54", "other settings"),
        (["--repetitions", "2"], "The nearest ones have had a rank correlation 0.46", "Ranks like these"),
        (["--bilevel.share_weights", "true"], "bilevel.share_weights = True instead of False", "Ranks like these"),
        (["--network.final_channels", "32"], "was not measured; a validation with them would tell", "0.46"),
    ],
)
def test_a_search_says_what_is_known_of_its_ranks(overrides, said, not_said, capsys):
    config = parse_config(SearchConfig, CONFIGS / "search", overrides)
    tell_regime(load_data(config.data), config)
    output = capsys.readouterr().out
    assert said in output
    assert not_said not in output


def test_a_search_warns_where_ranks_say_little():
    config = parse_config(SearchConfig, CONFIGS / "search", ["--bilevel.estimator", "straight-through"])
    with pytest.warns(UserWarning, match=r"ranks like these say little: rank correlation 0.32 .* other settings"):
        tell_regime(load_data(config.data), config)


@pytest.mark.parametrize("override", ["--bilevel.threads=2", "--bilevel.alpha_learning_rate=0.5"])
def test_settings_that_do_not_matter_make_no_other_regime(override):
    config = parse_config(SearchConfig, CONFIGS / "search", [override])
    assert regime(load_data(config.data), config).different == []


def test_a_larger_space_is_another_regime():
    config = parse_config(SearchConfig, CONFIGS / "search", ["--space.max_vertices=6"])
    assert regime(load_data(config.data), config).different == ["space.max_vertices = 6 instead of 5"]

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from fade_study import InvalidInputError
from fade_study.statistics.arena import anytime, holm, standings, summary_table, wilcoxon_p
from fade_study.statistics.resampling import interval


def enumerated_p(differences):
    """Two-sided p-value of the signed-rank test, from all sign patterns."""
    values = np.array([d for d in differences if d])
    ranks = stats.rankdata(np.abs(values))
    center = ranks.sum() / 2
    seen = abs(ranks[values > 0].sum() - center)
    sums = [ranks[np.array(signs, dtype=bool)].sum() for signs in itertools.product([0, 1], repeat=len(values))]
    return np.mean(np.abs(np.array(sums) - center) >= seen - 1e-9)


@pytest.mark.parametrize("n", [2, 3, 6, 9])
@pytest.mark.parametrize("levels", [2, 4, 1000])
def test_wilcoxon_is_that_of_all_sign_patterns(rng, n, levels):
    for _ in range(10):
        differences = rng.integers(-levels, levels + 1, n)
        assert wilcoxon_p(differences) == pytest.approx(enumerated_p(differences))


def test_wilcoxon_by_hand_and_as_in_scipy(rng):
    assert wilcoxon_p([0.1, 0.2, 0.3, 0.4, 0.5]) == pytest.approx(2 / 2**5)
    assert wilcoxon_p([1, -2, 3]) == pytest.approx(6 / 8), "2 of 6 or less: sums 0, 1, 2, and as many above"
    assert wilcoxon_p([0, 0, 0]) == 1
    for n in (10, 30):
        differences = rng.normal(0.4, size=n)
        assert wilcoxon_p(differences) == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue)


def test_holm_by_hand():
    # In order, 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 are 0.02, 0.03, 0.06, and 0.04, which is raised to 0.06.
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.5]), [1, 1])
    assert holm([]).size == 0


def test_holm_keeps_the_error_of_the_family(rng):
    """At least one of 12 true hypotheses is rejected at 0.05 in 1 - (1 - 0.05 / 12)^12 of cases."""
    rejected = np.mean([holm(p).min() <= 0.05 for p in rng.random((4000, 12))])
    expected = 1 - (1 - 0.05 / 12) ** 12
    assert abs(rejected - expected) < 4 * np.sqrt(expected * (1 - expected) / 4000)


@pytest.mark.parametrize("seeds", [3, 10, 40])
def test_intervals_hold_the_mean_as_often_as_they_say(rng, seeds):
    low, high = interval(rng.normal(0.9, 0.02, size=(seeds, 4000)))
    assert np.mean((low <= 0.9) & (high >= 0.9)) == pytest.approx(0.95, abs=0.015)


def test_interval_of_normal_means_is_about_that_of_theory(rng):
    values = rng.normal(size=400)
    error = stats.norm.ppf(0.975) * values.std() / 20
    np.testing.assert_allclose(interval(values), [values.mean() - error, values.mean() + error], atol=0.1 * error)


def test_interval_of_columns_is_that_of_each(rng):
    values = rng.normal(size=(8, 4))
    values[:, 1] = 0.7
    values[3, 2] = np.nan
    low, high = interval(values)
    assert low[1] == high[1] == pytest.approx(0.7)
    assert np.isnan([low[2], high[2]]).all()
    for column in (0, 3):
        np.testing.assert_allclose([low[column], high[column]], interval(values[:, column]))


def test_standings_by_hand():
    rows = standings({"random": [0.5, 0.6, 0.7], "b": [0.5, 0.7, 0.8], "c": [0.4, 0.6, 0.6]})
    assert [row.searcher for row in rows] == ["b", "random", "c"]
    best, base, worst = rows
    assert [row.final for row in rows] == pytest.approx([2 / 3, 0.6, 1.6 / 3])
    assert [row.difference for row in rows] == pytest.approx([0.2 / 3, 0, -0.2 / 3])
    assert best.win_rate == pytest.approx(2.5 / 3), "a tie counts half"
    assert worst.win_rate == pytest.approx(0.5 / 3)
    assert (best.p, worst.p) == pytest.approx((0.5, 0.5)), "two tied differences of one sign"
    assert (best.p_holm, worst.p_holm) == pytest.approx((1, 1))
    assert (base.difference_low, base.difference_high) == (0, 0)
    assert base.win_rate is base.p is base.p_holm is None
    assert {row.seeds for row in rows} == {3}


def test_differences_that_differ_by_rounding_alone_tie():
    base = np.array([0.2, 0.1, 0.9, 0.1])
    other = np.array([0.3, 0.2, 0.8, 0.1 + 2e-17])
    assert len(set(np.abs(other - base)[:3])) > 1, "in floating point, they differ"
    row = next(r for r in standings({"random": base, "x": other}) if r.searcher == "x")
    assert row.win_rate == pytest.approx(2.5 / 4)
    assert row.p == pytest.approx(enumerated_p([1, 1, -1]))


def test_equal_searchers_differ_in_nothing():
    rows = standings({"random": [0.9, 0.9], "same": [0.9, 0.9]})
    same = next(row for row in rows if row.searcher == "same")
    assert (same.difference, same.difference_low, same.difference_high) == (0, 0, 0)
    assert (same.low, same.high) == pytest.approx((0.9, 0.9))
    assert (same.win_rate, same.p, same.p_holm) == (0.5, 1, 1)


def test_pairs_show_what_means_hide(rng):
    """Both values of a pair share the luck of the seed, which widens intervals of finals, not of differences."""
    luck = 0.05 * rng.normal(size=12)
    rows = standings({"random": luck, "x": luck + 0.01 + 0.002 * rng.normal(size=12)})
    row = rows[0]
    assert row.searcher == "x"
    assert 0 < row.difference_low < 0.01 < row.difference_high < 0.013
    assert row.p == pytest.approx(2 / 2**12)
    assert row.high - row.low > 10 * (row.difference_high - row.difference_low)


def test_standings_do_not_depend_on_the_order(finals):
    assert standings(dict(reversed(finals.items()))) == standings(finals)


def test_holm_corrects_for_all_but_the_baseline(finals):
    rows = [row for row in standings(finals) if row.p is not None]
    assert len(rows) == 12
    np.testing.assert_allclose([row.p_holm for row in rows], holm([row.p for row in rows]))
    assert min(row.p_holm for row in rows) == pytest.approx(12 * 2 / 2**10), "the smallest possible for 10 seeds"


@pytest.mark.parametrize(
    ("finals", "message"),
    [
        ({"tpe": [0.1, 0.2]}, "'random'; name one"),
        ({"random": [0.1, 0.2], "tpe": [0.1]}, "same 2 seeds"),
        ({"random": [0.1], "tpe": [0.1]}, "same 2 seeds"),
        ({"random": [[0.1, 0.2]], "tpe": [[0.1, 0.2]]}, "same 2 seeds"),
        ({"random": [0.1, 0.2], "tpe": [0.1, np.nan]}, "got nan of tpe at 1; leave"),
        ({"random": [np.inf, 0.2], "tpe": [0.1, 0.2]}, "got inf of random at 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(finals, message):
    with pytest.raises(InvalidInputError, match=message):
        standings(finals)


def test_anytime_by_hand():
    runs = [([10, 20, 20, 40], [0.1, 0.2, 0.3, 0.25]), ([25], [0.5])]
    values = anytime(runs, [0, 10, 15, 20, 39.9, 40, 100])
    nan = np.nan
    np.testing.assert_array_equal(values[0], [nan, 0.1, 0.1, 0.3, 0.3, 0.25, 0.25])
    np.testing.assert_array_equal(values[1], [nan, nan, nan, nan, 0.5, 0.5, 0.5])
    np.testing.assert_allclose(values.mean(axis=0), [nan, nan, nan, nan, 0.4, 0.375, 0.375])


def test_anytime_equals_a_search_from_the_end(rng):
    spent, value = np.sort(rng.integers(0, 50, 30)), rng.random(30)
    grid = np.linspace(-3, 60, 127)
    past = list(zip(spent, value, strict=True))[::-1]
    expected = [next((v for s, v in past if s <= budget), np.nan) for budget in grid]
    np.testing.assert_array_equal(anytime([(spent, value)], grid)[0], expected)
    assert np.isnan(anytime([([], [])], grid)).all(), "a run without values never begins"


@pytest.mark.parametrize("run", [([1, 2], [0.1]), ([2, 1], [0.1, 0.2]), ([1, np.nan], [0.1, 0.2]), ([1], [np.nan])])
def test_anytime_refuses_what_is_no_run(run):
    with pytest.raises(InvalidInputError, match="of run 1"):
        anytime([([1], [0.5]), run], [1, 2])


def test_table_is_aligned_and_says_what_standings_say(finals):
    rows = standings(finals)
    lines = summary_table(rows).splitlines()
    assert len(lines) == 14
    assert len({len(line) for line in lines if not line.startswith("random")}) == 1
    for line, row in zip(lines[1:], rows, strict=True):
        assert line.startswith(row.searcher)
        assert f"{row.final:.4f}  [{row.low:.4f}, {row.high:.4f}]" in line
        compared = f"{row.difference:+.4f}  [{row.difference_low:+.4f}, {row.difference_high:+.4f}]"
        assert (compared in line) == (row.searcher != "random")
        if row.p is not None:
            assert line.split()[-3:] == [f"{row.win_rate:.2f}", f"{row.p:.3f}", f"{row.p_holm:.3f}"]
    tiny = summary_table([replace(rows[0], p=1e-5, p_holm=0.00051)])
    assert tiny.split()[-2:] == ["<0.001", "0.001"]

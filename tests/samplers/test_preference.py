import numpy as np
import pytest

from fade_study import DagSpace, create_study
from fade_study.samplers import RowGeneration, RowHistory
from fade_study.samplers import _preference as preference
from fade_study.samplers._preference import PreferenceSampler
from fade_study.testing import check_row_sampler

SPACE = DagSpace(4)
POINTS = {cell.key: SPACE.embed(cell) for cell in SPACE}
SETTINGS = preference._Settings(np.array([0.5, 0.8, 1.1]), signal=1.3, noise=0.2)
OTHERS = preference._Settings(np.array([0.9, 0.4, 0.7]), signal=0.6, noise=0.5)


def embed(keys):
    return np.array([POINTS[key] for key in keys])


def bound(**settings):
    sampler = PreferenceSampler(**settings)
    sampler.bind(SPACE)
    return sampler


def generation(keys, log_alpha):
    return RowGeneration(embed(keys), tuple(keys), np.exp(log_alpha) / np.exp(log_alpha).sum(), None)


def past(generations):
    return RowHistory(0, SPACE.features, tuple(generations))


def random_generations(count=4, width=4, seed=0):
    """Cells drawn with replacement: some share a column's cell or its point with others."""
    rng = np.random.default_rng(seed)
    return [generation(rng.choice(list(POINTS), width), rng.normal(size=width)) for _ in range(count)]


def distinct_points():
    return np.unique(embed(POINTS).round(12), axis=0)


def wide_offsets(settings, generations, variance):
    """Log likelihood and posterior mean where each generation's offset has a normal prior, by the textbook."""
    seen = np.concatenate([embed(g.cells) for g in generations])
    logs = np.concatenate([np.log(g.alpha) for g in generations])
    contrasts = [log - log.mean() for log in (np.log(g.alpha) for g in generations)]
    n = sum(len(g.alpha) - 1 for g in generations)
    logs = logs / np.sqrt(sum((c**2).sum() for c in contrasts) / n)
    groups = np.repeat(np.arange(len(generations)), [len(g.alpha) for g in generations])
    covariance = preference._kernel(settings, seen, seen) + settings.noise * np.eye(len(seen))
    covariance = covariance + variance * (groups[:, None] == groups)
    solved = np.linalg.solve(covariance, logs)
    likelihood = -0.5 * (logs @ solved + np.linalg.slogdet(covariance)[1])
    return likelihood, preference._kernel(settings, distinct_points(), seen) @ solved


def test_contrasts_are_the_limit_of_a_wide_prior_on_the_offsets():
    generations = random_generations()
    data = preference._contrasts(generations, embed)
    one, mean = wide_offsets(SETTINGS, generations, 1e6)
    other, _ = wide_offsets(OTHERS, generations, 1e6)
    # The contrasts' density lacks a constant that doesn't depend on the settings.
    difference = preference._loss(OTHERS, data)[0] - preference._loss(SETTINGS, data)[0]
    assert abs(difference) > 0.1
    np.testing.assert_allclose(difference, one - other, rtol=1e-4)
    posterior = preference._Posterior(SETTINGS, data, distinct_points())
    np.testing.assert_allclose(posterior.mean, mean, atol=1e-4)
    narrow = wide_offsets(SETTINGS, generations, 0.0)[1]
    assert np.abs(posterior.mean - narrow).max() > 0.05  # the offsets do matter


def test_gradient_of_the_likelihood():
    data = preference._contrasts(random_generations(), embed)
    logs = np.log([*SETTINGS.lengths, SETTINGS.signal, SETTINGS.noise])
    steps = 1e-5 * np.eye(len(logs))
    numeric = [
        (
            preference._loss(preference._settings(logs + step), data)[0]
            - preference._loss(preference._settings(logs - step), data)[0]
        )
        / 2e-5
        for step in steps
    ]
    np.testing.assert_allclose(preference._loss(SETTINGS, data)[1], numeric, rtol=1e-5, atol=1e-7)


def test_fitted_settings_are_more_probable_than_their_start_and_tell_signal_from_noise():
    rng = np.random.default_rng(0)
    keys = [rng.choice(list(POINTS), 7, replace=False) for _ in range(15)]
    noisy = [generation(k, rng.normal(size=7)) for k in keys]
    clean = [generation(k, 3 * embed(k).sum(axis=1)) for k in keys]
    ratios = []
    for generations in (noisy, clean):
        data = preference._contrasts(generations, embed)
        fitted = preference._fit(data)
        ratios.append(fitted.signal / fitted.noise)
        start = preference._Settings(np.full(3, 0.5 * np.sqrt(3)), 1.0, 0.1)
        assert preference._loss(fitted, data)[0] < preference._loss(start, data)[0]
    assert ratios[0] < 2
    assert ratios[1] > 30


def test_offsets_of_generations_change_nothing():
    generations = random_generations(seed=1)
    shifted = [RowGeneration(g.points, g.cells, g.alpha * np.exp(-3.0 * t), None) for t, g in enumerate(generations)]
    plain, moved = (preference._contrasts(g, embed) for g in (generations, shifted))
    np.testing.assert_allclose(plain.values, moved.values, atol=1e-12)
    one, other = (bound().propose(past(g), np.random.default_rng(0)) for g in (generations, shifted))
    np.testing.assert_array_equal(one, other)


def test_without_noise_differences_within_a_generation_are_reproduced():
    points = distinct_points()
    keys = [next(key for key in POINTS if np.allclose(POINTS[key], point)) for point in points]
    rng = np.random.default_rng(0)
    # Different offsets, no cell in both: nothing but the model links the generations.
    columns = [slice(0, 6), slice(6, 12)]
    utility = rng.normal(size=len(points))
    generations = [generation(keys[c], 0.5 * utility[c] + offset) for c, offset in zip(columns, (0, 9), strict=True)]
    data = preference._contrasts(generations, embed)
    noiseless = preference._Settings(SETTINGS.lengths, 1.0, 1e-10)
    mean = preference._Posterior(noiseless, data, points).mean
    true = [np.concatenate([values[c] - values[c].mean() for c in columns]) for values in (mean, utility)]
    scale = np.sqrt((true[1] ** 2).sum() / 10)  # two generations of 5 contrasts
    np.testing.assert_allclose(true[0], true[1] / scale, atol=1e-6)


def test_variance_of_a_neighborhood_is_that_of_a_competition_that_was_seen():
    points = distinct_points()
    generations = random_generations()
    chosen = [3, 11, 7]
    keys = [next(key for key in POINTS if np.allclose(POINTS[key], points[i])) for i in chosen]
    before = preference._Posterior(SETTINGS, preference._contrasts(generations, embed), points)
    more = preference._contrasts([*generations, generation(keys, np.zeros(3))], embed)
    after = preference._Posterior(SETTINGS, more, points)
    np.testing.assert_allclose(before.variance_to_anchor(chosen), after.variance_to_anchor(chosen[:1]), atol=1e-9)
    assert (after.variance_to_anchor([3])[[11, 7]] < 0.8 * before.variance_to_anchor([3])[[11, 7]]).all()
    column = before.covariance(3)
    expected = [before.covariance(i)[i] - 2 * column[i] + column[3] for i in range(len(points))]
    np.testing.assert_allclose(before.variance_to_anchor([3]), expected, atol=1e-9)


def test_proposals_are_different_points_of_the_space_the_anchor_first():
    generations = random_generations(6, 7)
    known = {tuple(point) for point in distinct_points()}
    anchors = set()
    for kappa in (0.0, 1.0, 5.0):
        proposed = bound(kappa=kappa).propose(past(generations), np.random.default_rng(0))
        rows = {tuple(point) for point in proposed}
        assert len(rows) == len(proposed) == 7
        assert rows <= known
        anchors.add(tuple(proposed[0]))
    data = preference._contrasts(generations, embed)
    mean = preference._Posterior(preference._fit(data), data, distinct_points()).mean
    assert anchors == {tuple(distinct_points()[mean.argmax()])}


def test_kappa_explores():
    rng = np.random.default_rng(0)
    near = sorted(POINTS, key=lambda key: POINTS[key].sum())[:12]
    keys = [rng.choice(near, 7, replace=False) for _ in range(6)]
    history = past([generation(k, -embed(k).sum(axis=1)) for k in keys])
    timid, bold = (bound(kappa=k).propose(history, np.random.default_rng(0)) for k in (0.0, 5.0))
    np.testing.assert_array_equal(timid[0], bold[0])
    seen = embed(np.unique(keys))
    to_seen = [np.linalg.norm(points[:, None] - seen, axis=-1).min(axis=1).sum() for points in (timid, bold)]
    assert to_seen[1] > 2 * to_seen[0] + 0.5


def test_the_first_neighborhood_is_random_points():
    first, again, other = (bound().propose(past([]), np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(np.unique(first, axis=0)) == 7
    assert {tuple(point) for point in first} <= {tuple(point) for point in distinct_points()}


def test_points_are_repeated_where_the_space_has_too_few():
    study = create_study(space=DagSpace(2), depth=1, sampler=PreferenceSampler(width=7, seed=0))
    for _ in range(3):
        batch = study.ask()
        assert batch.points.shape == (1, 7, 3)
        assert len(np.unique(batch.points[0], axis=0)) == 3  # all cells
        study.tell(batch, np.full((1, 7), 1 / 7))


def test_public_checks():
    check_row_sampler(lambda seed: PreferenceSampler(seed=seed))


def test_proposals_depend_on_history_and_rng_alone():
    history = past(random_generations(5, 7))
    used = bound()
    used.propose(past(random_generations(3, 7, seed=9)), np.random.default_rng(5))
    np.random.seed(3)  # noqa: NPY002
    one = used.propose(history, np.random.default_rng(0))
    np.random.seed(4)  # noqa: NPY002
    np.testing.assert_array_equal(one, bound().propose(history, np.random.default_rng(0)))


def test_collapsed_alphas():
    rng = np.random.default_rng(0)
    best = max(POINTS, key=lambda key: POINTS[key].sum())
    keys = [[best, *rng.choice([k for k in POINTS if k != best], 6, replace=False)] for _ in range(6)]
    one_hot = np.array([1.0, 0, 0, 0, 0, 0, 0])
    history = past([RowGeneration(embed(k), tuple(k), one_hot, None) for k in keys])
    proposed = bound().propose(history, np.random.default_rng(0))
    np.testing.assert_allclose(proposed[0], POINTS[best], atol=1e-9)


def test_even_alphas_say_nothing():
    generations = [generation(list(POINTS)[i : i + 7], np.full(7, 0.1)) for i in range(6)]
    assert np.abs(preference._contrasts(generations, embed).values).max() < 1e-12  # rounding is no signal
    with np.errstate(invalid="raise", divide="raise"):
        proposed = bound().propose(past(generations), np.random.default_rng(0))
    assert len(np.unique(proposed, axis=0)) == 7


def test_what_lies_below_the_floor_makes_no_difference():
    keys = list(POINTS)[:7]
    alpha = np.array([0.4, 0.3, 0.2, 0.1, 0, 0, 0])
    small = np.array([0.4, 0.3, 0.2, 0.1, 1e-3, 1e-4, 1e-9])
    one, other = (
        preference._contrasts([RowGeneration(embed(keys), tuple(keys), a, None)], embed).values for a in (alpha, small)
    )
    np.testing.assert_allclose(one, other)


def test_only_the_newest_generations_are_remembered(monkeypatch):
    monkeypatch.setattr(preference, "MEMORY", 2)
    newest, older = random_generations(2, 7, seed=1), random_generations(3, 7, seed=2)
    one, other = (bound().propose(past(g), np.random.default_rng(0)) for g in (newest, older + newest))
    np.testing.assert_array_equal(one, other)


def climb(seed, generations=10, noise=0.3):
    """Shares of the cells no better than the first and the last anchors, ``(d,)`` each; a smooth landscape of sd 1."""
    rng = np.random.default_rng(seed)
    space = DagSpace(5)
    points = np.array([space.embed(cell) for cell in space])
    values = np.sin(np.pi * (points + rng.random(3))) @ rng.normal(size=3)
    values = (values - values.mean()) / values.std()
    utility = dict(zip((cell.key for cell in space), values, strict=True))
    study = create_study(space=space, depth=2, sampler=PreferenceSampler(seed=seed))
    shares = []
    for _ in range(generations):
        batch = study.ask()
        true = np.array([[utility[trial.cell.key] for trial in row] for row in batch.trials])
        alpha = np.exp(true + noise * rng.normal(size=true.shape))
        study.tell(batch, alpha / alpha.sum(axis=1, keepdims=True))
        shares.append((values[:, None] <= true[:, 0]).mean(axis=0))
    return shares[0], shares[-1]


def test_it_finds_the_best_cells():
    first, last = np.array([climb(seed) for seed in range(4)]).swapaxes(0, 1)  # (4, d) each
    assert last.mean() > 0.93
    assert last.min() > 0.8
    assert last.mean() > first.mean() + 0.2  # the first anchors are random


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 1}, "expected a width of 2 or more, got 1; "),
        ({"width": 2.5}, "expected a width of 2 or more, got 2.5; "),
        ({"kappa": -1}, "expected a kappa of 0 or more, got -1; "),
        ({"kappa": np.nan}, "expected a kappa of 0 or more, got nan; "),
        ({"kappa": np.inf}, "expected a kappa of 0 or more, got inf; "),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PreferenceSampler(**settings)


def test_settings_are_stored_with_the_study():
    study = create_study(space=SPACE, depth=1, sampler=PreferenceSampler(width=5, kappa=2.0, seed=3))
    assert study.optuna_study.user_attrs["fade:study"]["sampler"] == {
        "type": "PreferenceSampler",
        "seed": 3,
        "width": 5,
        "kappa": 2.0,
    }
    assert study.ask().points.shape == (1, 5, 3)


def test_it_needs_a_study():
    with pytest.raises(ValueError, match="expected a study that uses this PreferenceSampler"):
        PreferenceSampler().propose(past([]), np.random.default_rng(0))

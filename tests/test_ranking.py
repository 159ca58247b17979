import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fade_study.ranking import borda, check_alpha, fade_rank, marginals, top_k


@st.composite
def alphas(draw):
    depth, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    logits = draw(st.lists(st.integers(-3, 3), min_size=depth * width, max_size=depth * width))  # integers lead to ties
    weights = np.exp(np.array(logits, dtype=float)).reshape(depth, width)
    return weights / weights.sum(axis=1, keepdims=True)


@given(alphas(), st.integers(1, 300))
def test_top_k_is_brute_force(alpha, k):
    paths = np.array(list(itertools.product(range(alpha.shape[1]), repeat=alpha.shape[0])))
    scores = fade_rank(alpha, paths)
    best, best_scores = top_k(alpha, k)
    expected = np.sort(scores)[::-1][:k]
    np.testing.assert_allclose(best_scores, expected, rtol=1e-12)
    np.testing.assert_allclose(fade_rank(alpha, best), best_scores, rtol=1e-12)
    assert len(np.unique(best, axis=0)) == len(best) == min(k, len(paths))


def test_top_k_of_a_deep_chain_lists_nothing_else():
    rng = np.random.default_rng(0)
    alpha = rng.dirichlet(np.ones(9), size=60)  # 9^60 paths
    paths, scores = top_k(alpha, 3)
    np.testing.assert_array_equal(paths[0], alpha.argmax(axis=1))
    assert (np.diff(scores) <= 0).all()


def test_fade_rank_is_the_product_along_a_path():
    alpha = np.array([[0.7, 0.3], [0.1, 0.9]])
    assert fade_rank(alpha, [0, 1]) == pytest.approx(0.63)
    np.testing.assert_allclose(fade_rank(alpha, [[0, 0], [1, 1]]), [0.07, 0.27])


def test_fade_ranks_of_all_paths_are_a_distribution():
    alpha = np.random.default_rng(0).dirichlet(np.ones(3), size=4)
    paths = list(itertools.product(range(3), repeat=4))
    assert fade_rank(alpha, paths).sum() == pytest.approx(1)


def test_repetitions_are_averaged_before_the_product():
    alpha = np.array([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
    np.testing.assert_allclose(marginals(alpha), 0.5)
    assert fade_rank(alpha, [0, 1]) == pytest.approx(0.25)
    np.testing.assert_allclose(top_k(alpha, 4)[1], 0.25)


@pytest.mark.parametrize(
    ("alpha", "message"),
    [
        ([0.5, 0.5], "shape"),
        (np.full((1, 2, 2, 2), 0.5), "shape"),
        (np.zeros((0, 3)), "shape"),
        ([[0.5, np.nan]], r"nan at \[0, 1\]"),
        ([[0.5, np.inf]], "finite"),
        ([[1.5, -0.5]], "0 or more"),
        ([[0.5, 0.6]], "sums to 1.1"),
        ([[0.5, 0.5], [0.5, 0.4998]], "sum to 1"),
    ],
)
def test_what_are_no_alphas_is_refused(alpha, message):
    with pytest.raises(ValueError, match=message):
        check_alpha(alpha)


def test_shape_is_compared_with_the_one_expected():
    with pytest.raises(ValueError, match=r"expected alpha of shape \(2, 3\), got \(3, 2\)"):
        check_alpha(np.full((3, 2), 0.5), (2, 3))
    check_alpha([[0.5, 0.50009]])  # within the tolerance


@pytest.mark.parametrize("path", [[0], [0, 2], [-1, 0], [0.0, 1.0]])
def test_paths_that_do_not_exist_are_refused(path):
    with pytest.raises(ValueError, match="expected"):
        fade_rank([[0.5, 0.5], [0.5, 0.5]], path)


def test_k_is_1_or_more():
    with pytest.raises(ValueError, match="k of 1 or more"):
        top_k([[0.5, 0.5]], 0)


def test_borda_is_the_mean_rank_of_each_column():
    alpha = [[[0.7, 0.2, 0.1]], [[0.2, 0.5, 0.3]], [[0.4, 0.4, 0.2]]]
    np.testing.assert_allclose(borda(alpha), [[(3 + 1 + 2.5) / 3, (2 + 3 + 2.5) / 3, 4 / 3]])
    np.testing.assert_array_equal(borda(alpha[0]), [[3, 2, 1]])

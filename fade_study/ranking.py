"""From alphas to ranks of architectures (section 2.3).

A way to rank is a function from alphas, ``(d, w)`` or those of R repetitions, ``(R, d, w)``, and paths, ``(n, d)``, to
scores, ``(n,)``, higher is better. :func:`fade_rank` is the paper's. Repetitions of the paper's alphas are averaged;
those of marginal alphas are averaged before they become alphas, see :mod:`fade_study.effects`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fade_study.arrays import resolution, to_array
from fade_study.exceptions import InvalidInputError

__all__ = ["borda", "check_alpha", "fade_rank", "marginals", "top_k"]

TOLERANCE = 1e-4
"""How far the alphas of a row may sum from 1."""


def check_alpha(alpha: ArrayLike, shape: tuple[int, int] | None = None) -> NDArray[np.float64]:
    """The alphas in double precision, ``(d, w)`` or ``(R, d, w)``, if they are alphas; rows then sum to 1.

    Args:
        alpha: architecture parameters after the softmax over columns: an array, a tensor, or lists.
        shape: the ``(d, w)`` that is expected, where it is known.

    Raises:
        InvalidInputError: (a ``ValueError``) for a wrong shape, non-finite or negative numbers, or rows that do not
            sum to 1 within 1e-4, or within what half precision can hold.
    """
    try:
        array = to_array(alpha)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"expected an array of alphas, (d, w), got {type(alpha).__name__}: {error}") from None
    if array.ndim not in (2, 3) or array.size == 0 or (shape is not None and array.shape != shape):
        expected = "(d, w) or (R, d, w)" if shape is None else f"{shape}"
        raise InvalidInputError(
            f"expected alpha of shape {expected}, got {array.shape}; give one row for each row of H"
        )
    if not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0].tolist()
        raise InvalidInputError(f"expected finite alphas, got {array[tuple(where)]} at {where}; the training diverged")
    if (array < 0).any():
        raise InvalidInputError(f"expected alphas of 0 or more, got {array.min():.4g}; give them after the softmax")
    sums = array.sum(axis=-1)
    tolerance = max(TOLERANCE, 4 * resolution(alpha))
    if (np.abs(sums - 1) > tolerance).any():
        worst = sums.flat[np.abs(sums - 1).argmax()]
        raise InvalidInputError(
            f"expected rows of alpha that sum to 1 (tolerance {tolerance:.2g}), got one that sums to {worst:.6g}; "
            "apply a softmax over the columns"
        )
    exact = np.abs(sums - 1) < 1e-12  # to divide these would only move their last bits
    return np.where(exact[..., None], array, array / sums[..., None])


def marginals(alpha: ArrayLike) -> NDArray[np.float64]:
    """Alphas averaged over repetitions, ``(R, d, w) -> (d, w)``: the independent marginals of section 3.1."""
    array = check_alpha(alpha)
    return array.mean(axis=0) if array.ndim == 3 else array


def fade_rank(alpha: ArrayLike, path: ArrayLike) -> NDArray[np.float64]:
    """FaDE-rank of paths: the product of alpha along one column per row (section 2.3), higher is better.

    Args:
        alpha: ``(d, w)``, or ``(R, d, w)``, which is averaged over repetitions first.
        path: columns, ``(d,)`` or ``(n, d)``.

    Returns:
        A score ``()`` or scores ``(n,)``. They compare architectures of one hyper-architecture, not of several.
    """
    return _along(marginals(alpha), path).prod(axis=-1)


def borda(alpha: ArrayLike) -> NDArray[np.float64]:
    """Mean ranks of the columns of each row over repetitions, ``(R, d, w) -> (d, w)``.

    Their sum along a path is its Borda count: each repetition ranks the columns of each row, however sure it is.
    """
    from scipy.stats import rankdata  # here, since importing the package should not wait for it

    array = check_alpha(alpha)
    return rankdata(array if array.ndim == 3 else array[None], axis=-1).mean(axis=0)


def top_k(alpha: ArrayLike, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k architectures with the highest FaDE-rank, best first, without listing all w^d.

    The best k of a chain begin with one of the best k of its shorter chain, because factors are not negative. So
    rows are appended one by one and k paths kept: d·k·w products. Ties go to the smaller path.

    Args:
        alpha: ``(d, w)`` or ``(R, d, w)``.
        k: how many, 1 or more; where there are fewer paths, all are returned.

    Returns:
        ``(paths (k, d), scores (k,))``.
    """
    if k < 1:
        raise InvalidInputError(f"expected k of 1 or more, got {k}")
    paths, scores = np.zeros((1, 0), dtype=np.int64), np.ones(1)
    for row in marginals(alpha):
        columns = np.tile(np.arange(len(row)), len(paths))
        paths = np.column_stack([np.repeat(paths, len(row), axis=0), columns])
        scores = (scores[:, None] * row).ravel()
        best = np.lexsort((*paths.T[::-1], -scores))[:k]
        paths, scores = paths[best], scores[best]
    return paths, scores


def _along(table: NDArray[np.float64], path: ArrayLike) -> NDArray[np.float64]:
    """Entries of a table ``(d, w)`` along paths: ``(d,)`` or ``(n, d)``."""
    depth, width = table.shape
    paths = np.asarray(path)
    if paths.shape[-1:] != (depth,) or not np.issubdtype(paths.dtype, np.integer):
        raise InvalidInputError(f"expected paths of {depth} whole-numbered columns, got {paths.dtype} {paths.shape}")
    if ((paths < 0) | (paths >= width)).any():
        raise InvalidInputError(f"expected columns from 0 to {width - 1}, got {paths.min()} to {paths.max()}")
    return table[np.arange(depth), paths]

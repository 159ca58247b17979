"""From alphas to ranks of architectures (section 2.3).

A ranking rule is a function from alphas ``(d, w)``, or ``(R, d, w)`` for R repetitions, and paths ``(n, d)`` to scores
``(n,)``, where higher is better. :func:`fade_rank` is the paper's rule. The paper's alphas are averaged over
repetitions; marginal alphas come from averaged effects, see :mod:`fade_study.effects`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fade_study.arrays import resolution, to_array
from fade_study.exceptions import InvalidInputError

__all__ = ["borda", "check_alpha", "fade_rank", "marginals", "top_k"]

TOLERANCE = 1e-4
"""Largest difference from 1 of the sum of a row of alphas."""


def check_alpha(alpha: ArrayLike, shape: tuple[int, int] | None = None) -> NDArray[np.float64]:
    """Check alphas and return them in double precision, ``(d, w)`` or ``(R, d, w)``, with rows that sum to 1.

    Args:
        alpha: Architecture parameters after the softmax over columns, as an array, a tensor, or lists.
        shape: Expected shape ``(d, w)``; None accepts any.

    Raises:
        InvalidInputError: (a ``ValueError``) for a wrong shape, non-finite or negative numbers, and rows that do not
            sum to 1 within 1e-4, or within the resolution of half precision.
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
    exact = np.abs(sums - 1) < 1e-12  # a division would change their last bits only
    return np.where(exact[..., None], array, array / sums[..., None])


def marginals(alpha: ArrayLike) -> NDArray[np.float64]:
    """Average alphas over repetitions, ``(R, d, w) -> (d, w)``: the independent marginals of section 3.1."""
    array = check_alpha(alpha)
    return array.mean(axis=0) if array.ndim == 3 else array


def fade_rank(alpha: ArrayLike, path: ArrayLike) -> NDArray[np.float64]:
    """FaDE-rank ψ of paths: the product of one alpha per row (section 2.3), higher is better.

    Args:
        alpha: Alphas ``(d, w)``, or ``(R, d, w)``, which are averaged over repetitions first.
        path: Columns ``(d,)`` or ``(n, d)``.

    Returns:
        A score ``()`` or scores ``(n,)``, which are comparable within one hyper-architecture only.
    """
    return _along(marginals(alpha), path).prod(axis=-1)


def borda(alpha: ArrayLike) -> NDArray[np.float64]:
    """Mean ranks of the columns of each row over repetitions, ``(R, d, w) -> (d, w)``.

    Their sum along a path is its Borda count, which uses only how each repetition orders the columns of a row.
    """
    from scipy.stats import rankdata  # imported here to keep the import of the package fast

    array = check_alpha(alpha)
    return rankdata(array if array.ndim == 3 else array[None], axis=-1).mean(axis=0)


def top_k(alpha: ArrayLike, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k architectures with the highest FaDE-rank, best first, without listing all w^d.

    Factors are not negative, so each of the k best paths extends one of the k best paths through the rows before.
    Rows are therefore added one by one, and k paths are kept, which takes d·k·w products. Ties go to the smaller path.

    Args:
        alpha: Alphas ``(d, w)`` or ``(R, d, w)``.
        k: Number of paths, 1 or more; if there are fewer, all are returned.

    Returns:
        Paths ``(k, d)`` and their scores ``(k,)``.
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
        raise InvalidInputError(f"expected paths of {depth} integer columns, got {paths.dtype} {paths.shape}")
    if ((paths < 0) | (paths >= width)).any():
        raise InvalidInputError(f"expected columns from 0 to {width - 1}, got {paths.min()} to {paths.max()}")
    return table[np.arange(depth), paths]

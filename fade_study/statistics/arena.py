"""Statistics of an arena of outer searches, which all have the same seeds and the same budget in training steps.

The s-th value of every searcher comes from the same seed: searches on alphas begin at the same anchors, and trainings
have the same seeds in all searches. Differences to a baseline are therefore taken seed by seed, which gives the
comparison its power.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fade_study.exceptions import InvalidInputError
from fade_study.statistics.resampling import interval

__all__ = ["Standing", "anytime", "holm", "standings", "summary_table", "wilcoxon_p"]

Array = NDArray[np.float64]
FEWEST = 3
"""Smallest number of values for which an interval is shown."""
DECIMALS = 12
"""Digits to which differences are rounded, so that 0.3 - 0.2 and 0.2 - 0.1 tie in spite of floating point."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Results of a searcher, alone and against the baseline, with 95 % intervals over seeds."""

    searcher: str
    seeds: int
    final: float
    """Mean final test accuracy."""
    low: float
    high: float
    difference: float
    """Mean paired difference to the baseline; 0 for the baseline itself, like its interval."""
    difference_low: float
    difference_high: float
    win_rate: float | None
    """Share of seeds with which the searcher beats the baseline; ties count half. None for the baseline."""
    p: float | None
    """Two-sided p-value of :func:`wilcoxon_p` against the baseline; None for the baseline."""
    p_holm: float | None
    """``p``, corrected by Holm's method for the number of searchers compared; None for the baseline."""


def standings(finals: Mapping[str, ArrayLike], baseline: str = "random") -> list[Standing]:
    """Compare searchers, best mean first.

    With S seeds, no exact p-value is below 2 / 2^S, and Holm's correction multiplies it by the number of searchers that
    are compared. Among 12 searchers, 10 seeds can therefore show a difference (0.023), but 8 cannot (0.094).

    Args:
        finals: Final test accuracies ``(S,)`` by searcher; the s-th of all searchers have the same seed.
        baseline: Searcher that all others are compared with.

    Raises:
        InvalidInputError: for a baseline that is missing, fewer than 2 seeds, unequal numbers of seeds, and NaN or
            infinities.
    """
    arrays = _checked(finals, baseline)
    others = [name for name in arrays if name != baseline]
    differences = {name: np.round(values - arrays[baseline], DECIMALS) for name, values in arrays.items()}
    p = {name: wilcoxon_p(differences[name]) for name in others}
    corrected = dict(zip(others, holm(list(p.values())).tolist(), strict=True))
    rows = []
    for name, values in arrays.items():
        difference = differences[name]
        low, high = interval(values)
        difference_low, difference_high = interval(difference)
        rows.append(
            Standing(
                searcher=name,
                seeds=len(values),
                final=float(values.mean()),
                low=float(low),
                high=float(high),
                difference=float(difference.mean()),
                difference_low=float(difference_low),
                difference_high=float(difference_high),
                win_rate=None if name == baseline else float((np.sign(difference).mean() + 1) / 2),
                p=p.get(name),
                p_holm=corrected.get(name),
            )
        )
    return sorted(rows, key=lambda row: -row.final)


def wilcoxon_p(differences: ArrayLike) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test of differences ``(S,)``.

    SciPy's test is exact for up to 13 seeds, and for up to 50 if no two differences are equal in size. Zeros are left
    out (Wilcoxon, 1945); if all differences are 0, the p-value is 1.
    """
    values = np.asarray(differences, dtype=float)
    result: Any = stats.wilcoxon(values[values != 0]) if values.any() else None
    return 1.0 if result is None else float(result.pvalue)


def holm(p: ArrayLike) -> Array:
    """Holm's step-down correction (1979) of p-values ``(m,)``; the smallest is multiplied by m, the next by m - 1."""
    values = np.asarray(p, dtype=float)
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(len(values), 0, -1)
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(1, np.maximum.accumulate(steps))
    return corrected


def anytime(runs: Sequence[tuple[ArrayLike, ArrayLike]], grid: ArrayLike) -> Array:
    """Values of runs at given budgets: the latest value by then, NaN before the first.

    The mean over seeds, ``anytime(…).mean(axis=0)``, is therefore NaN until all runs have a value. A mean over the
    early runs alone would jump whenever another run joins.

    Args:
        runs: For each seed, the budgets spent ``(n,)`` in training steps, which never decrease, and the values then
            ``(n,)``; n may differ. The last of several values at one budget counts.
        grid: Budgets ``(G,)``.

    Returns:
        Values ``(S, G)``.

    Raises:
        InvalidInputError: for lengths that differ, budgets that decrease, and NaN or infinities.
    """
    budgets = np.asarray(grid, dtype=float)
    rows = np.full((len(runs), len(budgets)), np.nan)
    for number, run in enumerate(runs):
        spent, values = (np.asarray(part, dtype=float) for part in run)
        sound = spent.ndim == 1 and spent.shape == values.shape and np.isfinite([spent, values]).all()
        if not sound or (np.diff(spent) < 0).any():
            raise InvalidInputError(
                f"expected finite budgets and values (n,), sorted by budget, got {spent.shape} and {values.shape} of "
                f"run {number}, or unsorted or non-finite ones; sort them, and leave out budgets without a value"
            )
        last = np.searchsorted(spent, budgets, side="right") - 1
        rows[number, last >= 0] = values[last[last >= 0]]
    return rows


def summary_table(rows: Sequence[Standing]) -> str:
    """Standings as a table of aligned text, in the order given, with intervals of three seeds or more."""
    header = ["searcher", "seeds", "final", "95 %", "difference", "95 %", "wins", "p", "p (Holm)"]
    lines = [
        [
            row.searcher,
            str(row.seeds),
            f"{row.final:.4f}",
            f"[{row.low:.4f}, {row.high:.4f}]" if row.seeds >= FEWEST else "",
            f"{row.difference:+.4f}" if row.p is not None else "",
            f"[{row.difference_low:+.4f}, {row.difference_high:+.4f}]"
            if row.p is not None and row.seeds >= FEWEST
            else "",
            f"{row.win_rate:.2f}" if row.win_rate is not None else "",
            *("" if p is None else f"{p:.3f}" if p >= 0.0005 else "<0.001" for p in (row.p, row.p_holm)),
        ]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in [header, *lines]
    )


def _checked(finals: Mapping[str, ArrayLike], baseline: str) -> dict[str, Array]:
    arrays = {name: np.asarray(values, dtype=float) for name, values in finals.items()}
    if baseline not in arrays:
        raise InvalidInputError(f"expected a baseline among {sorted(arrays)}, got {baseline!r}; name one of them")
    shapes = {name: values.shape for name, values in arrays.items()}
    if len(set(shapes.values())) > 1 or arrays[baseline].ndim != 1 or len(arrays[baseline]) < 2:
        raise InvalidInputError(
            f"expected final accuracies (S,) of the same 2 seeds or more for every searcher, got {shapes}; run the "
            "seeds that are missing, or leave out those that not all have"
        )
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            where = np.flatnonzero(~np.isfinite(values))[0]
            raise InvalidInputError(
                f"expected finite accuracies, got {values[where]} of {name} at {where}; leave that seed out everywhere"
            )
    return arrays

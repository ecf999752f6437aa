"""Fitted constants that changed places between columns: each column has what another one had.

A retrain moves constants by a part of what they describe. Where columns hold each other's, every one of them is
near another column's and far from its own, by eight times as much at least. Columns of nearly the same
constants are never told so: a fit explains what they became.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.core.tensors import Array, Bools, Floats, Ints
from harness.diff.pairs import shown
from harness.diff.reports import Refit

_WIDEST = 1024
"""Columns of a tensor that are asked for each other's constants."""
_FAR = 3.0
"""Spreads of the raw column, or powers of e, that no retrain moves a constant by, as far as another column's."""
_APART = 0.1
"""The same where the constants are another column's number for number."""
_ALONE = 1.0
"""The same of one constant that may be picked among the data's values."""
_EXACT = 1e-5
"""Difference of constants that float32 leaves, in spreads or powers of e."""
_CLEAR = 8.0
"""Times as far from its own as from another column's."""
_PART = 0.25
"""Part of an offset that counts as a spread where the column's own is smaller."""
_PICKED = 100.0
"""Constants with two decimals may be picked among the data's values: two fits then meet by chance."""
_MANY = 30
"""Distinct values from which on two such constants seldom meet."""
_UNSURE = 1e-3
_FEW = 5
"""Distinct values below which shares are fitted, as of flags: of these, two kinds of constants must have moved."""
_SHOWN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What is read of one column's constants."""

    column: str
    """As shown: scaled[3]."""
    feature: str
    """The raw column that it is a line of."""
    spread: float
    """Standard deviation of the raw column on either side, the larger one."""
    values: int
    """How many distinct values the raw column has."""
    constants: Mapping[str, tuple[float, float]]
    """Role → (baseline's, candidate's)."""


def exchanged(fits: Sequence[Fit], asked: Sequence[tuple[str, bool]]) -> list[list[int]]:
    """Columns that have each other's constants, each with the one after it, the last with the first.

    Args:
      fits: k columns of one tensor.
      asked: roles that have changed places together, and whether each is a factor (a scale).
    """
    have = [i for i, fit in enumerate(fits) if all(role in fit.constants for role, _ in asked)]
    if not 2 <= len(have) <= _WIDEST:  # noqa: PLR2004 - one column has nothing to change with
        return []
    spread = np.array([fits[i].spread for i in have])
    values = np.array([fits[i].values for i in have])
    apart, picked = np.zeros((len(have), len(have))), np.ones(len(have), np.bool_)
    moved, was = np.zeros(len(have), np.int64), np.zeros((len(have), len(have)))
    for role, factor in asked:
        before, after = (np.array([fits[i].constants[role][side] for i in have]) for side in (0, 1))
        one = _apart(before, after, spread, factor=factor)
        apart, picked = np.maximum(apart, one), picked & _is_picked(before)
        was = np.maximum(was, _apart(before, before, spread, factor=factor))
        moved += np.diagonal(one) >= _APART
    own = np.diagonal(apart).copy()
    near = np.isfinite(apart) & (apart * _CLEAR <= np.maximum(own, 0.0)[:, None])
    fitted = ~picked[:, None] | ~picked[None, :]
    values = np.minimum(values[:, None], values[None, :])
    shown_by_many = (values >= _MANY) & ((own >= _ALONE) | (moved > 1))[:, None]
    exact = (apart <= _EXACT) & (own >= _APART)[:, None] & (fitted | shown_by_many)
    far = (own >= _FAR)[:, None] & ((values >= _FEW) | (moved > 1)[:, None])
    only = np.where(apart <= _EXACT, _no_third(was <= _EXACT), _no_third(was <= _APART))
    possible = np.asarray(near & only & (far | ((values >= _FEW) & exact)))
    return [[have[i] for i in cycle] for cycle in _cycles(possible, apart)]


def exchange_of(fits: Sequence[Fit], roles: Sequence[str]) -> Refit:
    """What is told of columns that have each other's constants, in order, the last with the first's."""
    names = [fit.feature for fit in fits]
    had = [" and ".join(shown(fit.constants[role][0]) for role in roles) for fit in fits]
    has = [" and ".join(shown(fit.constants[role][1]) for role in roles) for fit in fits]
    others = [f"{a} has those of {b}" for a, b in zip(names, (*names[1:], names[0]), strict=True)]
    return Refit(
        tensor=", ".join(fit.column for fit in fits),
        feature=_some(names),
        role=" and ".join(roles),
        baseline=_some(had),
        candidate=_some(has),
        suspicious=f"exchanged between columns: {' and '.join(others[:_SHOWN])}, as no fit leaves them",
    )


def _apart(before: Floats, after: Floats, spread: Floats, *, factor: bool) -> Floats:
    """How far column i's new constant is from column j's old one, at [i, j], shape (k, k).

    Its own is measured by its own column, another's by that one: each as a fit of that column moves it.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if factor:
            found = np.abs(np.log(after[:, None] / before[None, :]))
        else:
            unit = np.maximum(spread, _PART * np.abs(before))
            found = np.abs(after[:, None] - before[None, :]) / unit[None, :]
    return np.asarray(np.where(np.isfinite(found), found, np.inf))


def _no_third(alike: Bools) -> Bools:
    """Whether no column but i and j had what j had, at [i, j], shape (k, k).

    What a third one had, too, as columns of one range without missing values have, shows nothing.

    Args:
      alike: whether j had what i had, at [i, j].
    """
    others = alike & ~np.eye(len(alike), dtype=np.bool_)
    return np.asarray(others.sum(axis=1)[None, :] - others.T == 0)


def _cycles(possible: Bools, apart: Floats) -> list[list[int]]:
    """Columns that change places in a ring, pairs first; every column in one ring at most."""
    found: list[list[int]] = []
    free = np.ones(len(possible), np.bool_)
    for i, j in np.argwhere(np.triu(possible & possible.T, 1)).tolist():
        if free[i] and free[j]:
            found.append([i, j])
            free[[i, j]] = False
    left: Bools = np.asarray(possible & free[:, None] & free[None, :], np.bool_)
    nearest: Ints = np.where(left, apart, np.inf).argmin(axis=1)
    has: Bools = np.asarray(left.any(axis=1))
    for start in np.flatnonzero(has).tolist():
        ring = [start]
        while has[ring[-1]] and free[ring[-1]] and int(nearest[ring[-1]]) not in ring:
            ring.append(int(nearest[ring[-1]]))
        if has[ring[-1]] and int(nearest[ring[-1]]) == start and free[ring].all():
            found.append(ring)
            free[ring] = False
    return found


def _is_picked(values: Floats) -> Bools:
    hundredths = values * _PICKED
    with np.errstate(invalid="ignore"):
        near = np.abs(hundredths - np.rint(hundredths))
        return np.asarray(near <= np.maximum(_UNSURE, _EXACT * np.abs(hundredths)))


def described(sides: Sequence[Array]) -> tuple[float, int]:
    """(standard deviation on the side where it is larger, distinct values where there are fewer); (inf, 0) of none."""
    known = [values[np.isfinite(values)] for values in sides]
    with np.errstate(over="ignore"):
        spread = max((float(values.std()) for values in known if len(values)), default=0.0)
    return spread or np.inf, min((len(np.unique(values)) for values in known), default=0)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more

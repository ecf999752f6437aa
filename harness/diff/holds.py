"""Rules about time: an earlier row's value, and a value that is held until the next update.

Both need the order of the rows and most of their neighbours. A lag is looked for among the nearest fifty,
then by where a row's value occurs; where values repeat, a row has many such places, and the lag at which
most of them meet is found for all lags at once (cross-correlation of "is this value", by FFT).
"""

from __future__ import annotations

import numpy as np

from harness.core.tensors import Bools, Floats, Ints
from harness.diff.pairs import ENOUGH, Pairs, Relation, RelationKind

_LAGS = 50
_CHECKED = 30
"""Rows that must have a predecessor in the sample before staleness is named."""
_CONFIRMED = 4
"""Distinct values that confirm a lag or a hold."""
_LONGEST = 1 << 17
"""Places in time, from the first to the last sampled row, over which lags are correlated."""
_WORDS = 64
"""Most frequent values that are correlated."""
_KEPT = 0.5
"""Least share of the differing rows that carry on the row before them: a late copy seldom does."""
_HOLDS = 10
"""Updates that a sample must show before its values are called held."""


def stale(pairs: Pairs) -> Relation | None:
    """The value of the row k places earlier in time; needs the order of rows and most neighbours."""
    return _late(pairs, pairs.differs)


def _late(pairs: Pairs, asked: Bools) -> Relation | None:
    """As `stale`, of these rows."""
    if pairs.order is None or pairs.distinct() < _CONFIRMED:
        return None
    by_time = np.argsort(pairs.order, kind="stable")
    order, before = pairs.order[by_time], pairs.baseline[by_time]
    for lag in (*range(1, _LAGS + 1), *_longer_lags(pairs, pairs.order, order, before)):
        at = np.searchsorted(order, pairs.order - lag)
        at = np.minimum(at, len(order) - 1)
        there = (order[at] == pairs.order - lag) & asked
        if there.sum() < max(_CHECKED, int(asked.sum()) // 2):
            continue
        earlier = before[at]
        hit = np.abs(pairs.candidate - earlier) <= pairs.slack
        hit |= np.isnan(pairs.candidate) & np.isnan(earlier)
        share = float(hit[there].mean())
        if share >= ENOUGH:
            rows = "row" if lag == 1 else "rows"
            text = f"candidate = the baseline's value {lag} {rows} earlier (stale copy?)"
            return Relation(kind=RelationKind.STALE, value=float(lag), share=share, text=text)
    return None


def held(pairs: Pairs) -> Relation | None:
    """The baseline's value at the last update, kept until the next: a cache that is refreshed too seldom.

    Rows that differ carry on the row before them, and a hold begins where both sides agree, or with the
    value of the row just before.
    """
    if pairs.order is None or pairs.distinct() < _CONFIRMED:
        return None
    by_time = np.argsort(pairs.order, kind="stable")
    order, after = pairs.order[by_time], pairs.candidate[by_time]
    differs, slack = pairs.differs[by_time], pairs.slack[by_time]
    follows = np.zeros(len(order), np.bool_)
    follows[1:] = np.diff(order) == 1
    kept = np.zeros(len(order), np.bool_)
    kept[1:] = np.abs(np.diff(after)) <= slack[1:]
    before = pairs.baseline[by_time]
    previous = np.zeros(len(order), np.bool_)
    previous[1:] = np.abs(after[1:] - before[:-1]) <= slack[1:]
    asked = differs & follows
    if asked.sum() < max(_CHECKED, pairs.count // 2) or kept[asked].mean() < _KEPT:
        return None
    share = float((kept | previous)[asked].mean())
    if share < ENOUGH:
        return None
    # A new value must be the baseline's own: else it is some constant, or a rounding of its own.
    new = follows & ~kept
    if new.sum() < _HOLDS or float((differs & ~previous)[new].mean()) > 1.0 - ENOUGH:
        return None
    # A late copy of values that stay for long looks like this, too; it is late in every row.
    everywhere = np.ones(len(order), np.bool_)
    if len(np.unique(after[new])) < _CONFIRMED or _late(pairs, everywhere) is not None:
        return None
    long = float(np.median(np.diff(np.flatnonzero(new | ~follows))))
    text = f"candidate = the baseline's value at the last of its updates, about {long:.0f} rows apart (held copy?)"
    return Relation(kind=RelationKind.STALE, value=long, share=share, text=text)


def _longer_lags(pairs: Pairs, place: Ints, order: Ints, before: Floats) -> tuple[int, ...]:
    """Distances in time beyond `_LAGS` at which most rows find the value that the candidate has."""
    by_value = np.argsort(before, kind="stable")
    at = np.minimum(np.searchsorted(before[by_value], pairs.candidate), len(before) - 1)
    found = by_value[at]
    same = pairs.differs & (before[found] == pairs.candidate)
    lags, counts = np.unique((place - order[found])[same], return_counts=True)
    likely = {int(lags[counts.argmax()])} if len(lags) else set()
    likely |= _correlated(pairs, place, same)
    return tuple(sorted(lag for lag in likely if lag > _LAGS))


def _correlated(pairs: Pairs, place: Ints, same: Bools) -> set[int]:
    """The lag at which the largest share of rows meets its value; for values that repeat."""
    start = int(place.min())
    length = int(place.max()) - start + 1
    words, counts = np.unique(pairs.candidate[same], return_counts=True)
    if length > _LONGEST or not len(words) or counts.max() == 1:
        return set()
    size = 1 << int(2 * length - 1).bit_length()
    spectrum = np.zeros(size // 2 + 1, np.complex128)
    for word in words[np.argsort(-counts, kind="stable")[:_WORDS]]:
        now = _marked(place[same & (pairs.candidate == word)] - start, size)
        then = _marked(place[pairs.baseline == word] - start, size)
        spectrum += now * np.conj(then)
    met = np.fft.irfft(spectrum, size)[:length]
    both = _marked(place[same] - start, size) * np.conj(_marked(place - start, size))
    possible = np.fft.irfft(both, size)[:length]
    share = np.where(possible >= _CHECKED, met / np.maximum(possible, 1.0), 0.0)
    share[: _LAGS + 1] = 0.0
    return {int(share.argmax())}


def _marked(places: Ints, size: int) -> np.typing.NDArray[np.complex128]:
    """Spectrum of 1 at these places, 0 elsewhere."""
    line = np.zeros(size)
    line[places] = 1.0
    return np.fft.rfft(line)

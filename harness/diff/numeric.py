"""Rules that name a relation between two numeric columns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from harness.core.tensors import Floats
from harness.diff.pairs import ENOUGH, Pairs, Relation, RelationKind, plus, shown
from harness.diff.units import AFFINE, FACTORS, HOURS, PERIODS, known_factor, known_offset

_CONFIRMED_ONE = 3
"""Distinct values that confirm one fitted constant."""
_CONFIRMED_KNOWN = 2
"""Distinct values that confirm a well-known constant."""
_CONFIRMED_TWO = 4
"""Distinct values that confirm two fitted constants."""
_FLAT = 4.0
"""A line that rises by fewer slacks over the data is a constant with noise."""
_WRAPS = 2
"""Rows beyond the period's end that make a shift cyclic."""
_SECOND = 0.01
"""Least share of the second of two shifts."""
_INTEGER_RANGE = 100.0
"""Integers over a range this wide may have been rounded after scaling."""
_CLUSTERS = 6
_WHOLE_SHIFT = 0.125
"""A shift this part of the slack from a whole number is that number: two roundings of float32."""
_CLEARLY = 2.0
"""A line that misses this many times less than another is the one that is meant."""
_SAME = 1e-9
_NEARLY = 0.05
"""How far rounding may move the middle ratio of whole numbers from the factor."""
_NEARLY_WHOLE = 1e-3
"""A fitted slope this near a whole number may be that number."""
_SHORT = 3
"""Decimals of a short intercept."""


def sign(pairs: Pairs) -> Relation | None:
    """Negated, or the sign lost."""
    if pairs.distinct() < _CONFIRMED_KNOWN:
        return None
    # Only negative values show a lost sign: what tells it from a negation is that others stayed.
    stayed = bool((~pairs.differs & (pairs.baseline > pairs.slack)).any())
    for predicted, text, fits in (
        (np.abs(pairs.baseline), "candidate = |baseline| (sign lost)", stayed),
        (-pairs.baseline, "candidate = −baseline", True),
    ):
        share = pairs.explained(predicted)
        if fits and share >= ENOUGH:
            return Relation(kind=RelationKind.SIGN, value=-1.0, share=share, text=text)
    return None


def scaled(pairs: Pairs) -> Relation | None:
    """Times a constant; well-known unit factors get their name."""
    before, after = pairs.baseline[pairs.differs], pairs.candidate[pairs.differs]
    usable = np.isfinite(before) & np.isfinite(after) & (before != 0)
    if usable.sum() < ENOUGH * len(before):
        return None
    large = usable & (np.abs(before) >= np.median(np.abs(before[usable])))
    ratio = float(np.median(after[large] / before[large]))
    known = known_factor(ratio)
    distinct = pairs.distinct()
    allowed = _allowed(pairs)
    if known is not None and distinct >= _CONFIRMED_KNOWN:
        share = pairs.explained(
            known.value * pairs.baseline, pairs.slack if pairs.whole else allowed
        )
        if share >= ENOUGH:
            return _scaled(known.value, share, known.meaning)
    if distinct < _CONFIRMED_ONE or ratio == 0 or not np.isfinite(ratio):
        return None
    if pairs.whole and pairs.explained(ratio * pairs.baseline) < ENOUGH:
        return _scaled_to_whole(pairs, ratio, allowed)
    share = pairs.explained(ratio * pairs.baseline, allowed)
    if share < ENOUGH:
        return None
    return _scaled(ratio, share, known.meaning if known else "")


def _scaled_to_whole(pairs: Pairs, ratio: float, allowed: Floats) -> Relation | None:
    """Times a constant and made whole: by a factor that says each value, or over a wide range."""
    if len(np.unique(pairs.candidate[pairs.differs])) < _CONFIRMED_ONE:
        return None
    near = [(k.value, k.meaning) for k in FACTORS if abs(ratio / k.value - 1.0) < _NEARLY]
    divisor = round(1.0 / ratio)
    near += [(1.0 / k, "") for k in range(divisor - 1, divisor + 2) if k > 1]
    for factor, meaning in near:
        exact = factor * pairs.baseline
        for words, predicted in (
            ("rounded down", np.floor(exact + _SAME)),
            ("rounded", np.round(exact)),
            ("cut off", np.trunc(exact + np.copysign(_SAME, exact))),
        ):
            share = pairs.explained(predicted)
            if share >= ENOUGH:
                found = _scaled(factor, share, meaning)
                return replace(found, text=f"{found.text}, {words} to whole numbers")
    # A few whole numbers follow almost any line to within one: only a wide range confirms a factor.
    after = pairs.candidate[pairs.differs & np.isfinite(pairs.candidate)]
    share = pairs.explained(ratio * pairs.baseline, allowed)
    if share < ENOUGH or np.ptp(after) < _INTEGER_RANGE:
        return None
    known = known_factor(ratio)
    return _scaled(ratio, share, known.meaning if known else "")


def cyclic(pairs: Pairs) -> Relation | None:
    """Plus a constant, wrapped round the end of a day, week, year, circle; one or two shifts."""
    clusters = _clusters(pairs)
    if not clusters or pairs.distinct() < _CONFIRMED_TWO:
        return None
    first = clusters[0][0]
    for period, meaning in PERIODS.items():
        found = _wrapped(pairs, clusters, (first,), period)
        if found is not None:
            return _cyclic(found, period, meaning)
    for period, meaning in HOURS.items():
        for other, count in clusters[1:]:
            apart = abs(_least(other - first, period))
            if abs(apart - period / 24.0) < _SAME * period and count >= _SECOND * pairs.count:
                found = _wrapped(pairs, clusters, (first, other), period)
                if found is not None:
                    return _cyclic(found, period, f"{meaning}, with daylight saving time")
    return None


def shifted(pairs: Pairs) -> Relation | None:
    """Plus a constant."""
    clusters = _clusters(pairs)
    if not clusters or pairs.distinct() < _CONFIRMED_ONE:
        return None
    shift = clusters[0][0]
    share = pairs.explained(pairs.baseline + shift, np.maximum(pairs.slack, _ulp(pairs)))
    if share < ENOUGH:
        return None
    missed, factor, missed_by_factor = _against_factor(pairs, shift)
    if _CLEARLY * missed_by_factor < missed:
        return None  # times a constant says it better
    text = _with_meaning(f"candidate = baseline {plus(shift)}", known_offset(shift))
    if missed_by_factor < _CLEARLY * missed:
        text += f", or × {factor:.9g}: these values do not tell which"
    return Relation(kind=RelationKind.SHIFTED, value=shift, share=share, text=text)


def _against_factor(pairs: Pairs, shift: float) -> tuple[float, float, float]:
    """(how far a shift misses, the factor that would stand for it, how far that misses), means of the rows."""
    rows = pairs.differs & np.isfinite(pairs.delta) & (pairs.baseline != 0)
    before, after = pairs.baseline[rows], pairs.candidate[rows]
    with np.errstate(over="ignore", invalid="ignore"):
        factor = float((before * after).sum() / (before * before).sum()) if len(before) else np.nan
    if not np.isfinite(factor):
        return 0.0, 1.0, np.inf
    return (
        float(np.abs(pairs.delta[rows] - shift).mean()),
        factor,
        float(np.abs(after - factor * before).mean()),
    )


def two_shifts(pairs: Pairs) -> Relation | None:
    """Plus one of two constants an hour apart: a zone offset with daylight saving time."""
    clusters = _clusters(pairs)
    if len(clusters) < 2 or pairs.distinct() < _CONFIRMED_TWO:  # noqa: PLR2004 - two shifts
        return None
    (first, n_first), (second, n_second) = clusters[:2]
    share = (n_first + n_second) / pairs.count
    hour = any(
        abs(abs(first - second) - h) <= _SAME * h for h in (1.0, 60.0, 3600.0, 3.6e6, 3.6e12)
    )
    if share < ENOUGH or not hour or n_second < _SECOND * pairs.count or first * second < 0:
        return None
    text = (
        f"candidate = baseline {plus(first)} ({n_first / pairs.count:.0%}) "
        f"or {plus(second)} ({n_second / pairs.count:.0%}) (local time ↔ UTC, with daylight saving time?)"
    )
    return Relation(kind=RelationKind.SHIFTED, value=first, share=share, text=text)


def affine(pairs: Pairs) -> Relation | None:
    """Times a constant plus a constant, fitted by medians."""
    fit = _median_line(pairs)
    if fit is None or pairs.distinct() < _CONFIRMED_TWO:
        return None
    allowed = _allowed(pairs)
    for slope, intercept, meaning in AFFINE:
        share = pairs.explained(slope * pairs.baseline + intercept, allowed)
        if share >= ENOUGH:
            return _affine(slope, intercept, share, meaning)
    slope, intercept = _simplest(pairs, fit)
    share = pairs.explained(slope * pairs.baseline + intercept, allowed)
    before = pairs.baseline[pairs.differs]
    rise = abs(slope) * float(np.ptp(before[np.isfinite(before)]))
    if share < ENOUGH or rise <= _FLAT * pairs.width:
        return None
    return _affine(slope, intercept, share, "")


def _simplest(pairs: Pairs, fit: tuple[float, float]) -> tuple[float, float]:
    """The fitted line, with a whole slope and a short intercept where noise is all that is against them."""
    rows = pairs.differs & np.isfinite(pairs.baseline) & np.isfinite(pairs.candidate)
    before, after = pairs.baseline[rows], pairs.candidate[rows]

    def missed(slope: float, intercept: float) -> float:
        return float(np.quantile(np.abs(after - slope * before - intercept), ENOUGH))

    slope, intercept = fit
    allowed = max(_CLEARLY * missed(slope, intercept), _WHOLE_SHIFT * pairs.width)
    whole = float(round(slope))
    if whole and abs(slope - whole) < _NEARLY_WHOLE:
        middle = float(np.median(after - whole * before))
        if missed(whole, middle) <= allowed:
            slope, intercept = whole, middle
    short = round(intercept, _SHORT)
    return slope, short if missed(slope, short) <= allowed else intercept


def _clusters(pairs: Pairs) -> list[tuple[float, int]]:
    """(centre, rows) of the most frequent differences, largest first; empty when they spread."""
    delta = pairs.delta[pairs.differs]
    delta = np.sort(delta[np.isfinite(delta)])
    if len(delta) < ENOUGH * pairs.count:
        return []
    width = max(pairs.width, float(np.median(_ulp(pairs)[pairs.differs])))
    found: list[tuple[float, int]] = []
    parts = np.split(delta, np.flatnonzero(np.diff(delta) > width) + 1)
    for part in sorted(parts, key=len, reverse=True)[:_CLUSTERS]:
        centre = float(np.median(part))
        if not np.isfinite(centre):
            continue
        if abs(centre - round(centre)) <= _WHOLE_SHIFT * width:
            centre = float(round(centre))
        found.append((centre, int((np.abs(part - centre) <= width).sum())))
    found.sort(key=lambda c: -c[1])
    return found


def _wrapped(
    pairs: Pairs, clusters: list[tuple[float, int]], shifts: tuple[float, ...], period: float
) -> list[tuple[float, float]] | None:
    """(shift, share) per shift when the clusters are these shifts with and without a wrap."""
    values = pairs.baseline[pairs.differs & np.isfinite(pairs.delta)]
    width = max(pairs.width, float(np.median(_ulp(pairs)[pairs.differs])))
    if np.ptp(values) > period + width or max(abs(s) for s in shifts) >= period:
        return None
    shares: list[tuple[float, float]] = []
    wraps = False
    for shift in shifts:
        other = shift - np.copysign(period, shift)
        straight = sum(n for centre, n in clusters if abs(centre - shift) <= width)
        turned = sum(n for centre, n in clusters if abs(centre - other) <= width)
        wraps = wraps or turned >= _WRAPS
        shares.append((_least(shift, period), (straight + turned) / pairs.count))
    if not wraps or sum(share for _, share in shares) < ENOUGH:
        return None
    if len({shift for shift, _ in shares}) < len(shifts):
        return None
    return sorted(shares, key=lambda s: -s[1])


def _least(shift: float, period: float) -> float:
    """The representative of a shift modulo a period with the smallest size; half stays positive."""
    turned = shift % period
    return turned - period if turned > period / 2 else turned


def _cyclic(found: list[tuple[float, float]], period: float, meaning: str) -> Relation:
    share = sum(part for _, part in found)
    if len(found) == 1:
        words = plus(found[0][0])
    else:
        words = " or ".join(f"{plus(shift)} ({part:.0%})" for shift, part in found)
    return Relation(
        kind=RelationKind.CYCLIC_SHIFT,
        value=found[0][0],
        share=share,
        text=_with_meaning(f"candidate = baseline {words} modulo {shown(period)}", meaning),
    )


def _median_line(pairs: Pairs) -> tuple[float, float] | None:
    """Slope and intercept by medians of far-apart pairs, then refined on the rows that fit."""
    use = pairs.differs & np.isfinite(pairs.baseline) & np.isfinite(pairs.candidate)
    if use.sum() < max(ENOUGH * pairs.count, _CONFIRMED_TWO):
        return None
    order = np.argsort(pairs.baseline[use], kind="stable")
    x, y = pairs.baseline[use][order], pairs.candidate[use][order]
    half = len(x) // 2
    run = x[half:] - x[: len(x) - half]
    apart = run > pairs.width
    if not apart.any():
        return None
    slope = float(np.median((y[half:] - y[: len(y) - half])[apart] / run[apart]))
    intercept = float(np.median(y - slope * x))
    fits = np.abs(y - slope * x - intercept) <= 4.0 * pairs.slack[use][order]
    if fits.sum() >= _CONFIRMED_TWO and np.ptp(x[fits]) > 0:
        middle_x, middle_y = float(x[fits].mean()), float(y[fits].mean())
        dx = x[fits] - middle_x
        slope = float((dx * (y[fits] - middle_y)).sum() / (dx * dx).sum())
        intercept = middle_y - slope * middle_x
    return (slope, intercept) if np.isfinite([slope, intercept]).all() else None


def _allowed(pairs: Pairs) -> Floats:
    """The slack; wide integer columns may also have been rounded after the arithmetic."""
    finite = pairs.baseline[pairs.differs & np.isfinite(pairs.baseline)]
    if pairs.whole and len(finite) and np.ptp(finite) >= _INTEGER_RANGE:
        return np.maximum(pairs.slack, 1.0)
    return pairs.slack


def _ulp(pairs: Pairs) -> Floats:
    """What float64 cannot tell apart at each value, shape (r,); integers were subtracted exactly."""
    if pairs.whole:
        return np.zeros(len(pairs.slack))
    size = np.fmax(np.abs(pairs.baseline), np.abs(pairs.candidate))
    return np.spacing(np.where(np.isfinite(size), size, 0.0))


def _scaled(factor: float, share: float, meaning: str) -> Relation:
    return Relation(
        kind=RelationKind.SCALED,
        value=factor,
        share=share,
        text=_with_meaning(f"candidate = baseline × {shown(factor)}", meaning),
    )


def _affine(slope: float, intercept: float, share: float, meaning: str) -> Relation:
    text = f"candidate = baseline × {shown(slope)} {plus(intercept)}"
    return Relation(
        kind=RelationKind.AFFINE, value=slope, share=share, text=_with_meaning(text, meaning)
    )


def _with_meaning(text: str, meaning: str) -> str:
    return f"{text} ({meaning}?)" if meaning else text

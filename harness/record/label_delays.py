"""How long labels take to arrive, and whether that changed.

A request without a label yet says only that its delay is longer than its age: it is censored on the
right at `as_of`. The delays of the labels that arrived, taken alone, look shorter the younger the
traffic is, and comparing them raises an alarm every time. So the curve is Kaplan and Meier's (1958,
Greenwood's standard errors; `statsmodels.duration.survfunc.SurvfuncRight`), and two groups are compared
by the log-rank test (`survdiff`). A label that never comes (a cancelled flight) keeps a curve above 0.

How long a label took from what it is about (the labelled event) to its arrival is another question: that
is the pipeline that collects labels, and nothing of the world. It is not censored but truncated: a label
that has not arrived is not seen at all. So only labels are compared whose event is older than a horizon,
by their delays within it, with Kolmogorov and Smirnov's test (`scipy.stats.ks_2samp`). On all labels that
have arrived the same test alarms nearly every time, as the younger ones can only be quick.

Under `fixed maturity` verdicts (`store.labels.join_labels`) the curve says which maturity loses few.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.core.tensors import Floats, Ints, Strings
from harness.core.words import coded

SHARES = (0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
"""Of the labels: the delays by which so many have arrived."""
_POINTS = 200
_FEWEST = 2
_HORIZON = 0.9
"""Quantile of all delays that bounds those compared: the higher it is, the fewer young labels can be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DelayCurve:
    """How many labels have arrived how long after their request."""

    group: str
    """Which requests; "" = all."""
    n: int
    """Requests, each at risk until its label arrived or `as_of`."""
    arrived: int
    """Of these: with a label by `as_of`."""
    delay_s: tuple[float, ...]
    """Ascending delays in seconds, at most 200."""
    share: tuple[float, ...]
    """Estimated share that has a label by each delay, in [0, 1]."""
    error: tuple[float, ...]
    """Its standard error; NaN where it has none."""
    quantiles: tuple[tuple[float, float | None], ...]
    """(share, delay in seconds by which so many have arrived); None = not reached within what was observed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DelayShift:
    """The log-rank test of equal delays."""

    groups: tuple[str, ...]
    """What was compared."""
    chi2: float
    """Its statistic, ≥ 0."""
    p_value: float
    """Probability of one as large when the delays are equal, in [0, 1]; approximate, read once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestionShift:
    """The Kolmogorov–Smirnov test of equal times from a label's event to its arrival."""

    groups: tuple[str, ...]
    """What was compared; of more than two the one that differs most, and "the others"."""
    n: tuple[int, int]
    """Labels of each of the two."""
    median_s: tuple[float, float]
    """Their medians."""
    within_s: float
    """Only delays up to it, of labels whose event is that old, are compared."""
    distance: float
    """Largest difference of the shares that arrived by any delay, in [0, 1]."""
    p_value: float
    """Probability of one as large when they are equal, times the groups tried; approximate, read once."""


def delay_curve(delay_s: Floats, arrived: Ints, group: str = "") -> DelayCurve:
    """Estimates one curve.

    Args:
      delay_s: seconds until the label, or until as_of where none arrived, shape (n,), each ≥ 0, n ≥ 1.
      arrived: 1 where a label arrived, else 0, shape (n,).
      group: its name.
    """
    n, count = len(delay_s), int(arrived.sum())
    if not count:
        none = tuple((q, None) for q in SHARES)
        return DelayCurve(
            group=group, n=n, arrived=0, delay_s=(), share=(), error=(), quantiles=none
        )
    from statsmodels.duration.survfunc import SurvfuncRight

    found = SurvfuncRight(delay_s, arrived)
    share = 1.0 - np.asarray(found.surv_prob, np.float64)
    times = np.asarray(found.surv_times, np.float64)
    with np.errstate(all="ignore"):  # Greenwood's formula has no value where the curve ends at 1
        error = np.asarray(found.surv_prob_se, np.float64)
    at = np.unique(
        np.linspace(0, len(times) - 1, min(len(times), _POINTS)).round().astype(np.int64)
    )
    # 1 − (1 − q) is not q in floats; a millionth of a label decides nothing.
    reached = [(q, np.flatnonzero(share >= q - 1e-9)) for q in SHARES]
    return DelayCurve(
        group=group, n=n, arrived=count, delay_s=tuple(times[at].tolist()),
        share=tuple(share[at].tolist()), error=tuple(error[at].tolist()),
        quantiles=tuple((q, float(times[i[0]]) if len(i) else None) for q, i in reached),
    )  # fmt: skip


def delay_shift(delay_s: Floats, arrived: Ints, group: Strings) -> DelayShift | None:
    """Tests whether the groups' labels arrive equally fast.

    Args:
      delay_s: as in `delay_curve`, shape (n,).
      arrived: as there, shape (n,).
      group: of each request, shape (n,).

    Returns:
      None for fewer than two groups with a label.
    """
    words, code = coded(group)
    compared = np.unique(code[arrived == 1])
    if len(compared) < _FEWEST:
        return None
    from statsmodels.duration.survfunc import survdiff

    chosen = np.isin(code, compared)
    try:
        chi2, p_value = survdiff(delay_s[chosen], arrived[chosen], code[chosen])
    except np.linalg.LinAlgError:
        # All labels came after the very same time: the statistic has no variance, and nothing differs.
        chi2, p_value = 0.0, 1.0
    names = tuple(words[at] for at in compared)
    return DelayShift(groups=names, chi2=float(chi2), p_value=float(p_value))


def ingestion_shift(
    event_ns: Ints, arrived_ns: Ints, group: Strings, as_of_ns: int
) -> IngestionShift | None:
    """Tests whether labels take equally long from their event to their arrival.

    Args:
      event_ns: when what each label is about happened, shape (k,).
      arrived_ns: when it arrived, by as_of, shape (k,).
      group: of each, shape (k,).
      as_of_ns: what arrived later is not known.

    Returns:
      None where fewer than two groups have labels that are old enough, or no label has a time of its own.
    """
    delay_s = (arrived_ns - event_ns) / 1e9
    if not len(delay_s) or not delay_s.any():
        return None
    within_s = float(np.quantile(delay_s, _HORIZON))
    old = (delay_s <= within_s) & (event_ns <= as_of_ns - within_s * 1e9)
    delay_s, (names, code) = delay_s[old], coded(group[old])
    many = np.flatnonzero(np.bincount(code, minlength=len(names)) >= _FEWEST).tolist()
    if len(many) < _FEWEST:
        return None
    from scipy.stats import ks_2samp

    others = "the others" if len(many) > _FEWEST else names[many[1]]
    ones = many if len(many) > _FEWEST else many[:1]
    tried = []
    for at in ones:
        one = code == at
        found = ks_2samp(delay_s[one], delay_s[~one], method="asymp")
        sides = delay_s[one], delay_s[~one]
        tried.append(
            IngestionShift(
                groups=(names[at], others),
                n=(len(sides[0]), len(sides[1])),
                median_s=(float(np.median(sides[0])), float(np.median(sides[1]))),
                within_s=within_s,
                distance=float(found.statistic),
                p_value=min(float(found.pvalue) * len(ones), 1.0),
            )
        )
    return min(tried, key=lambda shift: shift.p_value)

"""How long labels take to arrive, and whether that changed.

A request without a label yet says only that its delay is longer than its age: it is censored on the
right at `as_of`. The delays of the labels that arrived, taken alone, look shorter the younger the
traffic is, and comparing them raises an alarm every time. So the curve is Kaplan and Meier's (1958,
Greenwood's standard errors; `statsmodels.duration.survfunc.SurvfuncRight`), and two groups are compared
by the log-rank test (`survdiff`). A label that never comes (a cancelled flight) keeps a curve above 0.
Under `fixed maturity` verdicts (`store.labels.join_labels`) the curve says which maturity loses few.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.core.tensors import Floats, Ints, Strings

SHARES = (0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
"""Of the labels: the delays by which so many have arrived."""
_POINTS = 200
_FEWEST = 2


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
    names = sorted({str(g) for g in group[arrived == 1].tolist()})
    if len(names) < _FEWEST:
        return None
    from statsmodels.duration.survfunc import survdiff

    chosen = np.isin(group.astype(str), names)
    chi2, p_value = survdiff(delay_s[chosen], arrived[chosen], group[chosen].astype(str))
    return DelayShift(groups=tuple(names), chi2=float(chi2), p_value=float(p_value))

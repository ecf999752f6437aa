"""Paired exceedance of a latency quantile: has the candidate's p99 grown by more than a ratio?

With a cut c fixed before the tested requests are seen,

    x = 1[candidate > c] − 1[(1 + δ)·baseline > c]

has a mean above 0 exactly where the candidate exceeds c more often than the baseline made slower by
δ would. With c near (1 + δ)·p99 of the baseline that compares the quantiles themselves. The test is
against 0 and pairs cancel what both versions share. Comparing with a quantile that is estimated and
then taken as known ("plug-in") was left out: its error rate is several times its level, because
the estimate's own noise counts as harm.

Latency is about serving, never only about these requests: `claim: process` always.
"""

from __future__ import annotations

import math

import numpy as np

from harness.core.errors import GateError
from harness.core.tensors import Bools, Floats
from harness.judge.metrics import Values

_EXPECTED_BEYOND = 5.0


def exceedance_cut(earlier_s: Floats, ratio: float, quantile: float = 0.99) -> float:
    """The cut, from baseline latencies that are not tested.

    Args:
      earlier_s: seconds, each finite and > 0, shape (n,); enough that five lie beyond the quantile.
      ratio: tolerated growth δ of the quantile, > 0 (0.1 = ten per cent).
      quantile: in (0, 1).

    Returns:
      (1 + δ) times the empirical quantile, seconds.

    Raises:
      GateError: too few or impossible latencies, or a ratio or quantile without meaning.
    """
    _check_ratio(ratio)
    if not 0.0 < quantile < 1.0:
        raise _error(f"a quantile of {quantile:g}", "It must lie between 0 and 1.")
    least = math.ceil(_EXPECTED_BEYOND / (1.0 - quantile) * (1.0 - 1e-12))
    if len(earlier_s) < least:
        what = f"{len(earlier_s):,} earlier latencies for the {quantile:.1%} quantile"
        raise _error(what, f"Plan with at least {least:,}.")
    if not np.all(np.isfinite(earlier_s) & (earlier_s > 0.0)):
        raise _error("an earlier latency that is not above 0", "Measure it again.")
    return (1.0 + ratio) * float(np.quantile(earlier_s, quantile))


def exceedances(
    baseline_s: Floats, candidate_s: Floats, candidate_failed: Bools, *, cut_s: float, ratio: float
) -> Values:
    """One value a pair, in {−1, 0, 1}.

    Args:
      baseline_s: seconds, NaN = not measured, shape (n,).
      candidate_s: the same requests, shape (n,).
      candidate_failed: the candidate gave no answer where the baseline did, shape (n,); such a pair
        counts as the worst for whatever is to be proven.
      cut_s: from `exceedance_cut`, of other requests.
      ratio: the same δ.

    Returns:
      Values; a pair that either side did not measure (or measured as not above 0) does not enter.

    Raises:
      GateError: lengths that differ, a cut that is not above 0, a ratio without meaning.
    """
    _check_ratio(ratio)
    if not 0.0 < cut_s < math.inf:
        raise _error(f"a cut of {cut_s:g} s", "Take it from `exceedance_cut`.")
    if not len(baseline_s) == len(candidate_s) == len(candidate_failed):
        what = f"{len(baseline_s)}, {len(candidate_s)} and {len(candidate_failed)} values"
        raise _error(what, "They must belong to the same pairs.")
    sound = np.isfinite(baseline_s) & (baseline_s > 0.0)
    measured = sound & np.isfinite(candidate_s) & (candidate_s > 0.0) & ~candidate_failed
    failed = sound & candidate_failed
    with np.errstate(invalid="ignore"):
        over = (candidate_s > cut_s).astype(np.float64) - ((1.0 + ratio) * baseline_s > cut_s)
    out = int(np.count_nonzero(~measured & ~failed))
    return Values(
        x=np.where(measured, over, np.nan),
        failed=failed,
        left_out=(("not_measured", out),) if out else (),
    )


def _check_ratio(ratio: float) -> None:
    if not 0.0 < ratio < math.inf:
        raise _error(f"a tolerated growth of {ratio:g}", "It must be above 0.")


def _error(what: str, remedy: str) -> GateError:
    return GateError("judge, latency_p99", what, remedy)

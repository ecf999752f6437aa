"""Latency of single requests: a typical ratio, and a quantile against a cut-off fixed before.

Both versions answer the same request, singly and in an order drawn per pair, so what they share
(the request's size, a busy machine) cancels. The ratio is tested by its logarithm, whose mean is 0
where the versions are alike whichever is named first; it is cut to [−1, 1], a factor of e, as one
stalled request must not speak for all. What happens beyond that is the quantile's (exceedance.py).

Latency is about serving, never only about these requests: N = ∞ always.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from harness.core.errors import GateError
from harness.core.observations import LatencySample
from harness.core.policies import METRIC_BOUNDS, Guardrail, Metric
from harness.core.tensors import Bools, Floats
from harness.judge.exceedance import exceedance_cut, exceedances
from harness.judge.metrics import Values


def log_ratios(baseline_s: Floats, candidate_s: Floats, candidate_failed: Bools) -> Values:
    """Log of candidate's over baseline's time, cut to its bounds.

    Args:
      baseline_s: seconds, NaN = not measured, shape (n,).
      candidate_s: the same requests, shape (n,).
      candidate_failed: the candidate gave no answer where the baseline did, shape (n,).

    Returns:
      Values; a pair that either side did not measure (or measured as not above 0) does not enter.

    Raises:
      GateError: lengths that differ.
    """
    if not len(baseline_s) == len(candidate_s) == len(candidate_failed):
        what = f"{len(baseline_s)}, {len(candidate_s)} and {len(candidate_failed)} values"
        raise GateError("judge, latency_ratio", what, "They must belong to the same pairs.")
    lo, hi = METRIC_BOUNDS[Metric.LATENCY_RATIO]
    sound = np.isfinite(baseline_s) & (baseline_s > 0.0)
    measured = sound & np.isfinite(candidate_s) & (candidate_s > 0.0) & ~candidate_failed
    failed = sound & candidate_failed
    x = np.full(len(baseline_s), np.nan)
    x[measured] = np.clip(np.log(candidate_s[measured] / baseline_s[measured]), lo, hi)
    out = int(np.count_nonzero(~measured & ~failed))
    return Values(x=x, failed=failed, left_out=(("not_measured", out),) if out else ())


class LatencyValues:
    """Turns samples into every latency guardrail's values, the first of them into the cut-offs.

    Only baseline latencies of the planning part are looked at, and no guardrail is tested on it.
    """

    def __init__(self, guardrails: Sequence[Guardrail], planning: int) -> None:
        """Starts without a sample.

        Args:
          guardrails: the latency guardrails of a policy.
          planning: sound baseline latencies that fix the cut-offs which the policy leaves open.
        """
        self._guardrails = tuple(guardrails)
        self._open = [
            g for g in guardrails if g.metric is Metric.LATENCY_P99 and g.cutoff_s is None
        ]
        self._planning = planning if self._open else 0
        self._earlier: list[float] = []
        self._cuts = {g.name: g.cutoff_s for g in guardrails if g.cutoff_s is not None}
        self.n_planning = 0
        """Pairs that planned and are no evidence."""

    def values(self, sample: LatencySample) -> dict[str, Values]:
        """Every guardrail's values of the pairs of a sample that are evidence; none while planning.

        Raises:
          GateError: latencies that cannot fix a cut-off.
        """
        start = self._plan(sample.baseline_s)
        baseline, candidate = sample.baseline_s[start:], sample.candidate_s[start:]
        if not len(baseline):
            return {}
        failed: Bools = np.isfinite(baseline) & np.isnan(candidate)
        return {g.name: self._values(g, baseline, candidate, failed) for g in self._guardrails}

    def _plan(self, baseline_s: Floats) -> int:
        """Takes what is still missing for the cut-offs; how many pairs of the sample that uses."""
        missing = self._planning - len(self._earlier)
        if missing <= 0:
            return 0
        sound = np.flatnonzero(np.isfinite(baseline_s) & (baseline_s > 0.0))
        taken = sound[:missing]
        self._earlier += baseline_s[taken].tolist()
        used = int(taken[-1]) + 1 if len(taken) == missing else len(baseline_s)
        self.n_planning += used
        if len(self._earlier) == self._planning:
            earlier = np.asarray(self._earlier, np.float64)
            self._cuts |= {g.name: exceedance_cut(earlier, g.margin) for g in self._open}
        return used

    def _values(
        self, guardrail: Guardrail, baseline: Floats, candidate: Floats, failed: Bools
    ) -> Values:
        if guardrail.metric is Metric.LATENCY_RATIO:
            return log_ratios(baseline, candidate, failed)
        cut, ratio = self._cuts[guardrail.name], guardrail.margin
        return exceedances(baseline, candidate, failed, cut_s=cut, ratio=ratio)

    def cuts(self) -> dict[str, float]:
        """Guardrail → seconds that count as slow, where they are fixed by now."""
        return dict(self._cuts)

    def state(self) -> dict[str, Any]:
        """Plain JSON values from which `restore` continues identically."""
        return {
            "earlier": list(self._earlier), "cuts": dict(self._cuts), "planned": self.n_planning,
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> Self:
        """Continues from `state` of the same guardrails."""
        self._earlier = [float(value) for value in state["earlier"]]
        self._cuts = {str(name): float(cut) for name, cut in state["cuts"].items()}
        self.n_planning = int(state["planned"])
        return self

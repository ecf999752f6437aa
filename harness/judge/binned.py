"""One guardrail over bins of the baseline's score: in none of them may the mean pass its margin.

Calibration is a statement about each level of the score, so the candidate's residuals y − p̂ are
tested bin by bin. Bins are fixed by the *baseline's* score: sorted by the candidate's own, a
candidate that scores everybody alike would have one bin and look calibrated.

Rollback averages the bins' e-values, which is an e-value whatever their dependence (Vovk & Wang 2021,
Prop. 3.1); promotion needs every bin, an intersection–union test. Bins hold equal shares of the
traffic: with equal widths most requests share one bin and the others could never be proven. Where
they end is learnt from the baseline's scores of the first requests, which are then no evidence, so
that the bins are fixed before anything is tested; labels are never looked at for it. A request that
failed or has no score fixes nothing: wherever it stands, it counts as the worst of every bin that it
may belong to, as harm could hide behind a score that is missing.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Self

import numpy as np

from harness.core.policies import Direction
from harness.core.tensors import Bools, Floats
from harness.core.verdicts import PathPoint
from harness.judge.looks import Looks, point_of
from harness.judge.track import Track

FIRST_OF_BIN = 25
"""Requests that fix the bins, a bin."""


class BinnedTrack:
    """Evidence of one guardrail in bins; answers what `Track` answers.

    Guarantee: if no bin's mean is beyond the margin, the rollback e-value reaches 1/α at any look
    with probability ≤ α; if one is, the promotion e-value does.
    """

    def __init__(
        self,
        *,
        direction: Direction,
        margin: float,
        bounds: tuple[float, float],
        plan: tuple[float | None, float | None] = (None, None),
        alphas: tuple[float, float],
        bins: int,
    ) -> None:
        """Starts without bins and without evidence.

        Args:
          direction: which side of the margin is harm.
          margin: largest tolerated mean of a bin, inside the bounds.
          bounds: (lo, hi) of the observations.
          plan: (gap, second moment) as in `betting.one_sided`.
          alphas: (promotion, rollback) levels of the interval's ends.
          bins: at most so many; fewer where scores repeat.
        """
        self._new = partial(
            Track, direction=direction, margin=margin, bounds=bounds, plan=plan, sliced=True
        )
        self._bounds = bounds
        self._alphas = alphas
        self._bins = bins
        self._scores: list[float] = []
        self._edges: Floats | None = None
        self._tracks: list[Track] = []
        self._looks = Looks()
        self._early = 0
        """Requests that failed before the bins were fixed: in each bin the worst, once there are bins."""
        self.n = 0
        """Requests tested, failed ones among them."""
        self.n_failed = 0
        """Requests that count as the worst for whatever is to be proven."""
        self.n_fixing = 0
        """Requests that fixed the bins and are no evidence."""

    def add(self, x: Floats, failed: Bools, score: Floats) -> None:
        """Adds requests; one look follows.

        Args:
          x: values in the bounds, shape (n,), NaN = does not enter unless it failed.
          failed: shape (n,); counts as the worst in its bin.
          score: the baseline's, shape (n,); NaN = in no bin, which counts as the worst in each.
        """
        enters = failed | ~np.isnan(x)
        x, failed, score = x[enters], failed[enters], score[enters]
        start = self._fix(score, failed)
        if self._edges is None or start == len(x):
            return
        x, failed, score = x[start:], failed[start:], score[start:]
        lost: Bools = np.isnan(score)
        at = np.searchsorted(self._edges, score, side="right")
        for number, track in enumerate(self._tracks):
            mine = (at == number) & ~lost
            worst = int(np.count_nonzero((mine & failed) | lost))
            track.add(x[mine & ~failed], worst)
        self.n += len(x)
        self.n_failed += int(np.count_nonzero(failed | lost))
        if self._looks.due(self.n):
            self._looks.keep(self.point())

    def _fix(self, score: Floats, failed: Bools) -> int:
        """Learns where the bins end; how many of these requests stand before that."""
        if self._edges is not None:
            return 0
        sound = np.flatnonzero(~np.isnan(score) & ~failed)
        needed = FIRST_OF_BIN * self._bins - len(self._scores)
        taken = sound[:needed]
        self._scores += score[taken].tolist()
        used = int(taken[-1]) + 1 if len(taken) == needed else len(score)
        self.n_fixing += len(taken)
        self._early += used - len(taken)
        self.n += used - len(taken)
        self.n_failed += used - len(taken)
        if len(taken) == needed:
            self._start(_edges(np.asarray(self._scores, np.float64), self._bins))
            self._scores = []
            for track in self._tracks:
                track.add(np.empty(0), self._early)
        return used

    def _start(self, edges: Floats) -> None:
        self._edges = edges
        bins = len(edges) + 1
        alphas = (self._alphas[0], self._alphas[1] / bins)
        self._tracks = [self._new(alphas=alphas) for _ in range(bins)]

    def log_e_rollback(self) -> float:
        """Natural log of the average over bins."""
        if not self._tracks:
            return 0.0
        logs = [track.log_e_rollback() for track in self._tracks]
        return float(np.logaddexp.reduce(logs)) - math.log(len(logs))

    def log_e_promote(self) -> float:
        """Natural log of the smallest bin's: every one must be proven."""
        return min((track.log_e_promote() for track in self._tracks), default=0.0)

    def point(self) -> PathPoint:
        """The evidence now."""
        return point_of(self)

    def path(self) -> tuple[PathPoint, ...]:
        """Looks kept for a report, the last one among them."""
        return self._looks.until(self.point())

    def interval(self) -> tuple[float, float]:
        """Where the mean of every bin lies; once a bin is proven beyond the margin, where its does.

        The ends that prove a promotion hold at α_P, those that prove harm at α_R over all bins.
        """
        if not self._tracks:
            return self._bounds
        worst = self._worst()
        lower, upper = self._tracks[worst].interval()
        if self._tracks[worst].log_e_rollback() >= math.log(len(self._tracks) / self._alphas[1]):
            return lower, upper
        ends = [track.interval() for track in self._tracks]
        return min(lower for lower, _ in ends), max(upper for _, upper in ends)

    def _worst(self) -> int:
        return int(np.argmax([track.log_e_rollback() for track in self._tracks]))

    def words(self) -> str:
        """Which bins there are, and which of them speaks most for harm."""
        if self._edges is None:
            return f"the first {self.n_fixing:,} requests are too few to fix the bins"
        ends = ["0", *(f"{edge:.3g}" for edge in self._edges), "1"]
        worst = self._worst()
        lower, upper = self._tracks[worst].interval()
        return (
            f"{len(self._tracks)} bins of the baseline's score, fixed by {self.n_fixing:,} requests "
            f"that are no evidence; farthest: {ends[worst]} to {ends[worst + 1]}, "
            f"[{lower:.4g}, {upper:.4g}] over {self._tracks[worst].n:,} requests"
        )

    def state(self) -> dict[str, Any]:
        """Plain JSON values from which `restore` continues identically."""
        return {
            "n": self.n,
            "n_failed": self.n_failed,
            "n_fixing": self.n_fixing,
            "early": self._early,
            "scores": list(self._scores),
            "edges": None if self._edges is None else self._edges.tolist(),
            "tracks": [track.state() for track in self._tracks],
            "looks": self._looks.state(),
        }

    def restore(self, state: dict[str, Any]) -> Self:
        """Continues from `state` of a track with the same arguments."""
        self.n = int(state["n"])
        self.n_failed = int(state["n_failed"])
        self.n_fixing = int(state["n_fixing"])
        self._early = int(state["early"])
        self._scores = [float(score) for score in state["scores"]]
        self._looks.restore(state["looks"])
        if state["edges"] is not None:
            self._start(np.asarray(state["edges"], np.float64))
            for track, saved in zip(self._tracks, state["tracks"], strict=True):
                track.restore(saved)
        return self


def _edges(scores: Floats, bins: int) -> Floats:
    """Inner ends of bins that hold about equal shares; fewer where scores repeat.

    Args:
      scores: shape (n,), n ≥ 1, no NaN.
      bins: at most so many.

    Returns:
      Ascending, shape (B − 1,); a score equal to an edge lies above it.
    """
    values, counts = np.unique(scores, return_counts=True)
    share = len(scores) / bins
    edges: list[float] = []
    held = 0
    for value, count, before in zip(values[1:], counts[:-1], values[:-1], strict=True):
        held += int(count)
        if held >= share:
            edges.append(0.5 * (float(before) + float(value)))
            held = 0
    # What is left above the last edge may be too little for a bin of its own.
    if edges and held + int(counts[-1]) < 0.5 * share:
        edges.pop()
    return np.asarray(edges, np.float64)

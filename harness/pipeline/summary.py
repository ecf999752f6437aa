"""What the saved pairs say besides the verdict: flips, slices, latency, the most changed requests.

Read from pairs/*.parquet one chunk at a time, so memory stays flat and a resumed run gives the
same figures.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.core.observations import Outcome
from harness.core.tensors import Bools, Floats

Pairs = dict[str, npt.NDArray[Any]]
COLUMNS = (
    "request_id", "seq", "window", "batch", "ts_ns",
    *(f"{leg}_{what}" for what in ("outcome", "latency_s", "score", "decision")
      for leg in ("baseline", "candidate")),
)  # fmt: skip
"""Columns of the pairs table that a summary reads, besides those of the context."""
MOST_CHANGED = 10
MOST_SLICES = 200
"""Values of a column that are listed, the most frequent first."""


@dataclass(slots=True)
class _Slice:
    """Running sums of one context value in one window."""

    n: int = 0
    baseline_positive: float = 0.0
    candidate_positive: float = 0.0
    decided: int = 0
    score_shift: float = 0.0
    scored: int = 0

    def add(self, part: _Slice) -> None:
        """Adds the sums of further requests."""
        self.n += part.n
        self.baseline_positive += part.baseline_positive
        self.candidate_positive += part.candidate_positive
        self.decided += part.decided
        self.score_shift += part.score_shift
        self.scored += part.scored


def _tallied(pairs: Pairs, groups: npt.NDArray[Any]) -> Iterator[tuple[str, _Slice]]:
    """Sums by group, in one pass however many groups there are.

    Args:
      pairs: a chunk of n rows.
      groups: the group of each row, shape (n,).
    """
    values = groups.tolist()
    names = sorted(set(values))
    place = {name: i for i, name in enumerate(names)}
    code = np.fromiter(map(place.__getitem__, values), np.int64, len(values))
    old = pairs["baseline_decision"].astype(np.float64)
    new = pairs["candidate_decision"].astype(np.float64)
    shift = pairs["candidate_score"] - pairs["baseline_score"]
    both, scored = ~(np.isnan(old) | np.isnan(new)), ~np.isnan(shift)

    def sums(values: Floats, known: Bools) -> Floats:
        return np.bincount(code[known], values[known], len(names)).astype(np.float64)

    ones = np.ones(len(code))
    n, decided, shifts = sums(ones, ones > 0), sums(ones, both), sums(ones, scored)
    positive, positive_new, shifted = sums(old, both), sums(new, both), sums(shift, scored)
    for k, name in enumerate(names):
        yield name, _Slice(
            n=int(n[k]), baseline_positive=float(positive[k]), candidate_positive=float(positive_new[k]),
            decided=int(decided[k]), score_shift=float(shifted[k]), scored=int(shifts[k]),
        )  # fmt: skip


@dataclass(slots=True)
class Summary:
    """Accumulates `summary.json`; feed it every chunk once, in order."""

    cover: Sequence[str] = ()
    """Context columns whose coverage is told."""
    slices: Sequence[str] = ()
    """Context columns, besides, whose values are told one by one."""
    _windows: dict[str, _Slice] = field(default_factory=lambda: defaultdict(_Slice))
    _slices: dict[tuple[str, str], _Slice] = field(default_factory=lambda: defaultdict(_Slice))
    _outcomes: dict[str, Counter[str]] = field(
        default_factory=lambda: {"baseline": Counter(), "candidate": Counter()}
    )
    _latency: dict[str, list[Floats]] = field(
        default_factory=lambda: {"baseline": [], "candidate": []}
    )
    _flips: Counter[str] = field(default_factory=Counter)
    _changed: dict[int, tuple[float, dict[str, object]]] = field(default_factory=dict)
    n: int = 0

    def add(self, pairs: Pairs) -> None:
        """Takes one chunk of the pairs table."""
        for leg in ("baseline", "candidate"):
            codes, counts = np.unique(pairs[f"{leg}_outcome"], return_counts=True)
            for code, count in zip(codes, counts, strict=True):
                self._outcomes[leg][Outcome(int(code)).name] += int(count)
            self._latency[leg].append(_batch_latencies(pairs, leg))
        for name, part in _tallied(pairs, pairs["window"]):
            self._windows[name].add(part)
        for column in dict.fromkeys((*self.cover, *self.slices)):
            if f"cx:{column}" in pairs:
                for name, part in _tallied(pairs, pairs[f"cx:{column}"]):
                    self._slices[column, name].add(part)
        self._count_flips(pairs)
        self._keep_most_changed(pairs)
        self.n += len(pairs["seq"])

    def _count_flips(self, pairs: Pairs) -> None:
        old, new = pairs["baseline_decision"], pairs["candidate_decision"]
        both = ~(np.isnan(old) | np.isnan(new))
        self._flips["n"] += int(both.sum())
        self._flips["up"] += int((new > old)[both].sum())
        self._flips["down"] += int((new < old)[both].sum())

    def _keep_most_changed(self, pairs: Pairs) -> None:
        change = np.abs(pairs["candidate_score"] - pairs["baseline_score"])
        change = np.where(np.isnan(change), -1.0, change)
        # By the sequence number where changes are equal, so that the list does not depend on chunk
        # borders; a request may be in both windows, so twice as many are looked at.
        for i in np.lexsort((pairs["seq"], -change))[: 2 * MOST_CHANGED]:
            if change[i] <= 0:
                break
            row = {
                "request_id": str(pairs["request_id"][i]),
                "ts_ns": int(pairs["ts_ns"][i]),
                "baseline_score": float(pairs["baseline_score"][i]),
                "candidate_score": float(pairs["candidate_score"][i]),
                "baseline_decision": float(pairs["baseline_decision"][i]),
                "candidate_decision": float(pairs["candidate_decision"][i]),
                "context": {c[3:]: str(pairs[c][i]) for c in pairs if c.startswith("cx:")},
            }
            seq = int(pairs["seq"][i])
            if seq not in self._changed or self._changed[seq][0] < change[i]:
                self._changed[seq] = (float(change[i]), row)
        ranked = sorted(self._changed.items(), key=lambda item: (-item[1][0], item[0]))
        self._changed = dict(ranked[:MOST_CHANGED])

    def finish(self, traffic_counts: dict[str, dict[str, int]]) -> dict[str, object]:
        """The content of summary.json.

        Args:
          traffic_counts: per context column, how many selected requests hold each value.
        """
        return {
            "n": self.n,
            "latency": {leg: _quantiles(parts) for leg, parts in self._latency.items()},
            "flips": self._flip_summary(),
            "decision_rate": {
                name: {
                    "baseline": _share(w.baseline_positive, w.decided),
                    "candidate": _share(w.candidate_positive, w.decided),
                    "n": w.n,
                }
                for name, w in self._windows.items()
            },
            "changed": [row for _, row in self._changed.values()],
            "outcomes": {leg: dict(counts) for leg, counts in self._outcomes.items()},
            "slices": list(self._listed()),
            "coverage": list(self._coverage(traffic_counts)),
        }

    def _listed(self) -> Iterator[dict[str, object]]:
        """The most frequent values of each column, by name."""
        for column in dict.fromkeys(column for column, _ in self._slices):
            ours = [(v, s) for (c, v), s in self._slices.items() if c == column]
            ours.sort(key=lambda entry: (-entry[1].n, entry[0]))
            for value, s in sorted(ours[:MOST_SLICES], key=lambda entry: entry[0]):
                yield {
                    "column": column,
                    "value": value,
                    "n": s.n,
                    "baseline_rate": _share(s.baseline_positive, s.decided),
                    "candidate_rate": _share(s.candidate_positive, s.decided),
                    "score_shift": _share(s.score_shift, s.scored),
                }

    def _flip_summary(self) -> dict[str, object]:
        up, down = self._flips["up"], self._flips["down"]
        return {
            "n": self._flips["n"],
            "changed": up + down,
            "to_positive": up,
            "to_negative": down,
            "mcnemar_p": mcnemar_p(up, down),
        }

    def _coverage(self, traffic_counts: dict[str, dict[str, int]]) -> Iterable[dict[str, object]]:
        for column in self.cover:
            counts = traffic_counts.get(column, {})
            total = sum(counts.values())
            most = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:MOST_SLICES]
            for value, count in sorted(most):
                judged = self._slices[column, value].n if (column, value) in self._slices else 0
                yield {
                    "column": column,
                    "value": value,
                    "traffic_share": _share(count, total),
                    "judged_share": _share(judged, self.n),
                    "judged": judged,
                }


def mcnemar_p(up: int, down: int) -> float:
    """Exact two-sided McNemar test: changes in both directions are equally likely.

    Written out, because statsmodels' own takes 0.4 s to import, in every gate.
    """
    if not up + down:
        return 1.0
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(up, down), up + down, 0.5)))


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _batch_latencies(pairs: Pairs, leg: str) -> Floats:
    """One figure a batch: its service time a request, which all of its requests share."""
    _, first = np.unique(pairs["batch"], return_index=True)
    latency = pairs[f"{leg}_latency_s"][first].astype(np.float64)
    return latency[~np.isnan(latency)]


def _quantiles(parts: list[Floats]) -> dict[str, float | int | None]:
    times = np.concatenate(parts) if parts else np.empty(0)
    if not len(times):
        return {"p50_ms": None, "p99_ms": None, "batches": 0}
    p50, p99 = np.quantile(times, [0.5, 0.99]) * 1e3
    return {"p50_ms": float(p50), "p99_ms": float(p99), "batches": len(times)}

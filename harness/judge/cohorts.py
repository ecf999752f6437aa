"""Delayed labels: fixed maturity, and error rates that are split over maturities.

"Labels so far" are the fast labels, and fast labels are another population: defaults come late, and
so do the worse arm's. A unit therefore enters a label test exactly at its maturity, with the label
that is there by then or with none; a later one is ignored and counted.

E-values of guardrails on one clock (one maturity) live in one filtration and may be averaged. On
different clocks they do not: at any instant, one knows outcomes of requests the other does not yet
hold, and their average is no e-process (Choe & Ramdas 2402.09698). Each clock gets its own share of
the rollback error rate instead, by the union bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from harness.core.errors import PolicyError, TrafficError
from harness.core.tensors import Array, Bools, Floats, Ints
from harness.judge.exposures import Units

_Row = tuple[int, bool, float, float | None]
"""First request, candidate's arm, π of its step, label or none yet."""


class Cohorts:
    """Units of one label clock: exposed, labelled or not, matured once."""

    def __init__(self, maturity_s: float) -> None:
        """Starts without units.

        Args:
          maturity_s: age at which a unit enters, with its label or without, > 0.

        Raises:
          PolicyError: an age that is not above 0.
        """
        if not maturity_s > 0.0:
            what = f"a label maturity of {maturity_s:g} s"
            raise PolicyError("maturity", what, "Say how old a request must be for its label: 24h.")
        self._maturity_ns = round(maturity_s * 1e9)
        self._open: dict[str, _Row] = {}
        self._until_ns: int | None = None
        self.ignored: dict[str, int] = {}
        """Labels that did not count, by reason: late_or_unknown, second_label, and of these contradicting."""
        self._silent: set[str] = set()
        self._doubtful: set[str] = set()
        self.unlabelled: list[int] = [0, 0]
        """Units that matured without a label, (baseline's arm, candidate's)."""
        self.labelled: list[int] = [0, 0]
        """Units that matured with one."""
        self.contradicted: list[int] = [0, 0]
        """Of these: a later label said otherwise."""

    def expose(self, units: Units, silent: Bools | None = None) -> None:
        """Opens units.

        Args:
          units: first seen now, later than all before.
          silent: those of which no label is awaited, as their first request asked for other outputs,
            shape (n,); None = none of them.
        """
        if silent is not None:
            self._silent |= {units.unit[i] for i in np.flatnonzero(silent).tolist()}
        rows = zip(
            units.unit,
            units.first_ns.tolist(),
            units.candidate.tolist(),
            units.propensity.tolist(),
            strict=True,
        )
        for name, first_ns, candidate, propensity in rows:
            self._open[name] = (first_ns, candidate, propensity, None)

    def label(self, unit: Array, value: Floats, ts_ns: Ints) -> None:
        """Takes labels in, already turned into the guardrail's value (a loss).

        What counts is decided by times alone, so that batches change nothing: a unit's first label
        that became known from its first request on and before its maturity.

        Args:
          unit: names, shape (k,).
          value: within the guardrail's bounds, no NaN, shape (k,).
          ts_ns: when each label became known, shape (k,).

        Raises:
          TrafficError: lengths differ or a value is NaN.
        """
        if not len(unit) == len(value) == len(ts_ns):
            what = f"{len(value)} labels for {len(unit)} units at {len(ts_ns)} times"
            raise TrafficError("labels", what, "Give one of each.")
        if np.isnan(value).any():
            raise TrafficError("labels", "a label is NaN", "Leave out what is not known yet.")
        order = np.argsort(ts_ns, kind="stable")
        columns = (unit[order].tolist(), value[order].tolist(), ts_ns[order].tolist())
        for name, y, at in zip(*columns, strict=True):
            self._label_one(name, y, at)

    def _label_one(self, name: str, y: float, at_ns: int) -> None:
        found = self._open.get(name)
        if found is None:
            # Closed units are forgotten, so a late label and a stranger's look alike from here.
            self._ignore("late_or_unknown")
            return
        first_ns, candidate, propensity, label = found
        if not first_ns <= at_ns < first_ns + self._maturity_ns:
            # By its own time the unit was closed or not yet seen, whichever batch it came in.
            self._ignore("late_or_unknown")
        elif label is not None:
            self._ignore("second_label")
            if y != label:
                self._ignore("contradicting")
                self._doubtful.add(name)
        else:
            self._open[name] = (first_ns, candidate, propensity, y)

    def _ignore(self, reason: str) -> None:
        self.ignored[reason] = self.ignored.get(reason, 0) + 1

    def mature(self, until_ns: int, guardrail: str) -> Units:
        """Hands out units that are old enough, each once, in order of first request.

        Args:
          until_ns: all labels known by this instant have been added.
          guardrail: name under which the values are returned.

        Returns:
          Units with their labels' values; those without a label are counted and left out, those of
          which none was awaited only left out.
        """
        done = self._due(until_ns)
        for name, _ in done:
            del self._open[name]
        for name, (_, candidate, _, label) in done:
            if label is not None:
                self.labelled[candidate] += 1
                self.contradicted[candidate] += name in self._doubtful
            elif name not in self._silent:
                self.unlabelled[candidate] += 1
            self._silent.discard(name)
            self._doubtful.discard(name)
        return _labelled(done, guardrail)

    def due(self, until_ns: int, guardrail: str) -> Units:
        """What `mature` would hand out; nothing is changed."""
        return _labelled(self._due(until_ns), guardrail)

    def _due(self, until_ns: int) -> list[tuple[str, _Row]]:
        done = []
        for name, row in self._open.items():
            if row[0] + self._maturity_ns > until_ns:
                break
            done.append((name, row))
        return done

    def state(self) -> dict[str, Any]:
        """Plain JSON values from which `restore` continues identically."""
        return {
            "open": [[name, *row] for name, row in self._open.items()],
            "ignored": dict(self.ignored),
            "unlabelled": list(self.unlabelled),
            "labelled": list(self.labelled),
            "contradicted": list(self.contradicted),
            "silent": sorted(self._silent),
            "doubtful": sorted(self._doubtful),
        }

    def restore(self, state: dict[str, Any]) -> Self:
        """Continues from `state` of cohorts with the same maturity."""
        self._open = {name: (first, arm, pi, y) for name, first, arm, pi, y in state["open"]}
        self.ignored = dict(state["ignored"])
        self.unlabelled, self.labelled = list(state["unlabelled"]), list(state["labelled"])
        self.contradicted = list(state["contradicted"])
        self._silent, self._doubtful = set(state["silent"]), set(state["doubtful"])
        return self


def _labelled(rows: Sequence[tuple[str, _Row]], guardrail: str) -> Units:
    kept = [(name, *row) for name, row in rows if row[3] is not None]
    return Units(
        first_ns=np.array([row[1] for row in kept], np.int64),
        unit=tuple(row[0] for row in kept),
        candidate=np.array([row[2] for row in kept], np.bool_),
        propensity=np.array([row[3] for row in kept], np.float64),
        values={guardrail: np.array([row[4] for row in kept], np.float64)},
    )


def clock_levels(weights: Mapping[str, float], alpha_rollback: float) -> dict[str, float]:
    """Splits the rollback error rate over clocks.

    Args:
      weights: clock → its share, > 0; need not sum to 1. No clocks give no levels.
      alpha_rollback: to be split, in (0, 1).

    Returns:
      Clock → level; they sum to alpha_rollback.

    Raises:
      PolicyError: a share or a level outside its range.
    """
    if not 0.0 < alpha_rollback < 1.0:
        what = f"{alpha_rollback:g} is not in (0, 1)"
        raise PolicyError("alpha.rollback", what, "Use a level like 0.05.")
    if not all(weight > 0.0 for weight in weights.values()):
        raise PolicyError("clocks", f"a share in {dict(weights)} is not above 0", "Use shares > 0.")
    total = math.fsum(weights.values())
    return {clock: alpha_rollback * weight / total for clock, weight in weights.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One guardrail's rollback evidence while a batch entered, look by look."""

    before: float
    """Natural log of E before the batch."""
    at_ns: Ints
    """First request of each unit that was a look, not decreasing, shape (k,)."""
    log_e: Floats
    """Natural log of E then, shape (k,)."""

    @classmethod
    def of(cls, before: float, parts: Sequence[tuple[Ints, Floats]]) -> Self:
        """Joins parts in order.

        Args:
          before: natural log of E before them.
          parts: (first requests, natural log of E), shape (k,) each.
        """
        times = [np.zeros(0, np.int64), *(at for at, _ in parts)]
        logs = [np.zeros(0), *(log_e for _, log_e in parts)]
        return cls(before=before, at_ns=np.concatenate(times), log_e=np.concatenate(logs))

    def until(self, at_ns: Ints) -> Floats:
        """Natural log of E when everything up to each instant had entered."""
        known = np.concatenate([[self.before], self.log_e])
        return np.asarray(known[np.searchsorted(self.at_ns, at_ns, side="right")], np.float64)


def first_rejection(
    traces: Mapping[str, Trace], level: float
) -> tuple[int, dict[str, float]] | None:
    """The first look at which the average of one clock's e-values proves harm.

    P(there ever is one on any clock while nothing is harmful) ≤ the sum of the clocks' levels.

    Args:
      traces: guardrail → its evidence; all of one clock.
      level: of the clock.

    Returns:
      First request of the unit at that look, and guardrail → natural log of its e-value then; None
      where there is no such look.
    """
    if not traces:
        return None
    instants = np.unique(np.concatenate([trace.at_ns for trace in traces.values()]))
    logs = {name: trace.until(instants) for name, trace in traces.items()}
    averages = np.logaddexp.reduce(list(logs.values()), axis=0) - math.log(len(logs))
    crossed = averages >= -math.log(level)
    if not crossed.any():
        return None
    first = int(crossed.argmax())
    return int(instants[first]), {name: float(values[first]) for name, values in logs.items()}

"""Live units: first seen, watched for a fixed time, closed once.

A unit belongs to the arm and the step of its first request. Its value is the mean over requests
that arrive within `maturity_s` of that one; then it is closed and enters every test, with the π of
its step. What comes later, or from the other arm, is ignored and counted: a user who is tested on
every request, or whenever a ramp moves him, gave 22–27 % false rollbacks.

Memory: a row for each open unit, and the name of each closed one, which must not enter twice. Where
each request is a unit by itself no name comes again, and none is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from harness.core.errors import TrafficError
from harness.core.tensors import Array, Bools, Floats, Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """Live requests in arrival order, as columns."""

    ts_ns: Ints
    """Arrival, not decreasing, shape (n,)."""
    unit: Array
    """Name of the unit, str, never empty, shape (n,)."""
    candidate: Bools
    """Arm that answered, shape (n,)."""
    propensity: Floats
    """Probability of the candidate's arm in the step in force, shape (n,)."""
    values: dict[str, Floats]
    """Per guardrail: the request's value; NaN = failed, shape (n,)."""
    left_out: dict[str, Bools] = field(default_factory=dict)
    """Per guardrail of which some requests say nothing, as their clients asked for something else:
    which ones, shape (n,). Known before an arm was chosen, so it favours neither."""

    def __len__(self) -> int:
        """Number of requests."""
        return len(self.ts_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """Units in order of first request, as columns."""

    first_ns: Ints
    """First request, shape (u,)."""
    unit: tuple[str, ...]
    """Names, u of them."""
    candidate: Bools
    """Arm of the first request, shape (u,)."""
    propensity: Floats
    """π of the first request's step, shape (u,)."""
    values: dict[str, Floats]
    """Per guardrail: mean over the unit's requests, NaN = one of them failed; empty when opened."""
    absent: dict[str, Bools] = field(default_factory=dict)
    """Per guardrail: units none of whose requests says anything of it; when opened, whose first one."""

    def present(self, name: str) -> Self:
        """Those that enter a guardrail's test."""
        absent = self.absent.get(name)
        if absent is None or not absent.any():
            return self
        at = ~absent
        return replace(
            self, first_ns=self.first_ns[at],
            unit=tuple(unit for unit, kept in zip(self.unit, at.tolist(), strict=True) if kept),
            candidate=self.candidate[at], propensity=self.propensity[at],
            values={key: values[at] for key, values in self.values.items()},
            absent={},
        )  # fmt: skip


class Exposures:
    """Opens units at their first request and closes them at a fixed age."""

    def __init__(
        self, names: tuple[str, ...], maturity_s: float, *, names_recur: bool = True
    ) -> None:
        """Starts without units.

        Args:
          names: guardrails whose values requests carry.
          maturity_s: age at which a unit is closed, ≥ 0; 0 = its first request alone counts.
          names_recur: False = no unit comes twice, so that its name is forgotten once it is closed.

        Raises:
          TrafficError: a negative age.
        """
        if not maturity_s >= 0.0:
            what = f"a maturity of {maturity_s:g} s"
            raise TrafficError("maturity", what, "Use 0s or more.")
        self._names = names
        self._maturity_ns = round(maturity_s * 1e9)
        self._names_recur = names_recur
        self._row: dict[str, int] = {}
        self._seen = 0
        self._closed = 0
        self._first = np.zeros(0, np.int64)
        self._candidate = np.zeros(0, np.bool_)
        self._propensity = np.zeros(0)
        self._count = np.zeros(0, np.int64)
        self._sums = np.zeros((len(names), 0))
        self._silent = np.zeros((len(names), 0), np.int64)
        """Of the requests counted, those that say nothing of a guardrail."""
        self._open: list[str] = []
        self.ignored: dict[str, int] = {}
        """Requests that entered no test, by reason: after_maturity, arm_changed."""

    def __len__(self) -> int:
        """Units ever seen."""
        return self._seen

    def add(self, requests: Requests) -> Units:
        """Takes requests in.

        Args:
          requests: later than all before.

        Returns:
          The units first seen in them, without values.
        """
        known, forgotten = self._seen, self._seen - len(self._row)
        rows = np.fromiter(
            (
                self._row.setdefault(name, forgotten + len(self._row))
                for name in requests.unit.tolist()
            ),
            np.int64,
            len(requests),
        )
        self._seen = forgotten + len(self._row)
        _, first_at = np.unique(rows[rows >= known], return_index=True)
        at = np.flatnonzero(rows >= known)[first_at]
        opened = Units(
            first_ns=requests.ts_ns[at],
            unit=tuple(requests.unit[at].tolist()),
            candidate=requests.candidate[at],
            propensity=requests.propensity[at],
            values={},
            absent={name: silent[at] for name, silent in requests.left_out.items()},
        )
        self._grow(opened)
        self._count_in(requests, rows - self._closed)
        return opened

    def _grow(self, opened: Units) -> None:
        more = len(opened.unit)
        self._open.extend(opened.unit)
        self._first = np.concatenate([self._first, opened.first_ns])
        self._candidate = np.concatenate([self._candidate, opened.candidate])
        self._propensity = np.concatenate([self._propensity, opened.propensity])
        self._count = np.concatenate([self._count, np.zeros(more, np.int64)])
        self._sums = np.hstack([self._sums, np.zeros((len(self._names), more))])
        self._silent = np.hstack([self._silent, np.zeros((len(self._names), more), np.int64)])

    def _count_in(self, requests: Requests, rows: Ints) -> None:
        """Adds values of requests that count; `rows` are positions among open units, < 0 = closed."""
        n_open = len(self._first)
        if not n_open:
            self._ignore("after_maturity", len(rows))
            return
        at = np.maximum(rows, 0)
        age = requests.ts_ns - self._first[at]
        late = (rows < 0) | (age >= max(self._maturity_ns, 1))
        moved = ~late & (requests.candidate != self._candidate[at])
        self._ignore("after_maturity", int(np.count_nonzero(late)))
        self._ignore("arm_changed", int(np.count_nonzero(moved)))
        counts = ~late & ~moved
        if not self._maturity_ns:
            # Requests at the very same instant: the first in order is the unit's.
            _, leading = np.unique(at[counts], return_index=True)
            keep = np.flatnonzero(counts)[leading]
            keep = keep[self._count[at[keep]] == 0]
            self._ignore("after_maturity", int(np.count_nonzero(counts)) - len(keep))
            counts = np.zeros(len(rows), np.bool_)
            counts[keep] = True
        self._count += np.bincount(at[counts], minlength=n_open)
        for i, name in enumerate(self._names):
            values, left_out = requests.values[name], requests.left_out.get(name)
            if left_out is not None:
                values = np.where(left_out, 0.0, values)
                self._silent[i] += np.bincount(at[counts & left_out], minlength=n_open)
            self._sums[i] += np.bincount(at[counts], values[counts], n_open)

    def _ignore(self, reason: str, count: int) -> None:
        if count:
            self.ignored[reason] = self.ignored.get(reason, 0) + count

    def close(self, until_ns: int) -> Units:
        """Hands out units that are old enough, each once.

        Args:
          until_ns: all requests before this instant have been added.

        Returns:
          Units whose age has reached the maturity.
        """
        n = int(np.searchsorted(self._first, until_ns - self._maturity_ns, side="right"))
        said = self._count[:n] - self._silent[:, :n]
        closed = Units(
            first_ns=self._first[:n],
            unit=tuple(self._open[:n]),
            candidate=self._candidate[:n],
            propensity=self._propensity[:n],
            values={
                name: self._sums[i, :n] / np.maximum(said[i], 1)
                for i, name in enumerate(self._names)
            },
            absent={name: said[i] == 0 for i, name in enumerate(self._names)},
        )
        self._closed += n
        if not self._names_recur:
            for name in closed.unit:
                del self._row[name]
        self._open = self._open[n:]
        self._first, self._count = self._first[n:], self._count[n:]
        self._candidate, self._propensity = self._candidate[n:], self._propensity[n:]
        self._sums, self._silent = self._sums[:, n:], self._silent[:, n:]
        return closed

    def state(self) -> dict[str, Any]:
        """Plain JSON values from which `restore` continues identically."""
        return {
            "units": list(self._row),
            "closed": self._closed,
            "first": self._first.tolist(),
            "candidate": self._candidate.tolist(),
            "propensity": self._propensity.tolist(),
            "count": self._count.tolist(),
            # NaN marks a failed request and JSON has none.
            "sums": [[None if v != v else v for v in row] for row in self._sums.tolist()],  # noqa: PLR0124
            "silent": self._silent.tolist(),
            "ignored": dict(self.ignored),
        }

    def restore(self, state: dict[str, Any]) -> Self:
        """Continues from `state` of exposures with the same arguments."""
        self._closed = int(state["closed"])
        forgotten = 0 if self._names_recur else self._closed
        self._row = {name: forgotten + i for i, name in enumerate(state["units"])}
        self._seen = forgotten + len(self._row)
        self._open = list(state["units"][self._closed - forgotten :])
        self._first = np.asarray(state["first"], np.int64)
        self._candidate = np.asarray(state["candidate"], np.bool_)
        self._propensity = np.asarray(state["propensity"], np.float64)
        self._count = np.asarray(state["count"], np.int64)
        sums = [[np.nan if v is None else v for v in row] for row in state["sums"]]
        self._sums = np.asarray(sums, np.float64).reshape(len(self._names), len(self._first))
        silent = np.asarray(state["silent"], np.int64)
        self._silent = silent.reshape(len(self._names), len(self._first))
        self.ignored = dict(state["ignored"])
        return self

"""Labels that come later: what each unit's first answer will cost once its label is known.

A label counts for the unit's first request, which is the one that the judge exposes. Where that one
failed there is no answer to compare, and the loss is the largest there is, in either arm alike.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.core.live import LiveGuardrail, LiveMetric
from harness.core.policies import Loss
from harness.core.tensors import Floats
from harness.judge.exposures import Requests
from harness.judge.live_plan import Labels

UNREADABLE = "label_unreadable"
NOT_TAKEN = {
    UNREADABLE: "{n:,} lines of the label file are no labels",
    "label_for_no_guardrail": "{n:,} labels name a guardrail that takes none, and were not taken",
    "label_outside_its_range": "{n:,} labels are outside of what they may be, and were not taken",
    "label_of_no_open_unit": "{n:,} labels name no unit that was seen and is young enough, and were not taken",
    "label_of_other_outputs": "{n:,} labels are of units that asked for other outputs, and were not taken",
}
"""Why a label was not taken, as a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One label as it came."""

    unit: str
    """The unit's name in records; "" = its line is no label, and is counted where a label would be taken."""
    value: float
    """What came true; for a guardrail without a loss, the guardrail's value itself."""
    ts_ns: int
    """When it became known here."""
    guardrail: str = ""
    """Which one it is for; "" = all that take labels."""
    offset: int = 0
    """Bytes of the label file up to it and with it."""
    head: str = ""
    """Digest of the beginning of the bytes up to there: another file under the same name is known by it."""


class LabelBook:
    """First answers of open units, and labels that have come since the last batch.

    Args:
      guardrails: the policy's; those with a label maturity take labels.
    """

    def __init__(self, guardrails: Sequence[LiveGuardrail]) -> None:
        self._rails = {g.name: g for g in guardrails if g.label_maturity_s is not None}
        self._losses = {g.name: g for g in self._rails.values() if g.metric is LiveMetric.LOSS}
        longest_s = max((g.label_maturity_s or 0.0 for g in self._losses.values()), default=0.0)
        self._longest_ns = round(longest_s * 1e9)
        self._first: dict[str, tuple[int, dict[str, float]]] = {}
        self._come: deque[Label] = deque()
        self.offset = 0
        """Bytes of the label file whose labels have been taken."""
        self.head = ""
        """Of that file; see `Label.head`."""
        self.counts: dict[str, int] = {}
        """Labels that were not taken, by reason."""

    def expose(
        self, unit: str, ts_ns: int, answers: Mapping[str, float], left_out: Collection[str] = ()
    ) -> None:
        """Keeps a unit's first answer.

        Args:
          unit: its name in records.
          ts_ns: when the request came, later than all before.
          answers: guardrail with a loss → score or decision; missing or NaN where it failed.
          left_out: guardrails of which the request says nothing; its label does not enter them.
        """
        if self._losses and unit not in self._first:
            first = {n: answers.get(n, math.nan) for n in self._losses if n not in left_out}
            self._first[unit] = ts_ns, first

    def expose_all(self, requests: Requests, answers: Mapping[str, Floats]) -> None:
        """Keeps the first answers of a batch.

        Args:
          requests: of the batch.
          answers: guardrail with a loss → what its label will be compared with, one a request.
        """
        columns = {name: answers[name].tolist() for name in self._losses if name in answers}
        silent = {
            name: requests.left_out[name] for name in self._losses if name in requests.left_out
        }
        named = zip(requests.unit.tolist(), requests.ts_ns.tolist(), strict=True)
        for i, (unit, ts_ns) in enumerate(named):
            found = {name: column[i] for name, column in columns.items()}
            left_out = [name for name, at in silent.items() if at[i]]
            self.expose(unit, ts_ns, found, left_out)

    def add(self, label: Label) -> None:
        """Takes a label in, until the batch that reaches its instant."""
        self._come.append(label)

    def take(self, until_ns: int) -> dict[str, Labels]:
        """Labels that became known before an instant, per guardrail, each once.

        Args:
          until_ns: every unit first seen before it has been exposed.
        """
        rows: dict[str, list[tuple[str, float, int]]] = {}
        while self._come and self._come[0].ts_ns < until_ns:
            label = self._come.popleft()
            # Not the largest: a file that became shorter is read from its beginning.
            if label.offset:
                self.offset, self.head = label.offset, label.head
            if not label.unit:
                self._count(UNREADABLE)
                continue
            for name, value in self._values(label):
                rows.setdefault(name, []).append((label.unit, value, label.ts_ns))
        return {
            name: Labels(
                unit=np.array([unit for unit, _, _ in found], object),
                value=np.array([value for _, value, _ in found], np.float64),
                ts_ns=np.array([ts_ns for _, _, ts_ns in found], np.int64),
            )
            for name, found in rows.items()
        }

    def _values(self, label: Label) -> Iterator[tuple[str, float]]:
        """(guardrail, its value) of one label."""
        if label.guardrail and label.guardrail not in self._rails:
            self._count("label_for_no_guardrail")
            return
        for name in [label.guardrail] if label.guardrail else self._rails:
            value = self._value(name, label)
            if value is not None:
                yield name, value

    def _value(self, name: str, label: Label) -> float | None:
        rail, y = self._rails[name], label.value
        lo, hi = rail.bounds
        if rail.metric is not LiveMetric.LOSS:
            fits = lo <= y <= hi
        else:
            fits = math.isfinite(y) and (rail.loss is Loss.ZERO_ONE or y in {0.0, 1.0})
        if not fits:
            self._count("label_outside_its_range")
            return None
        if rail.metric is not LiveMetric.LOSS:
            return y
        first = self._first.get(label.unit)
        if first is None:
            self._count("label_of_no_open_unit")
            return None
        answer = first[1].get(name)
        if answer is None:
            self._count("label_of_other_outputs")
            return None
        return hi if math.isnan(answer) else _loss(rail.loss, answer, y)

    def _count(self, reason: str) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1

    def forget(self, until_ns: int) -> None:
        """Drops units whose labels no longer count."""
        done = []
        for unit, (ts_ns, _) in self._first.items():
            if ts_ns + self._longest_ns > until_ns:
                break
            done.append(unit)
        for unit in done:
            del self._first[unit]

    def state(self) -> dict[str, Any]:
        """Plain JSON values from which `restore` continues."""
        first = {
            unit: [ts_ns, {name: None if math.isnan(v) else v for name, v in answers.items()}]
            for unit, (ts_ns, answers) in self._first.items()
        }
        return {
            "first": first,
            "offset": self.offset,
            "head": self.head,
            "counts": dict(self.counts),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from `state`."""
        self._first = {
            unit: (
                int(ts_ns),
                {name: math.nan if v is None else float(v) for name, v in answers.items()},
            )
            for unit, (ts_ns, answers) in state["first"].items()
        }
        self.offset, self.head = int(state["offset"]), str(state["head"])
        self.counts = dict(state["counts"])


def _loss(loss: Loss | None, answer: float, label: float) -> float:
    match loss:
        case Loss.BRIER:
            return (answer - label) ** 2
        case Loss.ABSOLUTE:
            return abs(answer - label)
        case Loss.ZERO_ONE | None:
            return float(answer != label)

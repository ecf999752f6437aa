"""Which tests a policy asks for, with which weights, before any of them sees data."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from harness.core.errors import PolicyError, nearest
from harness.core.jsonable import sha256
from harness.core.policies import (
    LATENCY_METRICS,
    Claim,
    Direction,
    Guardrail,
    Metric,
    Policy,
    WindowName,
)
from harness.judge.window_claim import NOTHING_READ, Read

REST = "rest"
"""Slice value under which values too rare for a test of their own are pooled."""

_ZERO_ONE = (0.0, 1.0)
_NEVER_EXACT = LATENCY_METRICS | {Metric.EXCESS_FLIP}
"""Metrics of what comes out otherwise when asked again: never known of a window by reading it all."""

_WIDEST_RESIDUAL = 0.25
"""Variance of y − p̂ where p̂ is right: p(1 − p) at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowCounts:
    """What a window holds, counted before it is replayed."""

    n: int
    """Requests."""
    slices: Mapping[str, Mapping[str, int]]
    """Context column → value → requests; "" = not recorded."""
    population: int | None = None
    """Requests that these n, and those that planned, were drawn from without replacement; None =
    these are all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTest:
    """One pair of hypotheses: a guardrail over all traffic or over one slice."""

    name: str
    """Evidence name: the guardrail's, or name[column=value]."""
    guardrail: Guardrail
    """What is measured."""
    slice: str
    """ "" for all traffic, else column=value, pooled values as column=rest."""
    column: str
    """ "" for all traffic."""
    values: tuple[str, ...]
    """Slice values it covers: one, or the pooled ones; empty for all traffic."""
    margin: float
    """Largest tolerated mean."""
    gating: bool
    """Whether it decides."""
    n_available: int
    """Requests of the window that belong to it."""
    weight: float
    """In the rollback average; 0 when not gating."""
    gap: float | None
    """Planned distance of the mean from the margin; None = no plan."""
    second_moment: float | None
    """Planned E(x − margin)²; None = no plan."""
    population: int | None = None
    """N of a claim about these requests only; None = a claim about traffic like them."""
    read: Read = NOTHING_READ
    """Of these N, what planned the bets and is no more to come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """Slice values that get no claim of their own."""

    guardrail: str
    """Name in the policy."""
    column: str
    """Context column."""
    values: tuple[str, ...]
    """Sorted; "" = requests that do not carry the column."""
    n: int
    """Requests of the window with these values."""
    share: float
    """Of the window's requests."""
    tested: bool
    """Whether together they are enough for a gating test as "rest"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestPlan:
    """All tests of a run; fixed before the first pair is judged."""

    __test__: ClassVar[bool] = False  # not a test class, whatever pytest makes of the name

    tests: tuple[PlannedTest, ...]
    """Guardrails in policy order, each followed by its slices."""
    pooled: tuple[Pooled, ...]
    """What has no claim of its own."""

    def digest(self) -> str:
        """sha256 (hex) of the tests; saved state continues only under the same ones.

        How many requests there are for a test is no part of it, as more may come.
        """
        return sha256(tuple(replace(test, n_available=0) for test in self.tests))

    def about_process(self, guardrails: Collection[str]) -> TestPlan:
        """The same plan with claims about traffic like the window's for these guardrails.

        Where answers vary from run to run, having read the whole window proves nothing by itself.
        """
        tests = tuple(
            replace(test, population=None, read=NOTHING_READ)
            if test.guardrail.name in guardrails
            else test
            for test in self.tests
        )
        return replace(self, tests=tests)


def plan_tests(
    policy: Policy,
    windows: Mapping[str, WindowCounts],
    second_moments: Mapping[str, float] | None = None,
    read: Mapping[str, Read] | None = None,
) -> TestPlan:
    """Turns guardrails into tests.

    Every guardrail gets one test over all traffic of its window, and one for each value of its
    slice columns with at least `min_slice` requests. Other values are pooled as "rest" under the
    same margin; a rest smaller than `min_slice` could never prove anything and only reports.
    Half the rollback weight lies on all-traffic tests and half on slices, equal within each half;
    all of it on the former without slices. Under `claim: window` the tests over all traffic are about
    exactly the requests that were counted; slices and latencies are about traffic like theirs.

    Args:
      policy: guardrails, margins, slices, claim.
      windows: counts by window name; a missing window counts as empty.
      second_moments: E(x − margin)² by guardrail name, from data that is not tested (an earlier
        comparison or a planning set). 0/1 metrics need none: margin·(1 − margin).
      read: by guardrail name what the planning set says of its sum, which a claim about exactly the
        window's requests must count; None = there was no planning set.

    Returns:
      The plan.

    Raises:
      PolicyError: a slice column that the window does not record.
    """
    moments = second_moments or {}
    tests: list[PlannedTest] = []
    pooled: list[Pooled] = []
    for guardrail in policy.guardrails:
        counts = windows.get(guardrail.window.value, WindowCounts(n=0, slices={}))
        moment = moments.get(guardrail.name)
        whole = _test(guardrail, _Part(n=_available(guardrail, counts.n, policy)), moment)
        # A slice and a window's remainder stay claims about traffic like it: only the whole window,
        # read to its end, answers by itself.
        known = (read or {}).get(guardrail.name, NOTHING_READ)
        every = counts.n + known.n if counts.population is None else counts.population
        exact = policy.claim is Claim.WINDOW and guardrail.metric not in _NEVER_EXACT
        tests.append(replace(whole, population=every, read=known) if exact else whole)
        for column in guardrail.slice_by:
            parts = _parts(guardrail, column, counts)
            tests.extend(_test(guardrail, part, moment) for part in parts)
            pooled.extend(_pooled(guardrail, part, counts.n) for part in parts if part.rest)
    return TestPlan(tests=_weighted(tests), pooled=tuple(pooled))


def _available(guardrail: Guardrail, n: int, policy: Policy) -> int:
    """Requests that a guardrail can see: a gate measures latency on a sample."""
    sampled = guardrail.metric in LATENCY_METRICS and guardrail.window is not WindowName.TABLE
    return min(n, policy.latency.sample) if sampled else n


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """The requests one test sees."""

    n: int
    column: str = ""
    values: tuple[str, ...] = ()
    rest: bool = False

    def label(self) -> str:
        """column=value; a value that is itself called rest is quoted."""
        if not self.column:
            return ""
        if self.rest:
            return f"{self.column}={REST}"
        value = self.values[0]
        return f"{self.column}={value!r}" if value == REST else f"{self.column}={value}"


def _parts(guardrail: Guardrail, column: str, counts: WindowCounts) -> list[_Part]:
    """Slices large enough for a test, by name, then the pooled rest."""
    if not counts.n:
        return []
    if column not in counts.slices:
        raise PolicyError(
            f"guardrail {guardrail.name}, slice_by",
            f"window {guardrail.window.value} has no context column '{column}'",
            f"Slice by a recorded column; {nearest(column, counts.slices)}",
        )
    found = counts.slices[column]
    own = sorted(value for value, n in found.items() if value and n >= guardrail.min_slice)
    rest = tuple(sorted(value for value, n in found.items() if n and value not in own))
    parts = [_Part(n=found[value], column=column, values=(value,)) for value in own]
    if rest:
        n = sum(found[value] for value in rest)
        parts.append(_Part(n=n, column=column, values=rest, rest=True))
    return parts


def _test(guardrail: Guardrail, part: _Part, second_moment: float | None) -> PlannedTest:
    margin = guardrail.margin
    if part.column and guardrail.slice_margin is not None:
        margin = guardrail.slice_margin
    if guardrail.bounds() == _ZERO_ONE and guardrail.metric is not Metric.COLUMN:
        second_moment = margin * (1.0 - margin)
    if guardrail.metric is Metric.CALIBRATION_SHIFT and second_moment is None:
        second_moment = _WIDEST_RESIDUAL
    margin = guardrail.tolerated_mean(margin)
    gap = _gap(guardrail, margin)
    label = part.label()
    return PlannedTest(
        name=f"{guardrail.name}[{label}]" if label else guardrail.name,
        guardrail=guardrail,
        slice=label,
        column=part.column,
        values=part.values,
        margin=margin,
        gating=guardrail.gating and not (part.rest and part.n < guardrail.min_slice),
        n_available=part.n,
        weight=0.0,
        gap=gap,
        second_moment=second_moment if gap is not None else None,
    )


def _gap(guardrail: Guardrail, margin: float) -> float | None:
    """Distance between the declared effect and the margin; None when nothing was declared."""
    if guardrail.effect is None:
        return None
    effect = expected_mean(guardrail, guardrail.effect)
    towards = {
        Direction.INCREASE: effect,
        Direction.DECREASE: -effect,
        Direction.BOTH: abs(effect),
    }
    gap = margin - towards[guardrail.direction]
    return gap if gap > 0.0 else None


def expected_mean(guardrail: Guardrail, effect: float) -> float:
    """The mean of the observations under a declared effect; a growth becomes its logarithm."""
    return math.log1p(effect) if guardrail.metric is Metric.LATENCY_RATIO else effect


def _pooled(guardrail: Guardrail, part: _Part, n_window: int) -> Pooled:
    return Pooled(
        guardrail=guardrail.name,
        column=part.column,
        values=part.values,
        n=part.n,
        share=part.n / n_window,
        tested=part.n >= guardrail.min_slice,
    )


def _weighted(tests: list[PlannedTest]) -> tuple[PlannedTest, ...]:
    """Half the weight on all traffic, half on slices, equal within each; only gating tests."""
    n_slices = sum(test.gating and bool(test.column) for test in tests)
    n_whole = sum(test.gating and not test.column for test in tests)
    half = 0.5 if n_slices and n_whole else 1.0
    weights = {True: half / max(n_slices, 1), False: half / max(n_whole, 1)}
    return tuple(
        replace(test, weight=weights[bool(test.column)] if test.gating else 0.0) for test in tests
    )

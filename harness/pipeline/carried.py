"""Evidence that a gate goes on from: what an earlier attempt at the same question has saved.

Only the tests are carried. What was diffed, counted and shown of the earlier requests stays in the
earlier run's folder; a request that was judged once, or planned the bets, is never judged again, and
the run folder lists those (`used.parquet`), over all attempts that went on from each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from harness.core.errors import UsageError
from harness.core.policies import LATENCY_METRICS, Policy
from harness.core.tensors import Array
from harness.judge.plan import PlannedTest, TestPlan, WindowCounts, plan_tests
from harness.judge.window_claim import Read
from harness.store.attempts import Attempt
from harness.store.files import sha256_of_file
from harness.store.runs import RunFolder
from harness.store.table_batches import MADE_UP_ID

CARRIED_FILE = "carried.json"
USED_FILE = "used.parquet"

Used: TypeAlias = dict[str, dict[str, int]]
"""By window, requests that may not be judged again: id → arrival, ns since the epoch."""
"""Requests that neither this run nor a later attempt may judge: window, request_id."""

Slices: TypeAlias = dict[str, dict[str, dict[str, int]]]
"""Window → column of `slice_by` → value → judged requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What an earlier attempt has left."""

    run: str
    """Its run id."""
    attempt: int
    """Its number."""
    judge: dict[str, Any]
    """State of its judge."""
    judged: dict[str, int]
    """Pairs it judged by window, those that it carried itself among them."""
    slices: Slices
    """The same pairs by slice value."""
    spans: dict[str, list[int]]
    """By window, when the first and the last of them arrived, ns since the epoch."""
    tests: dict[str, int]
    """Observations of each test, by its name."""
    window_hash: str
    """Of the sealed traffic that the newest of them came from."""
    planning: dict[str, Any] | None
    """The manifest's words about the planning set; None = there was none."""

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Carried:
        """Reads what `core.jsonable` wrote."""
        return cls(**content)

    def moments(self) -> dict[str, float] | None:
        """Second moments by guardrail from the planning set; None = there was none."""
        return None if self.planning is None else dict(self.planning["second_moments"])

    def counts(self, fresh: Mapping[str, WindowCounts]) -> dict[str, WindowCounts]:
        """All that the tests are about.

        Args:
          fresh: by window, what there is to judge besides.
        """
        return {
            window: replace(
                found,
                n=found.n + self.judged.get(window, 0),
                slices={
                    column: dict(Counter(here) + Counter(self._values(window, column)))
                    for column, here in found.slices.items()
                },
            )
            for window, found in fresh.items()
        }

    def _values(self, window: str, column: str) -> dict[str, int]:
        return self.slices.get(window, {}).get(column, {})


def carried_of(attempt: Attempt, policy: Policy) -> tuple[Carried, Used]:
    """Reads what an attempt has left.

    Args:
      attempt: one that ended undecided on sound evidence.
      policy: its slices.

    Returns:
      Its evidence, and by window the requests that may not be judged again.

    Raises:
      HarnessError: its folder is gone, is another run's, or was changed since.
    """
    run = RunFolder.open(Path(attempt.run))
    manifest, decision = run.read_json("manifest.json"), run.read_json("decision.json")
    bound = dict(decision["files_sha256"])
    whole = sha256_of_file(run.path / "decision.json") == attempt.decision_sha256 and all(
        run.has(name) and sha256_of_file(run.path / name) == digest
        for name, digest in bound.items()
    )
    # A run that found nothing new to judge has no state of its own: what it went on from still counts.
    nothing_new = "state.npz" not in bound and CARRIED_FILE in bound
    known = "state.npz" in bound or nothing_new
    if manifest["attempt_token"] != attempt.token or not whole or not known:
        raise UsageError(str(run.path), "is not as that attempt left it", "Restore it.")
    if nothing_new:
        before = Carried.from_json(run.read_json(CARRIED_FILE))
        latest = replace(before, run=str(manifest["run_id"]), attempt=attempt.number)
        return latest, _used(run)
    state = run.load_state()
    evidence = state[2]["evidence"] if state else {}
    earlier = Carried.from_json(run.read_json(CARRIED_FILE)) if CARRIED_FILE in bound else None
    slices, spans = _told(run, policy, earlier)
    return (
        Carried(
            run=str(manifest["run_id"]),
            attempt=attempt.number,
            judge=evidence["judge"],
            judged=dict(evidence["judged"]),
            slices=slices,
            spans=spans,
            tests={e["name"]: int(e["n"]) for e in run.read_json("evidence.json")["evidence"]},
            window_hash=str(manifest["window"]["window_hash"]),
            planning=manifest.get("planning"),
        ),
        _used(run),
    )


def _told(
    run: RunFolder, policy: Policy, before: Carried | None
) -> tuple[Slices, dict[str, list[int]]]:
    """Slice values and spans of all pairs that a run has judged or carried."""
    slices: Slices = {} if before is None else before.slices
    spans: dict[str, list[int]] = {} if before is None else before.spans
    context = run.read_json("manifest.json")["window"]["context"]
    sliced = {c for g in policy.guardrails for c in g.slice_by if c in context}
    for chunk in run.pairs_chunks():
        pairs = run.read_pairs(chunk, ("window", "ts_ns", *(f"cx:{c}" for c in sliced)))
        for window in set(pairs["window"].tolist()):
            at = pairs["window"] == window
            times = pairs["ts_ns"][at]
            known = spans.get(window, [int(times[0])])
            spans[window] = [min(int(times.min()), *known), max(int(times.max()), *known)]
            columns = slices.setdefault(window, {})
            for column in sliced:
                here = Counter(str(v or "") for v in pairs[f"cx:{column}"][at].tolist())
                columns[column] = dict(Counter(columns.get(column, {})) + here)
    return slices, spans


def _used(run: RunFolder) -> Used:
    """Requests that a run has judged, planned with or left to earlier attempts, by window."""
    found = read_used(run)
    for chunk in run.pairs_chunks():
        pairs = run.read_pairs(chunk, ("window", "request_id", "ts_ns"))
        for window, ids in _by_window(pairs).items():
            found.setdefault(window, {}).update(ids)
    return found


def made_up(ids: Mapping[str, Iterable[str]]) -> bool:
    """Whether any of these ids is the place of a row in its table, and names no request."""
    return any(i.startswith(MADE_UP_ID) for found in ids.values() for i in found)


def read_used(run: RunFolder) -> Used:
    """What `write_used` wrote."""
    return _by_window(run.read_table(USED_FILE)) if run.has(USED_FILE) else {}


def _by_window(table: dict[str, Array]) -> Used:
    windows = table["window"]
    found = {}
    for window in set(windows.tolist()):
        at = windows == window
        ids, times = table["request_id"][at].tolist(), table["ts_ns"][at].tolist()
        found[window] = dict(zip(ids, times, strict=True))
    return found


def write_used(run: RunFolder, used: Used) -> None:
    """Lists what no later attempt may judge, besides the run's own pairs."""
    rows = [(window, i, ts_ns) for window, found in used.items() for i, ts_ns in found.items()]
    if rows:
        windows, ids, times = zip(*rows, strict=True)
        table: dict[str, Array] = {
            "window": np.array(windows, object),
            "request_id": np.array(ids, object),
            "ts_ns": np.array(times, np.int64),
        }
        run.write_table(USED_FILE, table)


def misfit(carried: Carried, policy: Policy, fresh: Mapping[str, WindowCounts]) -> str:
    """Why the carried tests are not those of all traffic together, in words; "" when they are.

    Which slices are tested, which are pooled and which decide follows from how many requests each
    has. Tests that were fixed on other traffic would leave a slice that has grown without a claim, or
    keep asking for one that a fresh gate pools.

    Args:
      carried: the evidence.
      policy: guardrails, margins, slices, claim.
      fresh: by window, what there is to judge besides.
    """
    plan = planned_tests(policy, fresh, carried, None)
    if plan.digest() == carried.judge["plan"]:
        return ""
    names = {test.name for test in plan.tests}
    new, gone = sorted(names - set(carried.tests)), sorted(set(carried.tests) - names)
    what = "the slices have other sizes now"
    if new:
        what = (
            f"with this traffic a claim is made for {', '.join(new[:3])} that the saved tests lack"
        )
    elif gone:
        what = f"with this traffic {', '.join(gone[:3])} is pooled, which the saved tests are about"
    return f"the saved tests do not fit ({what})"


def planned_tests(
    policy: Policy,
    fresh: Mapping[str, WindowCounts],
    carried: Carried | None,
    moments: Mapping[str, float] | None,
    read: Mapping[str, Read] | None = None,
) -> TestPlan:
    """The run's tests: about what there is to judge and what was judged before.

    Args:
      policy: guardrails, margins, slices, claim.
      fresh: by window, what there is to judge.
      carried: what the run goes on from; None = it starts anew.
      moments: from the run's planning set.
      read: what that set says of each guardrail's sum.
    """
    if carried is None:
        return plan_tests(policy, fresh, moments, read)
    counts = carried.counts(fresh)
    plan = plan_tests(policy, counts, carried.moments())

    def available(test: PlannedTest) -> int:
        """Each attempt measures latency on a sample of its own."""
        window = test.guardrail.window.value
        if test.guardrail.metric not in LATENCY_METRICS or window not in counts:
            return test.n_available
        return min(counts[window].n, carried.tests.get(test.name, 0) + policy.latency.sample)

    tests = tuple(replace(test, n_available=available(test)) for test in plan.tests)
    return replace(plan, tests=tests)

"""Evidence that a gate goes on from: what an earlier attempt at the same question has saved.

Only the tests are carried. What was diffed, counted and shown of the earlier requests stays in the
earlier run's folder; a request that was judged once, or planned the bets, is never judged again, and
the run folder lists those (`used.parquet`), over all attempts that went on from each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from harness.core.errors import UsageError
from harness.core.policies import Policy
from harness.core.tensors import Array
from harness.judge.plan import TestPlan, WindowCounts, plan_tests
from harness.judge.window_claim import Read
from harness.store.attempts import Attempt
from harness.store.files import sha256_of_file
from harness.store.runs import RunFolder
from harness.store.tables import MADE_UP_ID

CARRIED_FILE = "carried.json"
USED_FILE = "used.parquet"

Used: TypeAlias = dict[str, dict[str, int]]
"""By window, requests that may not be judged again: id → arrival, ns since the epoch."""
"""Requests that neither this run nor a later attempt may judge: window, request_id."""

Slices = Mapping[str, Mapping[str, Mapping[str, int]]]
"""Window → column of `slice_by` → value → requests, as the tests were planned with."""


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
    sizes: dict[str, int]
    """Requests of each window that the tests were planned with."""
    slices: Slices
    """Slice values that the tests were planned with."""
    planning: dict[str, Any] | None
    """The manifest's words about the planning set; None = there was none."""

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Carried:
        """Reads what `core.jsonable` wrote."""
        return cls(**content)

    def moments(self) -> dict[str, float] | None:
        """Second moments by guardrail from the planning set; None = there was none."""
        return None if self.planning is None else dict(self.planning["second_moments"])

    def counts(self) -> dict[str, WindowCounts]:
        """What the tests were planned with."""
        return {
            window: WindowCounts(n=n, slices=self.slices.get(window, {}))
            for window, n in self.sizes.items()
        }


def carried_of(attempt: Attempt) -> tuple[Carried, Used]:
    """Reads what an attempt has left.

    Args:
      attempt: one that ended undecided on sound evidence.

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
    return (
        Carried(
            run=str(manifest["run_id"]),
            attempt=attempt.number,
            judge=evidence["judge"],
            judged=dict(evidence["judged"]),
            sizes=manifest["planned_with"]["sizes"],
            slices=manifest["planned_with"]["slices"],
            planning=manifest.get("planning"),
        ),
        _used(run),
    )


def _used(run: RunFolder) -> Used:
    """Requests that a run has judged, planned with or left to earlier attempts, by window."""
    found = read_used(run)
    for chunk in run.pairs_chunks():
        for window, ids in _by_window(run.read_pairs(chunk)).items():
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


def unplanned_values(carried: Carried, policy: Policy, now: Mapping[str, WindowCounts]) -> str:
    """Slice values that the carried tests do not know, in words; "" when there are none.

    A value that was not there when the tests were planned is in none of them: it would go unjudged.
    """
    for guardrail in policy.guardrails:
        window = guardrail.window.value
        for column in guardrail.slice_by:
            known = carried.slices.get(window, {}).get(column, {})
            here = now[window].slices.get(column, {}) if window in now else {}
            new = sorted(set(here) - set(known))
            if new:
                return f"{column} has values that the saved tests do not know: {', '.join(new[:3])}"
    return ""


def planned_tests(
    policy: Policy,
    counts: Mapping[str, WindowCounts],
    carried: Carried | None,
    moments: Mapping[str, float] | None,
    read: Mapping[str, Read] | None = None,
) -> TestPlan:
    """The run's tests; those of the attempt that it goes on from, where there is one.

    Args:
      policy: guardrails, margins, slices, claim.
      counts: what the windows hold now.
      carried: what the run goes on from; None = it starts anew.
      moments: from the run's planning set.
      read: what that set says of each guardrail's sum.
    """
    if carried is None:
        return plan_tests(policy, counts, moments, read)
    return plan_tests(policy, carried.counts(), carried.moments()).counted(counts)

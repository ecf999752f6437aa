"""What a plan can know of the traffic: how much there is, how large its slices are, how values spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.core.errors import UsageError
from harness.core.places import Place
from harness.core.policies import Policy, WindowName
from harness.core.tensors import Floats
from harness.judge.plan import WindowCounts
from harness.pipeline.policy_table import observed_of
from harness.pipeline.table_findings import findings_of
from harness.pipeline.table_units import by_unit, columns_seen, seeds_of_draws, slices_of

if TYPE_CHECKING:
    from harness.pipeline.observed import TableLike

_MOST_EARLIER = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class AtHand:
    """What the traffic says."""

    counts: dict[str, WindowCounts]
    """After the requests that plan; empty without traffic."""
    planning: dict[str, Floats]
    """Guardrail → values of the planning set."""
    words: str
    """Where the counts come from."""
    basis: str = ""
    """Where the planning set comes from."""
    findings: tuple[str, ...] = ()
    """Rows of a table that were cut, or have no value."""


def table_at_hand(policy: Policy, traffic: Sequence[TableLike]) -> AtHand:
    """Counts of a table after its planning rows, and what those say.

    Raises:
      UsageError: more than one table, or one that cannot be read.
    """
    if not traffic:
        return AtHand(counts={}, planning={}, words="")
    if len(traffic) > 1:
        raise UsageError("--traffic", "a policy over columns takes one table", "Give one file.")
    observed = observed_of(policy, traffic[0])
    columns = columns_seen(policy, observed)
    seen = {name: c.values for name, c in columns.items()}
    values = by_unit(policy, observed, seen, seeds_of_draws(policy, observed, seen))
    n = max(len(v.x) for v in values.values())
    n0 = min(policy.windows.planning, n)
    slices = {}
    for column, each in slices_of(policy, observed).items():
        words, found = np.unique(each[n0:].astype(str), return_counts=True)
        slices[column] = {str(w): int(k) for w, k in zip(words, found, strict=True)}
    units = f", {n:,} units of {policy.unit}" if policy.unit else ""
    return AtHand(
        counts={WindowName.TABLE.value: WindowCounts(n=n - n0, slices=slices)},
        planning={name: v.x[:n0] for name, v in values.items()},
        words=f"{observed.name}: {observed.n:,} rows{units}",
        basis=f"the spread of the first {n0:,} {'units' if policy.unit else 'rows'}, which are no evidence",
        findings=tuple(found.what for found in findings_of(policy, observed, columns)),
    )


def traffic_at_hand(policy: Policy, traffic: Sequence[Place]) -> AtHand:
    """Counts of a gate's traffic, before windows are selected by time."""
    if not traffic:
        return AtHand(counts={}, planning={}, words="")
    if policy.unit:
        # Counted as requests they would promise far more power than their units have.
        return AtHand(counts={}, planning={}, words=f"units of {policy.unit} are counted by a gate")
    from harness.store.traffic import TrafficSource
    from harness.store.windows import SealedWindow, is_window

    labelled: int | None = None
    if len(traffic) == 1 and is_window(traffic[0]):
        window = SealedWindow.open(traffic[0])
        count = window.info.count
        slices = {}
        for column in window.info.context:
            codes, words = window.index().context(column)
            found = np.bincount(codes, minlength=len(words))
            slices[column] = {str(w): int(n) for w, n in zip(words, found, strict=True) if n}
    else:
        summary = TrafficSource.open(traffic).summary()
        count, labelled = summary.count, summary.labelled
        slices = {c.column: dict(c.values) for c in summary.context}
    counts = {}
    for name in {g.window.value for g in policy.guardrails}:
        n = count if name == WindowName.NEWEST.value or labelled is None else labelled
        judged = max(0, min(n, policy.windows.max_requests) - policy.windows.planning)
        counts[name] = WindowCounts(n=judged, slices=_scaled(slices, judged / max(count, 1)))
    said = f"{count:,} recorded exchanges, before windows are selected by time"
    if labelled is not None:
        said += f"; {labelled:,} labelled"
    return AtHand(counts=counts, planning={}, words=said)


def earlier_values(run: Path, policy: Policy) -> dict[str, Floats]:
    """What each guardrail saw in an earlier comparison, at most 200,000 requests.

    Args:
      run: a gate's run folder.
      policy: guardrails are matched by name.

    Raises:
      UsageError: no run folder, or a damaged one.
    """
    from harness.store.runs import RunFolder

    folder = RunFolder.open(run)
    parts: dict[str, list[Floats]] = {g.name: [] for g in policy.guardrails}
    read = 0
    for chunk in folder.pairs_chunks():
        pairs = folder.read_pairs(chunk)
        read += len(pairs["seq"])
        for name, found in parts.items():
            if f"x:{name}" in pairs:
                x = pairs[f"x:{name}"].astype(np.float64)
                found.append(x[~np.isnan(x)])
        if read >= _MOST_EARLIER:
            break
    return {name: np.concatenate(found) for name, found in parts.items() if found}


def _scaled(slices: Mapping[str, Mapping[str, int]], share: float) -> dict[str, dict[str, int]]:
    return {
        column: {value: round(n * share) for value, n in values.items()}
        for column, values in slices.items()
    }

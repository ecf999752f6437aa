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
from harness.core.tensors import Array, Floats
from harness.core.words import word_counts
from harness.judge.metrics import Values
from harness.judge.plan import WindowCounts
from harness.judge.units import is_block, unit_means, units_of_blocks, units_of_column
from harness.pipeline.gate_units import check_units, unit_codes
from harness.pipeline.policy_table import observed_of
from harness.pipeline.table_findings import findings_of
from harness.pipeline.table_units import by_unit, columns_seen, seeds_of_draws, slices_of

if TYPE_CHECKING:
    from harness.pipeline.observed import TableLike
    from harness.store.windows import SealedWindow

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
    slices = {c: word_counts(each[n0:]) for c, each in slices_of(policy, observed).items()}
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
    from harness.store.traffic import TrafficSource
    from harness.store.windows import SealedWindow, is_window

    labelled: int | None = None
    place = traffic[0]
    window = SealedWindow.open(place) if len(traffic) == 1 and is_window(place) else None
    if policy.unit:
        if window is not None:
            return _units_at_hand(policy, window)
        # Counted as requests they would promise far more power than their units have.
        later = f"units of {policy.unit} are counted in sealed traffic, or by a gate"
        return AtHand(counts={}, planning={}, words=later)
    if window is not None:
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


def _units_at_hand(policy: Policy, window: SealedWindow) -> AtHand:
    """Counts of a sealed window's units, each once.

    Raises:
      TrafficError: as a gate would refuse the units.
    """
    code = unit_codes(policy, window)
    if code is None:
        return AtHand(counts={}, planning={}, words="")
    names = {g.window.value for g in policy.guardrails}
    everywhere = np.ones(len(code), np.bool_)
    check_units(policy, window, code, dict.fromkeys(names, everywhere))
    units, first = np.unique(code, return_index=True)
    slices = {}
    for column in window.info.context:
        codes, words = window.index().context(column)
        found = np.bincount(codes[first], minlength=len(words))
        slices[column] = {str(w): int(n) for w, n in zip(words, found, strict=True) if n}
    # The limit counts requests: units are drawn until it is reached.
    drawn = int(len(units) * min(1.0, policy.windows.max_requests / max(len(code), 1)))
    n = max(0, drawn - policy.windows.planning)
    said = (
        f"{len(code):,} recorded exchanges, {len(units):,} units of {policy.unit}, before windows "
    )
    return AtHand(
        counts={
            name: WindowCounts(n=n, slices=_scaled(slices, n / max(len(units), 1)))
            for name in names
        },
        planning={},
        words=f"{said}are selected by time",
    )


def earlier_values(run: Path, policy: Policy) -> dict[str, Floats]:
    """What each guardrail saw in an earlier comparison, at most 200,000 requests or the units of these.

    Args:
      run: a gate's run folder.
      policy: guardrails are matched by name.

    Raises:
      UsageError: no run folder, a damaged one, or one that does not know the policy's unit.
      TrafficError: a request without a unit.
    """
    from harness.store.runs import RunFolder

    folder = RunFolder.open(run)
    parts: dict[str, list[Floats]] = {g.name: [] for g in policy.guardrails}
    column = _unit_column(policy)
    units: list[Array] = []
    read = 0
    for chunk in folder.pairs_chunks():
        pairs = folder.read_pairs(chunk)
        if column and column not in pairs:
            what = f"does not record the unit {policy.unit}"
            raise UsageError(str(run), what, "Plan with `effect`, or give a run that records it.")
        units += [pairs[column]] if column else []
        read += len(pairs["seq"])
        for name, found in parts.items():
            if f"x:{name}" in pairs:
                found.append(pairs[f"x:{name}"].astype(np.float64))
        if read >= _MOST_EARLIER:
            break
    seen = {name: np.concatenate(found) for name, found in parts.items() if found}
    if column and units:
        seen = _means(policy, np.concatenate(units), seen)
    return {name: x[~np.isnan(x)] for name, x in seen.items()}


def _unit_column(policy: Policy) -> str:
    """Column of a run's pairs that tells the unit; "" where requests count."""
    if not policy.unit:
        return ""
    return "ts_ns" if is_block(policy.unit) else f"cx:{policy.unit}"


def _means(policy: Policy, column: Array, seen: Mapping[str, Floats]) -> dict[str, Floats]:
    """Mean of each unit's values that are known."""
    block = is_block(policy.unit)
    units = (
        units_of_blocks(column.astype(np.int64), policy.unit) if block else units_of_column(column)
    )
    nobody = np.zeros(len(column), np.bool_)
    return {
        name: unit_means(Values(x=x, failed=nobody), units).x
        for name, x in seen.items()
        if len(x) == len(column)
    }


def _scaled(slices: Mapping[str, Mapping[str, int]], share: float) -> dict[str, dict[str, int]]:
    return {
        column: {value: round(n * share) for value, n in values.items()}
        for column, values in slices.items()
    }

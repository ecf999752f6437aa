"""The planning set: the first requests of each window's drawn order, replayed but never judged.

How far values spread decides which bet pays, and a deterministic runtime compared with itself says
nothing about it. Planning on requests that are then tested gave 6.1 % errors at a nominal 5 %, so
these are taken out of the schedule, and the bets are in the manifest before anything is judged.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

import numpy as np

from harness.core.jsonable import jsonable
from harness.core.policies import Scope
from harness.core.tensors import Floats
from harness.judge.metrics import Values
from harness.judge.planned_bets import moments, planning_json
from harness.judge.unit_sums import UnitSums
from harness.judge.window_claim import Read
from harness.pipeline.asked_again import note_failures
from harness.pipeline.carried import planned_tests
from harness.pipeline.evidence import (
    RunningEvidence,
    Terms,
    expected_changes,
    under_baseline_names,
)
from harness.pipeline.legs_of_run import keep_answered
from harness.pipeline.prepare import Prepared
from harness.pipeline.progress import Listener, Progress
from harness.replay.legs import Leg
from harness.replay.pairs import replay_pairs


def with_planned_bets(
    prepared: Prepared,
    terms: Terms,
    manifest: dict[str, Any],
    legs: tuple[Leg, Leg],
    listener: Listener,
    *,
    trace: bool,
    anchor: Leg | None,
) -> tuple[Terms, dict[str, Any]]:
    """Plans the bets from the planning set and writes them into the run's manifest.

    A run that is gone on with keeps the bets of its manifest: they were fixed before its evidence.

    Args:
      prepared: the run; without a planning set nothing changes.
      terms: with a plan that has no second moments.
      manifest: of the run so far.
      legs: opened legs (baseline, candidate).
      listener: hears progress.
      trace: also replay the features.
      anchor: leg of the version that some guardrails compare with; None where none does.

    Returns:
      Terms with the plan that is judged by, and the manifest with `planning`.
    """
    if not prepared.planning:
        return terms, manifest
    saved = manifest.get("planning")
    if saved:
        found = {str(name): float(moment) for name, moment in saved["second_moments"].items()}
        read = {str(name): Read(**known) for name, known in saved["read"].items()}
    else:
        values = _values(prepared, terms, legs, listener, trace=trace, anchor=anchor)
        found = moments(terms.policy.guardrails, values)
        read = {name: Read.of(x) for name, x in values.items()}
    plan = planned_tests(terms.policy, prepared.counts, prepared.carried, found, read)
    if not saved:
        requests: Counter[str] = Counter()
        for batch in prepared.planning:
            requests[batch.window] += len(batch)
        planning = {
            **planning_json(plan, requests),
            "second_moments": found,
            "read": jsonable(read),
        }
        manifest = {**manifest, "planning": planning}
        keep_answered(prepared.run, legs if anchor is None else (*legs, anchor))
        prepared.run.write_json("manifest.json", manifest)
    return replace(terms, plan=plan), manifest


def _values(
    prepared: Prepared,
    terms: Terms,
    legs: tuple[Leg, Leg],
    listener: Listener,
    *,
    trace: bool,
    anchor: Leg | None,
) -> dict[str, Floats]:
    """Values by guardrail name, measured with the gate's own metrics; NaN = failed or none."""
    window = prepared.window
    if window is None:
        return {}
    total = sum(len(batch) for batch in prepared.planning)
    requests = ((batch, window.read(batch.positions)) for batch in prepared.planning)
    # Evidence that nobody asks: it turns pairs into each guardrail's values and is then dropped.
    measured = RunningEvidence(terms)
    values: dict[str, list[Floats]] = defaultdict(list)
    sums: dict[str, UnitSums] = defaultdict(UnitSums)
    expected = expected_changes(terms.policy, Scope.OUTPUTS)
    done = 0
    for batch, pair in replay_pairs(*legs, requests, trace=trace, anchor=anchor):
        ends = prepared.units.ends(batch) if prepared.units else None
        rows = measured.update(batch, pair, prepared.label[batch.positions], ends=ends)
        # Planned with, and never judged: nobody else would tell.
        seen = under_baseline_names(pair, terms.match)
        note_failures(legs[1].ledger, seen, by="planning set", but=expected)
        for guardrail in terms.policy.guardrails:
            if guardrail.window.value == batch.window:
                x, failed = (
                    np.asarray(rows[f"{what}:{guardrail.name}"]) for what in ("x", "failed")
                )
                x = np.where(failed, np.nan, x)
                if ends is not None:
                    x = sums[guardrail.name].add(Values(x=x, failed=failed), ends).x
                values[guardrail.name].append(x)
        done += len(pair)
        listener(Progress(stage="plan", done=done, total=total))
    return {name: np.concatenate(parts) for name, parts in values.items()}

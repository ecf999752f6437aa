"""What a run's windows held, and what it leaves without a claim."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.core.counted import counted
from harness.core.policies import LATENCY_METRICS, Claim, Metric, Policy
from harness.core.tensors import Ints
from harness.decide.facts import TrafficFacts, Unclaimed, WindowFacts
from harness.judge.plan import TestPlan
from harness.judge.planned_bets import set_aside
from harness.pipeline.integrity import traffic_facts
from harness.pipeline.prepare import Prepared


def window_facts(prepared: Prepared, judged: dict[str, int]) -> tuple[WindowFacts, ...]:
    """What the decision asks about each window.

    Args:
      prepared: the run.
      judged: pairs by window, those that an earlier attempt judged among them.
    """
    selection = prepared.manifest.get("selection", {})
    traffic = traffic_facts(prepared.manifest)
    planned = _planned(prepared)
    return tuple(
        WindowFacts(
            name=name,
            selected=int(s["n"]) + int(s.get("gone", 0)),
            judged=judged.get(name, 0),
            min_requests=prepared.policy.windows.min_requests,
            planning=planned.get(name, 0),
            reason=_why_small(s, traffic),
        )
        for name, s in selection.items()
    )


def _why_small(selection: dict[str, Any], traffic: TrafficFacts) -> str:
    if selection["refusal"]:
        return str(selection["refusal"])
    if selection["n"]:
        return ""
    if not traffic.recorded:
        return "the traffic holds no exchange"
    if not traffic.sealed:
        return f"none of the {traffic.recorded:,} recorded exchanges could be sealed"
    return "; ".join(f"{count:,} exchanges: {reason}" for reason, count in selection["left_out"])


def windows_json(prepared: Prepared, judged: dict[str, int]) -> dict[str, Any]:
    """The same for `decision.json`, with spans and what was left out."""
    selection = prepared.manifest.get("selection", {})
    traffic = traffic_facts(prepared.manifest)
    return {
        name: {
            "n": s["n"] + s.get("gone", 0),
            "judged": judged.get(name, 0),
            **({"units": s["units"]} if "units" in s else {}),
            "first_ts_ns": s["first_ts_ns"],
            "last_ts_ns": s["last_ts_ns"],
            "reason": _why_small(s, traffic),
            "left_out": s["left_out"],
        }
        for name, s in selection.items()
    }


def left_out(prepared: Prepared, plan: TestPlan) -> list[str]:
    """What the selection and the pooling leave without a claim, as sentences."""
    found = [*_selected_out(prepared), *_not_judged_here(prepared), *_not_exact(prepared, plan)]
    if prepared.policy.unit:
        found += _about_units(prepared)
    found += pooled_words(plan, "of the window")
    recorded = prepared.manifest["window"]["context"]
    found += [
        f"coverage of {column}: the traffic does not record it"
        for column in prepared.policy.windows.cover
        if column not in recorded
    ]
    return found


def pooled_words(plan: TestPlan, of: str) -> list[str]:
    """Slices without a claim of their own, as sentences.

    Args:
      plan: the tests.
      of: what the shares are of.
    """
    return [
        f"no claim of its own for {pooled.column} "
        f"{', '.join(v or '(not recorded)' for v in pooled.values)}: {pooled.share:.1%} {of}, "
        + ("judged together as 'rest'" if pooled.tested else "too few to judge even together")
        for pooled in plan.pooled
    ]


def without_claim(policy: Policy, plan: TestPlan) -> tuple[Unclaimed, ...]:
    """What a promotion would be silent about, of the guardrails that decide."""
    deciding = {guardrail.name for guardrail in policy.guardrails if guardrail.gating}
    return tuple(
        Unclaimed(guardrail=p.guardrail, column=p.column, share=p.share)
        for p in plan.pooled
        if p.guardrail in deciding and not p.tested
    )


def traffic_counts(prepared: Prepared) -> dict[str, dict[str, int]]:
    """How much of the sealed traffic holds each value of the columns to cover."""
    window = prepared.window
    if window is None:
        return {}
    found: dict[str, dict[str, int]] = {}
    for column in prepared.policy.windows.cover:
        if column in window.info.context:
            codes, words = window.index().context(column)
            counts: Ints = np.bincount(codes, minlength=len(words))
            found[column] = {str(w): int(n) for w, n in zip(words, counts, strict=True) if n}
    return found


def _selected_out(prepared: Prepared) -> list[str]:
    """Exchanges that were not sealed or not selected."""
    found = []
    info = prepared.manifest["window"]
    found += [
        f"{count:,} requests of production were not recorded: {reason}"
        for reason, count in info.get("not_recorded", ())
    ]
    found += [
        f"{count:,} recorded exchanges could not be sealed: {reason}"
        for reason, count in info["not_sealed"]
    ]
    if bare := traffic_facts(prepared.manifest).without_rows:
        found.append(f"{counted(bare)} without a row: nothing is compared there")
    for name, s in prepared.manifest["selection"].items():
        found += [
            f"{name} window: {count:,} exchanges left out, {reason}"
            for reason, count in s["left_out"]
        ]
    return found


def _not_judged_here(prepared: Prepared) -> list[str]:
    """Requests that an earlier attempt judged, or that planned the bets."""
    found = []
    if prepared.carried is not None:
        found.append(
            f"outputs and features of the {sum(prepared.carried.judged.values()):,} pairs that count on "
            f"from run {prepared.carried.run}: what was found there is in that run"
        )
    found += [
        f"{name} window: {set_aside(prepared.policy.guardrails, f'{count:,} requests')}"
        for name, count in _planned(prepared).items()
    ]
    return found


def _planned(prepared: Prepared) -> Mapping[str, int]:
    """Requests that only planned the bets, by window: in this run, or in the one it goes on from."""
    if prepared.carried is not None:
        return {} if prepared.carried.planning is None else prepared.carried.planning["requests"]
    found: Counter[str] = Counter()
    for batch in prepared.planning:
        found[batch.window] += len(batch)
    return found


def _about_units(prepared: Prepared) -> list[str]:
    """What counting units leaves open, with both counts."""
    unit = prepared.policy.unit
    return [
        f"dependence between units of {unit}: they count as independent",
        *(
            f"{name} window: its {s['n']:,} requests are {s['units']:,} units of {unit}; each counts once, "
            "and windows and min_requests count requests"
            for name, s in prepared.manifest["selection"].items()
        ),
    ]


def _not_exact(prepared: Prepared, plan: TestPlan) -> list[str]:
    """Guardrails of a window claim that keep the process claim, and why."""
    if prepared.policy.claim is not Claim.WINDOW:
        return []
    always = (*LATENCY_METRICS, Metric.EXCESS_FLIP)
    like = [t for t in plan.tests if not t.column and t.population is None]
    named = {
        "latencies and noise are never known of it": [
            t.name for t in like if t.guardrail.metric in always
        ],
        "the baseline's answers vary from run to run": [
            t.name for t in like if t.guardrail.metric not in always
        ],
    }
    return [
        f"exactly this window: {why}, so the verdict of {', '.join(names)} is about traffic like it"
        for why, names in named.items()
        if names
    ]

"""Which batches are traced: all where a guardrail judges features, the first ones where none does.

A trace makes a version compute everything twice, the second time without optimisation. Where nothing
is judged by it, the beginning of each window, a random draw of it, shows what the report tells of
features; that the rest was not compared is said there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.core.policies import Metric, Policy, Scope
from harness.replay.order import Batch

FIRST_TRACED = 20_000
"""Requests of each window that are traced where no guardrail judges features, at most."""
_TRACE_S = 5.0
"""Time that these may take a version, unless they are few beside the others:"""
_TRACE_SHARE = 32


def first_traced(requests: int, each_s: float) -> int:
    """How many requests are traced where no guardrail judges features.

    Args:
      requests: in the largest window.
      each_s: time that one takes; 0 when nothing is known.

    Returns:
      At most all of them: how fast a machine is says nothing where it makes no difference.
    """
    in_time = _TRACE_S / each_s if each_s else FIRST_TRACED
    return int(min(FIRST_TRACED, max(requests, 1), max(in_time, requests // _TRACE_SHARE, 1)))


def with_traces(
    batches: Sequence[Batch], policy: Policy, first: int = FIRST_TRACED
) -> tuple[Batch, ...]:
    """The schedule, with the batches marked that need no trace.

    Args:
      batches: the schedule.
      policy: its guardrails say whether features are judged.
      first: requests of each window to trace where they are not.
    """
    if judges_features(policy):
        return tuple(batches)
    before: Counter[str] = Counter()
    marked = []
    for batch in batches:
        marked.append(replace(batch, trace=before[batch.window] < first))
        before[batch.window] += len(batch)
    return tuple(marked)


def judges_features(policy: Policy) -> bool:
    """Whether a guardrail, gating or reported, is about features."""
    return any(
        g.metric is Metric.PARITY_MISMATCH and g.scope is Scope.FEATURES for g in policy.guardrails
    )


def not_traced(batches: Sequence[Batch], judged: Mapping[str, int]) -> tuple[str, ...]:
    """Sentences about the judged requests whose features were not asked for, one a window.

    Args:
      batches: the schedule, as `with_traces` gave it.
      judged: window → requests judged, the first ones of the schedule.
    """
    traced, without = Counter[str](), Counter[str]()
    for batch in batches:
        (traced if batch.trace else without)[batch.window] += len(batch)
    missed = {w: min(n, judged.get(w, 0) - traced[w]) for w, n in without.items()}
    return tuple(
        f"{window} window: features inside the models were compared on its first requests only, "
        f"not on the last {count:,}: no guardrail asks for them"
        for window, count in missed.items()
        if count > 0
    )

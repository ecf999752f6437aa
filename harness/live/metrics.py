"""What a canary and a shadow show at /metrics, beside the calls that they pass."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.live import Standing
from harness.core.verdicts import Decision
from harness.record.metrics import CallMetrics, call_families

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_ARMS = ("baseline", "candidate")
_OF_THE_MIRROR = {
    "compared": "Requests that both versions answered, all of it compared.",
    "differ": "Of these: an output differs beyond its tolerance.",
    "candidate_failed": "Requests that only the baseline answers.",
    "baseline_failed": "Requests that only the candidate answers.",
    "both_failed": "Requests that neither answers.",
    "left_out": "Requests that both answer, in a form that is not compared.",
    "disagreements_kept": "Kept with both answers.",
    "disagreements_not_kept": "Not kept, for want of room.",
}


class CanaryExposition:
    """A canary, or a judge alone.

    Args:
      standing: where it stands; asked in another thread.
      calls: that the proxy passed; None = there is no proxy.
    """

    def __init__(self, standing: Callable[[], Standing], calls: CallMetrics | None) -> None:
        self._standing = standing
        self._calls = calls

    def collect(self) -> Iterator[Metric]:
        """See `record.metrics.Collector`."""
        if self._calls is not None:
            yield from call_families(self._calls)
        yield from standing_families("harness_canary", self._standing())


class ShadowExposition:
    """A shadow: the proxy's part as it is, the mirror's as it last wrote it down.

    Args:
      calls: that the proxy passed.
      mirrored: gives the requests handed to the mirror, and (reason, how many) of the others.
      waiting: gives entries and bytes that wait for the mirror.
      report: the file that the mirror's process writes every few seconds.
    """

    def __init__(
        self,
        calls: CallMetrics,
        mirrored: Callable[[], tuple[int, Mapping[str, int]]],
        waiting: Callable[[], tuple[int, int]],
        report: Path,
    ) -> None:
        self._calls = calls
        self._mirrored = mirrored
        self._waiting = waiting
        self._report = report

    def collect(self) -> Iterator[Metric]:
        """See `record.metrics.Collector`."""
        yield from call_families(self._calls)
        mirrored, others = self._mirrored()
        entries, size = self._waiting()
        yield _counter("harness_shadow_mirrored", "Requests handed to the mirror.", mirrored)
        yield _counters(
            "harness_shadow_not_mirrored", "Requests not shown to the candidate.", "reason", others.items()
        )  # fmt: skip
        yield _gauge("harness_shadow_queue_requests", "That wait for the mirror.", entries)
        yield _gauge("harness_shadow_queue_bytes", "That wait for the mirror.", size)
        found = _written(self._report)
        # Before the mirror has said anything, nothing is known: no zero is shown.
        for name, words in _OF_THE_MIRROR.items() if found else ():
            yield _counter(f"harness_shadow_{name}", words, found[name])
        judged = found.get("standing")
        if judged:
            yield _decision("harness_shadow", judged["decision"], final=judged["final"])


def standing_families(prefix: str, now: Standing) -> Iterator[Metric]:
    """Where a comparison of split traffic stands.

    Args:
      prefix: of the names.
      now: after the last look.
    """
    yield _gauge(f"{prefix}_share", "Candidate's share of units in force.", now.share)
    yield _gauge(f"{prefix}_step", "Of the ramp, from 0.", now.step)
    yield _decision(prefix, now.decision.value, final=now.final)
    yield _counters(
        f"{prefix}_requests", "Requests that entered.", "arm", zip(_ARMS, now.arms, strict=True)
    )
    yield _gauge(f"{prefix}_units_seen", "Units ever exposed.", now.n_units)
    yield _gauge(f"{prefix}_units_judged", "Units that entered the tests.", now.n_closed)
    yield _gauge(f"{prefix}_sample_ratio_p", "p-value of the declared split.", now.sample_ratio_p)
    yield _counters(
        f"{prefix}_counted", "What entered nothing, has no value or was lost.", "what", now.counts
    )
    for name, words, label, found in (
        ("log_e_rollback", "Natural log of the e-value for harm.", "clock", now.log_e_rollback),
        ("log_e_promote", "Natural log of the e-value for harmless.", "guardrail", now.promote_at),
    ):
        yield _gauges(f"{prefix}_{name}", words, label, found)


def _decision(prefix: str, decision: str, *, final: bool) -> Metric:
    """1 for the answer that stands; all 0 while there is none."""
    found = [(word.value, float(final and word.value == decision)) for word in Decision]
    return _gauges(f"{prefix}_decision", "1 for the verdict, once there is one.", "decision", found)


def _gauge(name: str, words: str, value: float) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(name, words, float(value))


def _counter(name: str, words: str, value: float) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    return CounterMetricFamily(name, words, float(value))


def _gauges(name: str, words: str, label: str, found: Iterable[tuple[str, float]]) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(name, words, labels=(label,))
    for key, value in found:
        family.add_metric((key,), value)
    return family


def _counters(name: str, words: str, label: str, found: Iterable[tuple[str, float]]) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(name, words, labels=(label,))
    for key, value in found:
        family.add_metric((key,), value)
    return family


def _written(report: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(report.read_bytes())
    except (OSError, ValueError):
        return {}
    return found

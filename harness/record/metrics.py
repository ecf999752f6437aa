"""Prometheus metrics: counted on the way at the cost of a few additions, put into words when asked for."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from harness.core.calls import Call
from harness.core.errors import UsageError
from harness.core.recording import Recorded, RecordingTotals

if TYPE_CHECKING:
    from prometheus_client.core import Metric

BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
_CODES = {int(c.value[0]): c.name for c in grpc.StatusCode}


class CallMetrics:
    """A tap that counts calls by method and code, their latency and their bytes."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, int], int] = {}
        """(method, code) → calls. Methods the service does not have count as "other"."""
        self.latency = [0] * (len(BUCKETS_S) + 1)
        """Calls by latency: up to each of BUCKETS_S, and above."""
        self.latency_s = 0.0
        """Sum of all latencies."""
        self.request_bytes = 0
        self.response_bytes = 0

    def offer(self, call: Call) -> None:
        """See `core.calls.Tap`."""
        if call.unkept is not None and call.unkept.why is Recorded.INCOMPLETE:
            return  # no request: the recorder counts it apart, too
        key = (call.method, call.code)
        if key not in self.requests and len(self.requests) >= _MOST_SERIES:
            key = ("other", call.code)
        self.requests[key] = self.requests.get(key, 0) + 1
        latency_s = call.latency_ns / 1e9
        self.latency[bisect_left(BUCKETS_S, latency_s)] += 1
        self.latency_s += latency_s
        if call.unkept is None:
            self.request_bytes += len(call.request)
            self.response_bytes += len(call.response)
        else:
            self.request_bytes += call.unkept.request_bytes
            self.response_bytes += call.unkept.response_bytes


_MOST_SERIES = 200
"""Clients may send any number of method names."""


class Exposition:
    """What is shown at /metrics.

    Args:
      calls: counted on the way.
      totals: gives the recorder's counts.
      queue: gives exchanges and bytes that wait for the writer.
      healthy: says whether what passes now is likely to be published.
    """

    def __init__(
        self,
        calls: CallMetrics,
        totals: Callable[[], RecordingTotals],
        queue: Callable[[], tuple[int, int]],
        healthy: Callable[[], bool],
    ) -> None:
        self._calls = calls
        self._totals = totals
        self._queue = queue
        self._healthy = healthy

    def collect(self) -> Iterator[Metric]:
        """All metrics; prometheus_client calls it."""
        yield from call_families(self._calls)
        yield from self._of_recording()

    def _of_recording(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        totals, (waiting, waiting_bytes) = self._totals(), self._queue()
        yield GaugeMetricFamily(
            "harness_recording_healthy",
            "1 while what passes can be written.",
            float(self._healthy()),
        )
        yield GaugeMetricFamily("harness_queue_exchanges", "That wait for the writer.", waiting)
        yield GaugeMetricFamily("harness_queue_bytes", "That wait for the writer.", waiting_bytes)
        for name, words, value in (
            ("seen", "Finished inference requests, over all starts.", totals.seen),
            ("written", "Of these in published files.", totals.written),
            ("sampled_out", "Of these left out by the sample.", totals.sampled_out),
        ):
            yield CounterMetricFamily(f"harness_recording_{name}", words, value)
        for name, words, pairs in (
            ("not_recorded", "Should have been recorded and were not.", totals.not_recorded),
            ("faults", "Recorded as they came, or noticed on the way.", totals.faults),
        ):
            family = CounterMetricFamily(f"harness_recording_{name}", words, labels=("reason",))
            for reason, count in pairs:
                family.add_metric((reason,), count)
            yield family


class Collector(Protocol):
    """What has metrics to show."""

    def collect(self) -> Iterator[Metric]:
        """All of them, now; prometheus_client calls it, in a thread of its own."""


def serve_metrics(shown: Collector, address: str) -> Callable[[], None]:
    """Serves metrics over HTTP, in a thread.

    Args:
      shown: asked whenever somebody asks.
      address: host:port.

    Returns:
      What ends it.

    Raises:
      UsageError: the address cannot be listened on.
    """
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(shown)
    host, _, port = address.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host or "0.0.0.0", registry)  # noqa: S104 - as asked for
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(
            f"--metrics {address}", "the address cannot be listened on",
            "Name a free port of this machine, as HOST:PORT.",
        ) from error  # fmt: skip

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return end


def call_families(calls: CallMetrics) -> Iterator[Any]:
    """Requests, latency and bytes, as Prometheus has them."""
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    requests = CounterMetricFamily(
        "harness_requests",
        "Finished calls of the inference service.",
        labels=("method", "code"),
    )
    for (method, code), count in sorted(calls.requests.items()):
        requests.add_metric((method, _CODES.get(code, str(code))), count)
    yield requests
    buckets, below = [], 0
    for edge, count in zip((*BUCKETS_S, float("inf")), calls.latency, strict=True):
        below += count
        buckets.append(("+Inf" if edge == float("inf") else str(edge), below))
    latency = HistogramMetricFamily(
        "harness_request_latency_seconds", "From a call's arrival to its answer."
    )
    latency.add_metric((), buckets, calls.latency_s)
    yield latency
    size = CounterMetricFamily("harness_bytes", "Of messages passed.", labels=("direction",))
    size.add_metric(("request",), calls.request_bytes)
    size.add_metric(("response",), calls.response_bytes)
    yield size

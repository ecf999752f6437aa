"""What recording costs: a proxy before a bytes server, h2load before both, all on this machine.

Rounds with and without the proxy take turns, so that both see the same machine; the figure of a ratio is
the median of the rounds. Nothing else should run: client, proxy, writer and server share its processors.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.bench.figures import Figure, Figures
from harness.bench.h2load import Load, check_installed, load
from harness.bench.paired import paired_ratio
from harness.core.errors import GateError
from harness.store.traffic import TrafficSource
from harness.wire.messages import request_bytes

STEADY_P99_MS = 50.0
ADDED_P50_MS = 3.0
PEAK_RATIO, LARGE_RATIO = 0.3, 0.6
STALLED_GROWTH_MB = 8.0
"""What an allocator may still take after the queue is full."""
_STEADY, _MODERATE = 1000, 500
_ROUNDS, _SECONDS = 3, 3
_PEAK_ROUNDS, _PEAK_SECONDS = 15, 2
"""Both processors are full: single rounds differ by a third."""
_SEED = 6
_SMALL, _LARGE = 1024, 150_000
_QUEUE = 16 << 20
_SLACK = 40


@dataclass(frozen=True, slots=True)
class _Message:
    """What is sent again and again."""

    message: bytes
    """A ModelInferRequest of about the size asked for."""
    file: Path
    """Its gRPC frame."""


@dataclass(frozen=True, slots=True)
class _Server:
    pid: int
    port: int


@dataclass(slots=True)
class _Proxy:
    process: subprocess.Popen[str]
    port: int
    out: Path

    @property
    def writer(self) -> int:
        """Process id of the writer."""
        pid = self.process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def end(self) -> dict[str, Any]:
        """Ends it; its totals."""
        self.process.send_signal(signal.SIGTERM)
        said, _ = self.process.communicate()
        found: dict[str, Any] = json.loads(said[said.index("{") :])["totals"]
        return found


SECTIONS = ("steady", "added", "small", "large", "stalled")
"""What can be measured by itself."""


def bench_record(sections: Sequence[str] = SECTIONS) -> Figures:
    """Measures latency, loss, peak rates and memory.

    Args:
      sections: of SECTIONS.

    Raises:
      GateError: h2load is not installed, or a part does not start.
    """
    check_installed()
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as folder:
        scratch = Path(folder)
        small, large = (_message(scratch, size) for size in (_SMALL, _LARGE))
        with _process("harness.bench.bytes_server", "serving on port") as (process, line):
            server = _Server(process.pid, int(line.split()[-1]))
            measures: dict[str, Callable[[], list[Figure]]] = {
                "steady": lambda: _steady(server, small, scratch),
                "added": lambda: _added(server, small, scratch),
                "small": lambda: _peak(server, small, scratch, "1 KB", PEAK_RATIO),
                "large": lambda: _peak(server, large, scratch, "150 KB", LARGE_RATIO),
                "stalled": lambda: _stalled(server, small, scratch),
            }
            figures = [f for name in SECTIONS if name in sections for f in measures[name]()]
    figures.append(
        Figure(
            name="load of the machine over the last minute", unit="processes",
            value=os.getloadavg()[0], note=f"{os.cpu_count()} processors; the benchmark's own among them",
        )
    )  # fmt: skip
    return Figures(title="What recording costs", figures=tuple(figures))


def _message(scratch: Path, size: int) -> _Message:
    values = np.random.default_rng(_SEED).random((1, (size - _SLACK) // 4)).astype(np.float32)
    message = request_bytes("bench", {"x": values}, "bench-1")
    file = scratch / f"{size}.frame"
    file.write_bytes(struct.pack(">?I", False, len(message)) + message)
    return _Message(message, file)


def _steady(server: _Server, small: _Message, scratch: Path) -> list[Figure]:
    direct = load(server.port, small.file, scratch, seconds=5, rate=_STEADY)
    with _proxy(server, scratch / "steady") as proxy:
        seen = load(proxy.port, small.file, scratch, seconds=10, rate=_STEADY)
        totals = proxy.end()
    wrong = _unaccounted(seen, totals, proxy.out, small.message)
    return [
        Figure(
            name="p99 end to end at 1,000 requests/s of 1 KB", unit="ms",
            value=_p99_ms(seen), limit=STEADY_P99_MS,
            note=f"{seen.done:,} requests, p50 {float(np.median(seen.latency_s)) * 1e3:.2f} ms; without the "
            f"proxy just before: p99 {_p99_ms(direct):.2f} ms, p50 {float(np.median(direct.latency_s)) * 1e3:.2f} ms",
        ),
        Figure(
            name="requests at that rate lost, altered or not accounted for", unit="requests",
            value=wrong, limit=0,
            note=f"{totals['written']:,} recorded, the rest counted as dropped",
        ),
    ]  # fmt: skip


def _unaccounted(seen: Load, totals: dict[str, Any], out: Path, message: bytes) -> int:
    """Requests that were answered and are neither recorded as they were nor counted."""
    dropped = sum(count for _, count in totals["not_recorded"])
    altered = 0
    recorded = 0
    for batch in TrafficSource.open([out]).batches(["code", "request", "response"]):
        for row in batch.to_pylist():
            recorded += 1
            # What the generator takes back at its end has no answer.
            whole = row["response"] == message or row["code"] != 0
            altered += int(row["request"] != message or not whole)
    passed = int(totals["seen"])
    answered = passed - int(totals["failed"])
    lost = max(0, seen.done - answered) + abs(passed - recorded - int(dropped))
    return altered + lost


def _added(server: _Server, small: _Message, scratch: Path) -> list[Figure]:
    added = []
    with _proxy(server, scratch / "added") as proxy:
        for _ in range(_ROUNDS):
            direct, through = (
                load(port, small.file, scratch, seconds=_SECONDS, rate=_MODERATE)
                for port in (server.port, proxy.port)
            )
            added.append(float(np.median(through.latency_s) - np.median(direct.latency_s)) * 1e3)
        proxy.end()
    return [
        Figure(
            name="added to the p50 at 500 requests/s of 1 KB", unit="ms",
            value=statistics.median(added), limit=ADDED_P50_MS,
            note=f"{_ROUNDS} rounds in turn: {min(added):.2f} … {max(added):.2f}",
        )
    ]  # fmt: skip


def _peak(
    server: _Server, message: _Message, scratch: Path, size: str, limit: float
) -> list[Figure]:
    direct, through = [], []
    with _proxy(server, scratch / f"peak-{size}") as proxy:
        own = theirs = 0.0
        for _ in range(_PEAK_ROUNDS):
            spent = _cpu_s(server.pid)
            one = load(server.port, message.file, scratch, seconds=_PEAK_SECONDS)
            direct.append(one.rate)
            theirs += (_cpu_s(server.pid) - spent) / one.done / _PEAK_ROUNDS
            spent = _cpu_s(proxy.process.pid)
            one = load(proxy.port, message.file, scratch, seconds=_PEAK_SECONDS)
            through.append(one.rate)
            own += (_cpu_s(proxy.process.pid) - spent) / one.done / _PEAK_ROUNDS
        totals = proxy.end()
    ratio = paired_ratio(through, direct)
    dropped = sum(count for _, count in totals["not_recorded"])
    return [
        Figure(
            name=f"peak rate to the direct one, {size}", unit="×",
            value=ratio.median, limit=limit, at_most=False, note=ratio.shown(),
        ),
        Figure(
            name=f"the same by processor time, {size}", unit="×", value=theirs / own,
            note="the server's for a request over the proxy's: what each would answer on a processor of "
            "its own; little moved by other load",
        ),
        Figure(name=f"direct peak, {size}", unit="requests/s", value=statistics.median(direct)),
        Figure(
            name=f"peak through the proxy, {size}", unit="requests/s",
            value=statistics.median(through),
            note=f"{own * 1e6:.0f} µs of the proxy's processor time each; "
            f"{totals['written']:,} recorded, {dropped:,} dropped",
        ),
    ]  # fmt: skip


def _stalled(server: _Server, small: _Message, scratch: Path) -> list[Figure]:
    """A stopped writer stands for a disk that takes nothing: either way nobody reads the queue."""
    with _proxy(server, scratch / "stalled", "--queue-bytes", str(_QUEUE >> 20) + "MiB") as proxy:
        writer = proxy.writer
        os.kill(writer, signal.SIGSTOP)
        # 1 KB each way: the queue is full after two thirds of these.
        load(proxy.port, small.file, scratch, seconds=12, rate=_STEADY)
        full = _rss_mb(proxy.process.pid)
        seen = load(proxy.port, small.file, scratch, seconds=15, rate=_STEADY)
        grown = _rss_mb(proxy.process.pid) - full
        direct = load(server.port, small.file, scratch, seconds=5, rate=_STEADY)
        os.kill(writer, signal.SIGCONT)
        totals = proxy.end()
    dropped = sum(count for _, count in totals["not_recorded"])
    return [
        Figure(
            name="memory the proxy gains with a stalled disk", unit="MB", value=grown,
            limit=STALLED_GROWTH_MB,
            note=f"over {seen.done:,} requests after its queue of {_QUEUE >> 20} MiB was full, from "
            f"{full:.0f} MB; {dropped:,} dropped and counted",
        ),
        Figure(
            name="p99 end to end meanwhile", unit="ms",
            value=_p99_ms(seen), limit=STEADY_P99_MS,
            note=f"without the proxy just after: {_p99_ms(direct):.2f} ms",
        ),
    ]  # fmt: skip


@contextmanager
def _proxy(server: _Server, out: Path, *more: str) -> Iterator[_Proxy]:
    with _process(
        "harness", "listening on", "record", "--listen", "127.0.0.1:0", "--upstream",
        f"127.0.0.1:{server.port}", "--out", str(out), "--json", *more,
    ) as (process, line):  # fmt: skip
        yield _Proxy(process, int(line.rpartition(":")[2]), out)


@contextmanager
def _process(module: str, says: str, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with subprocess.Popen(
        [sys.executable, "-m", module, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    ) as process:  # fmt: skip
        late = threading.Timer(60.0, process.kill)
        late.start()
        try:
            line = process.stdout.readline() if process.stdout else ""
            late.cancel()
            if not line.startswith(says):
                raise GateError(module, f"did not start: {line.strip()}", "Run it by itself.")
            yield process, line.strip()
        finally:
            late.cancel()
            process.kill()


def _p99_ms(of: Load) -> float:
    return float(np.quantile(of.latency_s, 0.99)) * 1e3


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mb(pid: int) -> float:
    time.sleep(0.5)
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

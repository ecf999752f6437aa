"""One recording from start to end: proxy, recorder, metrics, and an orderly stop."""

from __future__ import annotations

import asyncio
import enum
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from harness.core.calls import Tap
from harness.core.errors import UsageError
from harness.core.places import ObjectPlace, Place
from harness.core.recording import RecordingTotals, RedactionRule
from harness.record.listening import most_connections
from harness.record.metrics import CallMetrics, Exposition, serve_metrics
from harness.record.proxy import Proxy
from harness.record.recorder import QueueLimits, Recorder, Recovered
from harness.record.relay import Relay
from harness.record.sampling import Sampler
from harness.record.tls import ClientTls, ServerTls
from harness.record.upstream import Upstream
from harness.record.writer import WriterOptions
from harness.store.counts import FOLDER


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordOptions:
    """What `harness record` is asked for."""

    listen: str
    """host:port to serve on; port 0 = any."""
    upstream: str
    """host:port of the model server."""
    out: Place
    """Where the traffic goes."""
    name: str = "rec"
    """This recorder's name, which its files begin with; one for each that writes to the same place."""
    spool: Path | None = None
    """Folder on this machine for what is not published yet; None = .recorder below `out`."""
    sample: float = 1.0
    """Share of the requests that is kept, in (0, 1]; failures are kept always."""
    seed: int = 0
    """Of the sample."""
    context: tuple[str, ...] = ()
    """Metadata, parameters or inputs of one element that become columns to slice by."""
    rules: tuple[RedactionRule, ...] = ()
    """Redaction."""
    key: bytes = b""
    """Of the redaction's hashes."""
    details: bool = False
    """Whether what the server says of failures is written though there are rules."""
    tls: ServerTls | None = None
    """Towards clients; None = plain text."""
    upstream_tls: ClientTls | None = None
    """Towards the upstream; None = plain text."""
    upstream_authority: str = ""
    """Name that calls to the upstream carry, for servers that are routed by it; "" = the client's."""
    metrics: str = ""
    """host:port of the metrics; "" = none."""
    rotate_s: float = 300.0
    """A file is published at that age at the latest,"""
    rotate_bytes: int = 128 << 20
    """or at about that size."""
    flush_s: float = 1.0
    """A request is durable after that long at the latest."""
    limits: QueueLimits = field(default_factory=QueueLimits)
    """Of the queue."""
    grace_s: float = 30.0
    """At the end: how long calls under way, and then the writer, may take."""


class Passes(enum.StrEnum):
    """What a proxy passes."""

    BYTES = "bytes"
    """Connections as they are, by `relay.Relay`."""
    MESSAGES = "messages"
    """Calls, by `proxy.Proxy`: where a connection's bytes would not fit the other side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A recording that serves."""

    port: int
    """Where it listens."""
    recovered: Recovered
    """What it found of an earlier one."""
    writer_pid: int
    """Of the writer's process."""
    passes: Passes
    """What is passed between clients and upstream."""


def record(
    options: RecordOptions, started: Callable[[Started], None] = lambda _: None
) -> RecordingTotals:
    """Records until SIGTERM or Ctrl-C.

    Args:
      options: what to do.
      started: called once, when clients may come.

    Returns:
      What became of every request, over all starts of this recorder.

    Raises:
      UsageError: an address, a file or a folder cannot be used.
    """
    import uvloop

    # A fifth more requests a second than on asyncio's own loop, measured with h2load on two cores.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_recorded(options, started))


async def _recorded(options: RecordOptions, started: Callable[[Started], None]) -> RecordingTotals:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    recorder = Recorder(
        _writer_options(options), Sampler(options.sample, options.seed), options.limits
    )
    calls = CallMetrics()
    passes = passes_of(options)
    proxy = _proxy(options, passes, recorder, calls)
    shown = Exposition(calls, recorder.totals, lambda: recorder.waiting, lambda: recorder.healthy)
    end_metrics = serve_metrics(shown, options.metrics) if options.metrics else None
    try:
        recovered = await recorder.start()
        port = await proxy.start(options.listen)
        started(
            Started(port=port, recovered=recovered, writer_pid=recorder.writer_pid, passes=passes)
        )
        await ended.wait()
    finally:
        await proxy.stop(options.grace_s)
        totals = await recorder.stop(options.grace_s)
        if end_metrics is not None:
            await asyncio.to_thread(end_metrics)
    return totals


def passes_of(options: RecordOptions) -> Passes:
    """What is passed: bytes, unless they would carry a scheme or a name that is wrong on the other side."""
    alike = (options.tls is None) == (options.upstream_tls is None)
    return Passes.BYTES if alike and not options.upstream_authority else Passes.MESSAGES


def _proxy(
    options: RecordOptions, passes: Passes, recorder: Recorder, calls: CallMetrics
) -> Proxy | Relay:
    named = options.upstream_authority
    upstream = Upstream(
        options.upstream, tls=options.upstream_tls,
        options=(("grpc.default_authority", named),) if named else (),
    )  # fmt: skip
    taps: list[Tap] = [recorder, calls]
    if passes is Passes.MESSAGES:
        return Proxy(
            lambda *_: upstream, taps, upstreams=[upstream], tls=options.tls, count=recorder.fault
        )
    limits = options.limits
    return Relay(
        upstream, taps, tls=options.tls, message_bytes=limits.message_bytes,
        held_bytes=limits.bytes + 2 * limits.message_bytes, most=most_connections(),
        count=recorder.fault,
    )  # fmt: skip


def _writer_options(options: RecordOptions) -> WriterOptions:
    folder = options.spool
    if folder is None:
        if isinstance(options.out, ObjectPlace):
            raise UsageError(
                f"--out {options.out}", "an object store needs a folder on this machine, too",
                "Name one with --spool, for what is not uploaded yet.",
            )  # fmt: skip
        folder = options.out / FOLDER
    return WriterOptions(
        out=str(options.out if isinstance(options.out, ObjectPlace) else options.out.absolute()),
        spool=str(folder.absolute()), name=options.name, rotate_s=options.rotate_s,
        rotate_bytes=options.rotate_bytes, flush_s=options.flush_s, context=options.context,
        rules=options.rules, key=options.key.hex(), details=options.details, sample=options.sample,
        message_bytes=options.limits.message_bytes,
    )  # fmt: skip

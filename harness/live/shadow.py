"""A shadow: production answers from the baseline, and a share of it is shown to the candidate."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.core.calls import Call
from harness.core.errors import UsageError
from harness.core.jsonable import jsonable
from harness.live.mirror_process import REPORT, MirrorOptions
from harness.live.shadow_result import NOT_MIRRORED, ShadowResult
from harness.record.beside import start_beside
from harness.record.frames import frame_from_call
from harness.record.outbox import Outbox
from harness.record.proxy import Proxy
from harness.record.sampling import Sampler
from harness.record.tls import ClientTls, ServerTls
from harness.record.upstream import Upstream
from harness.wire import MODEL_INFER
from harness.wire.scan import MODEL_NAME, bytes_field

_GRACE_S = 5.0
_COMPARE_S = 30.0
"""For the mirror to compare what it has."""
_MOST = 50_000
_LOOK_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowOptions:
    """What the command was given."""

    listen: str
    """Where clients come."""
    baseline: str
    """host:port; answers every request."""
    candidate: str
    """host:port; sees copies."""
    out: Path
    """The shadow's folder: made, or gone on from."""
    candidate_id: str = ""
    """Its version or digest: a restart with another one is refused."""
    policy: Path | None = None
    """With a live section without steps; None = differences are counted and nothing is decided."""
    model: str = ""
    """The only one that is mirrored; "" = whatever is asked for."""
    tls: ServerTls | None = None
    """Towards clients; None = plain text."""
    upstream_tls: ClientTls | None = None
    """Towards both versions; None = plain text."""
    sample: float = 1.0
    """Share of the requests that is mirrored."""
    seed: int = 0
    """Of the sample and of units' names."""
    concurrency: int = 8
    """Requests that the candidate works on at once."""
    deadline_s: float = 2.0
    """The candidate has so long for each."""
    queue_bytes: int = 64 << 20
    """Of requests and answers that wait to be mirrored."""
    message_bytes: int = 16 << 20
    """Larger requests are not mirrored; a larger answer of the candidate is a failure."""
    keep_bytes: int = 1 << 30
    """Of disagreements."""
    look_s: float = 0.5
    """Between two looks at what was answered."""


@dataclass(slots=True)
class Mirror:
    """The tap: samples, and puts copies into a bounded queue that never waits."""

    sampler: Sampler
    message_bytes: int
    model: bytes = b""
    outbox: Outbox | None = None
    mirrored: int = 0
    not_mirrored: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NOT_MIRRORED, 0))

    def offer(self, call: Call) -> None:
        """Hears of a finished call."""
        reason = self._reason(call)
        if reason:
            self.not_mirrored[reason] += 1
        else:
            self.mirrored += 1

    def _reason(self, call: Call) -> str:
        """Why it is not mirrored; "" = it is."""
        unfit = self._unfit(call)
        if unfit:
            return unfit
        if not self.sampler.keeps(call.request):
            return "sampled_out"
        if self.outbox is None or self.outbox.broken:
            return "mirror_gone"
        return "" if self.outbox.put(frame_from_call(call, kept_as_failed=False)) else "queue_full"

    def _unfit(self, call: Call) -> str:
        """Why it is nothing to compare; "" = it is."""
        if call.method != MODEL_INFER:
            return "other_calls"
        if call.cancelled:
            # Production gave no answer that the candidate's could be compared with.
            return "client_gone"
        if self.model and bytes_field(call.request, MODEL_NAME) != self.model:
            return "other_models"
        large = max(len(call.request), len(call.response)) > self.message_bytes
        return "too_large" if large else ""


def serve_shadow(
    options: ShadowOptions, told: Callable[[str], None] = lambda _: None
) -> ShadowResult:
    """Serves the baseline until SIGTERM or Ctrl-C, and mirrors meanwhile.

    Args:
      options: what the command was given.
      told: hears one line when it serves.

    Raises:
      UsageError: an address, a policy or a folder cannot be used.
    """
    return asyncio.run(_shadowed(options, told))


async def _shadowed(options: ShadowOptions, told: Callable[[str], None]) -> ShadowResult:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    mirror = Mirror(
        Sampler(options.sample, options.seed), options.message_bytes, options.model.encode()
    )
    process, ours, said = await start_beside("harness.live.mirror_process", _for_process(options))
    if "error" in said:
        ours.close()
        await asyncio.to_thread(process.wait)
        raise UsageError(f"--out {options.out}", str(said["error"]), "Correct the command.")
    mirror.outbox = Outbox(loop, ours, most_bytes=options.queue_bytes, most=_MOST)
    upstream = Upstream(options.baseline, name="baseline", tls=options.upstream_tls)
    proxy = Proxy(lambda *_: upstream, [mirror], upstreams=[upstream], tls=options.tls)
    try:
        told(f"shadow: serving on port {await proxy.start(options.listen)}")
        while not ended.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), _LOOK_S)
            if process.poll() is not None and not mirror.outbox.broken:
                mirror.outbox.broken = True
                told(
                    "shadow: the mirror's process has ended; production is served, nothing is compared"
                )
    finally:
        await proxy.stop(_GRACE_S)
        report = await _end(options, mirror, process, ours)
    result = ShadowResult(mirrored=mirror.mirrored, not_mirrored=mirror.not_mirrored, report=report)
    with suppress(OSError):
        (options.out / "shadow.json").write_text(result.to_json())
    return result


async def _end(
    options: ShadowOptions, mirror: Mirror, process: subprocess.Popen[bytes], ours: socket.socket
) -> dict[str, Any]:
    """Lets the mirror finish what it has, and reads its report."""
    if mirror.outbox is not None:
        await mirror.outbox.drained(_GRACE_S)
        left = mirror.outbox.close()
        mirror.mirrored -= left
        mirror.not_mirrored["queue_full"] += left
    ours.close()
    await asyncio.to_thread(_end_process, process, options.deadline_s)
    try:
        found: dict[str, Any] = json.loads((options.out / REPORT).read_text())
    except (OSError, ValueError):
        return {}
    mirror.mirrored -= found["not_asked"]
    mirror.not_mirrored["queue_full"] += found["not_asked"]
    return found


def _end_process(process: subprocess.Popen[bytes], deadline_s: float) -> None:
    """Waits for the process: first for all that waits, then only for what has been asked."""
    for wait_s, then in (
        (_GRACE_S, process.terminate),
        (deadline_s + _COMPARE_S, process.kill),
    ):
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            then()
        else:
            return
    process.wait()


def _for_process(options: ShadowOptions) -> str:
    return MirrorOptions(
        out=str(options.out), candidate=options.candidate, candidate_id=options.candidate_id,
        baseline=options.baseline, policy="" if options.policy is None else str(options.policy),
        seed=str(options.seed), concurrency=options.concurrency, deadline_s=options.deadline_s,
        answer_bytes=options.message_bytes, keep_bytes=options.keep_bytes, look_s=options.look_s,
        tls=None if options.upstream_tls is None else jsonable(options.upstream_tls),
    ).to_json()  # fmt: skip

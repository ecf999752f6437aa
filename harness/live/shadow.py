"""A shadow: production answers from the baseline, and a share of it is shown to the candidate."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.core.calls import Call, Tap
from harness.core.errors import UsageError
from harness.core.jsonable import jsonable
from harness.core.recording import RedactionRule
from harness.live.metrics import ShadowExposition
from harness.live.mirror_judge import REPORT
from harness.live.mirror_process import MirrorOptions
from harness.live.shadow_result import NOT_MIRRORED, RESULT, Before, ShadowResult
from harness.record.beside import start_beside
from harness.record.frames import frame_from_call
from harness.record.listening import must_be_free
from harness.record.metrics import CallMetrics, serve_metrics
from harness.record.outbox import Outbox
from harness.record.outcomes import PROXY_ENDED
from harness.record.proxy import Proxy
from harness.record.sampling import Sampler
from harness.record.tls import ClientTls, ServerTls
from harness.record.upstream import Upstream
from harness.store.files import write_atomically
from harness.wire import MODEL_INFER
from harness.wire.scan import MODEL_NAME, bytes_field

_CALLS_S = 3.0
"""At the end, for calls under way."""
_DRAIN_S = 4.0
"""Until then the mirror is sent what waits for it,"""
_STOP_S = 5.0
"""until then it does all that it was sent, and afterwards only what it has begun,"""
_LEAST_S = 1.0
_SILENT_S, _SILENT_LOOKS = 0.25, 10
"""as long as it gives a sign of life in so many looks, each so long: a machine that stands still makes one
look longer and takes nothing from the others,"""
_COMPARE_S = 30.0
"""and for so long beside the candidate's deadline."""
_MOST = 50_000
_LOOK_S = 0.2
_PART = 1 << 16
_SIGN_OF_LIFE = b"."


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
    rules: tuple[RedactionRule, ...] = ()
    """Redaction of what is kept."""
    key: bytes = b""
    """Of the redaction's hashes."""
    metrics: str = ""
    """host:port of Prometheus metrics; "" = none."""
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
        if call.cancelled or (call.code, call.details) == PROXY_ENDED:
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
    must_be_free({"--listen": options.listen, "--metrics": options.metrics})
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
        where = str(said.get("where", f"--out {options.out}"))
        raise UsageError(where, str(said["error"]), str(said.get("remedy", "Name another folder.")))
    mirror.outbox = Outbox(loop, ours, most_bytes=options.queue_bytes, most=_MOST)
    upstream = Upstream(options.baseline, name="baseline", tls=options.upstream_tls)
    calls = CallMetrics()
    taps: list[Tap] = [mirror, calls] if options.metrics else [mirror]
    proxy = Proxy(lambda *_: upstream, taps, upstreams=[upstream], tls=options.tls)
    outbox = mirror.outbox
    before = Before.read(options.out / RESULT) if said["begun"] else Before()
    shown = ShadowExposition(
        calls, lambda: (mirror.mirrored, mirror.not_mirrored), lambda: (len(outbox), outbox.bytes),
        options.out / REPORT,
    )  # fmt: skip
    end_metrics = None
    try:
        end_metrics = serve_metrics(shown, options.metrics) if options.metrics else None
        port = await proxy.start(options.listen)
        before.begin(options.out / RESULT)
        told(f"shadow: serving on port {port}")
        while not ended.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), _LOOK_S)
            if process.poll() is not None and not mirror.outbox.broken:
                mirror.outbox.broken = True
                told(
                    "shadow: the mirror's process has ended; production is served, nothing is compared"
                )
    finally:
        end = MirrorEnd(process, ours, options.deadline_s)
        await proxy.stop(_CALLS_S)
        report = await _end(options, mirror, end)
        if end_metrics is not None:
            await asyncio.to_thread(end_metrics)
    result = _result(before, mirror, report, end)
    with suppress(OSError):
        # Where it is missing, the next start says so.
        write_atomically(options.out / RESULT, result.to_json().encode())
    return result


def _result(before: Before, mirror: Mirror, report: dict[str, Any], end: MirrorEnd) -> ShadowResult:
    """This start's account on top of those before."""
    taken = report["taken"] - report["taken_before"] if report else 0
    lost = 0 if report.get("whole") else mirror.mirrored - taken
    not_mirrored = {
        why: n + before.not_mirrored.get(why, 0) for why, n in mirror.not_mirrored.items()
    }
    mirrored = mirror.mirrored + max(before.mirrored, report.get("taken_before", 0))
    return ShadowResult(
        mirrored=mirrored, not_mirrored=not_mirrored, report=report,
        lost=lost + before.lost, killed=end.killed, cut=before.cut_with(report.get("taken_before", 0)),
        unsaved=end.unsaved,
    )  # fmt: skip


async def _end(options: ShadowOptions, mirror: Mirror, end: MirrorEnd) -> dict[str, Any]:
    """Lets the mirror finish what it has, and reads its report."""
    if mirror.outbox is not None:
        await mirror.outbox.drained(end.left_s(_DRAIN_S))
        left = mirror.outbox.close()
        mirror.mirrored -= left
        mirror.not_mirrored["queue_full"] += left
    await asyncio.to_thread(end.wait)
    try:
        found: dict[str, Any] = end.report or json.loads((options.out / REPORT).read_text())
    except (OSError, ValueError):
        return {}
    mirror.mirrored -= found["not_asked"]
    mirror.not_mirrored["queue_full"] += found["not_asked"]
    return found


class MirrorEnd:
    """The mirror's last seconds, counted from when it is made.

    Args:
      process: the mirror's.
      ours: our end of its socket.
      deadline_s: the candidate's for one request.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], ours: socket.socket, deadline_s: float
    ) -> None:
        self._process = process
        self._ours = ours
        self._deadline_s = deadline_s
        self._began_s = time.perf_counter()
        self._heard = b""
        self.killed = False
        """It gave no sign of life, or had far more to do than there was time for."""
        self.unsaved = ""
        """Why it could not write its report; "" = it could."""
        self.report: dict[str, Any] = {}
        """The report that it could not write."""

    def left_s(self, until_s: float) -> float:
        """Seconds until so long after the beginning, at least 0."""
        return max(until_s - (time.perf_counter() - self._began_s), 0.0)

    def wait(self) -> None:
        """Waits for the process: first for all that waits, then only for what has been asked."""
        with self._ours:
            with suppress(OSError):
                self._ours.shutdown(socket.SHUT_WR)
            self._ours.settimeout(_SILENT_S)
            try:
                self._process.wait(max(self.left_s(_STOP_S), _LEAST_S))
            except subprocess.TimeoutExpired:
                self._process.terminate()
                self._listen()
            self._process.wait()
            self._read_last_word()

    def _read_last_word(self) -> None:
        """What it said where it could not be written; nothing where all went well."""
        while True:
            try:
                part = self._ours.recv(_PART)
            except OSError:
                break
            if not part:
                break
            self._heard += part
        try:
            said = json.loads(self._heard.lstrip(_SIGN_OF_LIFE))
        except ValueError:
            return
        self.unsaved, self.report = said["unsaved"], said["report"]

    def _listen(self) -> None:
        """Until the process closes its end; kills it where it is silent, or takes too long."""
        until_s = time.perf_counter() + self._deadline_s + _COMPARE_S
        silent = 0
        while time.perf_counter() < until_s and silent < _SILENT_LOOKS:
            try:
                part = self._ours.recv(_PART)
            except TimeoutError:
                silent += 1
                continue
            except OSError:
                return
            if not part:
                return
            self._heard += part
            silent = 0
        self.killed = True
        self._process.kill()


def _for_process(options: ShadowOptions) -> str:
    return MirrorOptions(
        out=str(options.out), candidate=options.candidate, candidate_id=options.candidate_id,
        baseline=options.baseline, policy="" if options.policy is None else str(options.policy),
        seed=str(options.seed), concurrency=options.concurrency, deadline_s=options.deadline_s,
        answer_bytes=options.message_bytes, keep_bytes=options.keep_bytes, look_s=options.look_s,
        model=options.model, sample=options.sample,
        tls=None if options.upstream_tls is None else jsonable(options.upstream_tls),
        rules=options.rules, key=options.key.hex(),
    ).to_json()  # fmt: skip

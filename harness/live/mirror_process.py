"""The mirror's process: calls come in on a socket, the candidate is asked, both answers are compared.

It is a process of its own, with less right to the processor, so that whatever the candidate does – die,
hang, send floods – costs production nothing: the proxy's only part is a bounded queue that drops.
When the candidate is slow the process reads no more, the queue fills, and what does not fit is counted
there.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import grpc.aio

from harness.core.calls import Call
from harness.core.errors import HarnessError
from harness.core.jsonable import jsonable
from harness.core.recording import RedactionRule
from harness.live.diffing import Mirrored
from harness.live.folder_files import begun as was_begun
from harness.live.heartbeat import Heartbeat
from harness.live.layouts import Answered
from harness.live.mirror_judge import MOST_TIMES, REPORT, MirrorJudge, MirrorReport
from harness.record.frames import FrameReader
from harness.record.outcomes import DEADLINE_EXCEEDED
from harness.record.redaction import Redaction, rules_from_json
from harness.record.tls import ClientTls
from harness.record.upstream import Upstream
from harness.store.files import write_atomically

_READ_BYTES = 1 << 20
_REPORT_S = 2.0
"""So often what has been seen is written down: a process that is killed leaves it behind."""
_NICE = 10
_LAST_WORD_S = 1.0
_MOST_BYTES = 256 << 20
"""Requests and answers that wait to be compared; beyond it nothing more is asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorOptions:
    """What the process is told."""

    out: str
    """The shadow's folder."""
    candidate: str
    """host:port."""
    candidate_id: str
    """Its version or digest."""
    baseline: str
    """host:port; for the manifest."""
    model: str
    """The only one that is mirrored; for the manifest."""
    sample: float
    """Share of the requests that is mirrored; for the manifest."""
    policy: str
    """File; "" = none: differences are counted and nothing is decided."""
    seed: str
    """Of units' names."""
    concurrency: int
    """Requests that the candidate works on at once."""
    deadline_s: float
    """The candidate has so long for each."""
    answer_bytes: int
    """A longer answer is a failure of the candidate's."""
    keep_bytes: int
    """Of disagreements."""
    look_s: float
    """Between two looks."""
    tls: dict[str, str | None] | None
    """Towards the candidate: `record.tls.ClientTls`; None = plain text."""
    rules: tuple[RedactionRule, ...]
    """Of what is kept."""
    key: str
    """Of their hashes, in hexadecimal digits."""

    def to_json(self) -> str:
        """As the process reads it."""
        return json.dumps(jsonable(self))


class _Mirror:
    """Asks the candidate; at most `concurrency` at once, and nothing is read while all are busy."""

    def __init__(self, options: MirrorOptions, judge: MirrorJudge) -> None:
        self._options = options
        self._judge = judge
        limit = (("grpc.max_receive_message_length", options.answer_bytes),)
        tls = None if options.tls is None else _tls(options.tls)
        self._upstream = Upstream(options.candidate, name="candidate", tls=tls, options=limit)
        self._free = asyncio.Semaphore(options.concurrency)
        self._done: deque[tuple[int | None, Mirrored]] = deque()
        self._done_bytes = 0
        self._asked: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()
        self._stopping = asyncio.Event()
        self._heart = Heartbeat()
        self._not_asked = 0
        self._reported_s = 0.0

    async def run(self, calls: socket.socket) -> MirrorReport:
        """Until the socket is closed and every answer is compared."""
        looks = asyncio.create_task(self._looks())
        life = asyncio.create_task(self._live(calls))
        heart = asyncio.create_task(self._heart.beat())
        loop = asyncio.get_running_loop()
        # Not the loop's own handlers: with the loop they go, and a late signal would end the process
        # before it has written its report.
        signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(self._stopping.set))
        reader = FrameReader()
        while received := await loop.sock_recv(calls, _READ_BYTES):
            for framed in reader.feed(received):
                await self._take(framed.call)
        while self._asked:
            await asyncio.wait(tuple(self._asked))
        self._ended.set()
        await looks
        await self._upstream.close()
        report = await asyncio.to_thread(self._judge.close)
        life.cancel()
        heart.cancel()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return replace(report, not_asked=self._not_asked)

    async def _live(self, to: socket.socket) -> None:
        """From SIGTERM on, signs of life: whoever waits for the end waits for no stopped process."""
        await self._stopping.wait()
        while True:
            with suppress(OSError):
                to.send(b".")
            await asyncio.sleep(self._options.look_s)

    async def _take(self, call: Call) -> None:
        """Waits until the candidate may be asked, and asks; at the end nobody is asked any more."""
        await self._free.acquire()
        while self._done_bytes > _MOST_BYTES and not self._stopping.is_set():
            await asyncio.sleep(self._options.look_s)
        if self._stopping.is_set():
            self._free.release()
            self._not_asked += 1
            return
        task = asyncio.create_task(self._ask(self._judge.arrived(call), call))
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    async def _ask(self, seq: int | None, call: Call) -> None:
        try:
            answered = await self._known(call)
        finally:
            self._free.release()
        self._done.append((seq, Mirrored(call, answered)))
        self._done_bytes += len(call.request) + len(call.response) + len(answered.response)

    async def _known(self, call: Call, times: int = MOST_TIMES) -> Answered:
        """The candidate's answer; asked for again where its deadline ended while this process stood still."""
        start_s = time.monotonic()
        answered = await self._answer(call)
        late = answered.code == DEADLINE_EXCEEDED
        if times > 1 and late and self._heart.stood_since(start_s):
            return await self._known(call, times - 1)
        return answered

    async def _answer(self, call: Call) -> Answered:
        """What the candidate says, or how it fails."""
        start = time.perf_counter()
        response, code = b"", 0
        try:
            response = await self._upstream.unary(call.method)(
                call.request, timeout=self._options.deadline_s, metadata=call.metadata
            )
        except grpc.aio.AioRpcError as error:
            code = int(error.code().value[0])
        return Answered(response, code, time.perf_counter() - start)

    async def _looks(self) -> None:
        while not self._ended.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), self._options.look_s)
            await self._look()
        await self._look()

    async def _look(self) -> None:
        done = [self._done.popleft() for _ in range(len(self._done))]
        self._done_bytes = 0
        await asyncio.to_thread(self._turn, done)

    def _turn(self, done: list[tuple[int | None, Mirrored]]) -> None:
        self._judge.turn(done)
        now_s = time.perf_counter()
        if now_s - self._reported_s >= _REPORT_S:
            self._reported_s = now_s
            # Without room there is only the last word, which says that there was none.
            with suppress(OSError):
                write_report(self._options.out, self._judge.report(whole=False))


def write_report(out: str, report: MirrorReport) -> None:
    """Leaves a report in the shadow's folder.

    Raises:
      OSError: it cannot be written.
    """
    write_atomically(Path(out) / REPORT, json.dumps(jsonable(report)).encode())


def _tls(given: dict[str, str | None]) -> ClientTls:
    files = {part: Path(found) for part in ("ca", "cert", "key") if (found := given[part])}
    return ClientTls(**files, server_name=given["server_name"] or "")


def _say(to: socket.socket, **words: object) -> None:
    to.sendall(json.dumps(words).encode() + b"\n")


def main() -> int:
    """The process: the socket's number in its argument, options as JSON on its standard input."""
    # A Ctrl-C is for the proxy, which then says when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.nice(_NICE)
    told = json.loads(sys.stdin.read())
    options = MirrorOptions(**{**told, "rules": rules_from_json(told["rules"])})
    with socket.socket(fileno=int(sys.argv[1])) as calls:
        calls.setblocking(False)
        begun = was_begun(Path(options.out))
        try:
            judge = MirrorJudge.start(
                Path(options.out), Path(options.policy) if options.policy else None,
                seed=options.seed, baseline=options.baseline,
                candidate=f"{options.candidate} {options.candidate_id}".strip(),
                keep_bytes=options.keep_bytes, deadline_s=options.deadline_s,
                model=options.model, sample=options.sample,
                redaction=Redaction(options.rules, bytes.fromhex(options.key)),
            )  # fmt: skip
        except HarnessError as error:
            _say(calls, error=error.what, where=error.where, remedy=error.remedy)
            return 2
        except OSError as error:
            _say(calls, error=f"cannot be written: {error.strerror}")
            return 2
        _begin_report(options.out, judge.report(whole=False) if begun else None)
        _say(calls, ready=True, begun=begun)

        async def run() -> MirrorReport:
            return await _Mirror(options, judge).run(calls)

        report = asyncio.run(run())
        try:
            write_report(options.out, report)
        except OSError as error:
            # Without room the last word goes to whoever started this process.
            calls.settimeout(_LAST_WORD_S)
            with suppress(OSError):
                _say(calls, unsaved=error.strerror or "", report=jsonable(report))
    return 0


def _begin_report(out: str, report: MirrorReport | None) -> None:
    """Leaves what earlier starts have seen, or nothing in a first one; no older last word stays."""
    try:
        if report is not None:
            write_report(out, report)
            return
    except OSError as error:
        sys.stderr.write(f"shadow: {Path(out) / REPORT} cannot be written: {error.strerror}\n")
    (Path(out) / REPORT).unlink(missing_ok=True)


if __name__ == "__main__":
    raise SystemExit(main())

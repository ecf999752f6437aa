"""A live sink for KServe's inference logger: CloudEvents over HTTP, straight into staging.

An event is acknowledged when it is committed, many at once; a sender that hears 503 knows that it was
not taken, and /healthz says why. Whole exchanges, and requests that waited long enough, are written every so often and at the
end. Binary, structured and batched events are read.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import queue
import sqlite3
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from harness.core.clock import now_ns
from harness.core.errors import TrafficError, UsageError
from harness.core.tensors import Signature
from harness.record.importers.columns import BodyMapping
from harness.record.importers.documents import parsed
from harness.record.importers.guarding import Guard
from harness.record.importers.kserve import event
from harness.record.importers.ledger import writing
from harness.record.importers.parts import Part, PayloadError, Refused, Trouble, kind_of
from harness.record.importers.payloads import Messages
from harness.record.importers.run import (
    STAGING_FILE,
    ImportReport,
    ImportTarget,
    take,
    write_and_report,
)
from harness.record.importers.staging import Staging

_STRUCTURED, _BATCHED = "application/cloudevents+json", "application/cloudevents-batch+json"
_MOST_WAITING = 4096
_MOST_TOGETHER = 512
_ANSWER_S = 30.0
_RETRY_S = 0.5
_OK, _BAD, _NO_LENGTH, _TOO_LARGE, _BUSY = 200, 400, 411, 413, 503


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkOptions:
    """How a sink listens and writes."""

    host: str
    """Address to listen at."""
    port: int
    """0 = any free one."""
    most_record_bytes: int
    """Larger events are refused with 413 and counted."""
    wait_s: float
    """How long a request waits here for its answer before it is written without one; time in which the
    sink did not run is no waiting."""
    flush_s: float
    """How often what is whole is written."""
    certificate: str = ""
    """TLS certificate file; "" = plain HTTP."""
    key: str = ""
    """Its key file."""


@dataclass(slots=True)
class _Waiting:
    """Events of one HTTP request on their way into staging."""

    found: Sequence[Part | Refused]
    done: threading.Event = field(default_factory=threading.Event)
    answer: int = _BUSY


class EventSink:
    """Takes events until it is closed.

    Args:
      target: where the traffic goes.
      options: how to listen and write.
      known: names and types of bodies without them, from the model's signature or a mapping.

    Raises:
      UsageError: the address cannot be had, or the certificate cannot be used.
      TrafficError: another import writes there.
    """

    def __init__(
        self, target: ImportTarget, options: SinkOptions, known: Signature | BodyMapping | None
    ) -> None:
        self._target, self._options = target, options
        self._messages = Messages(known)
        self._queue: queue.Queue[_Waiting] = queue.Queue(_MOST_WAITING)
        self._stop = threading.Event()
        self._refused_busy = 0
        self._failure: BaseException | None = None
        self._trouble = self._unwritten = ""
        self._report: ImportReport | None = None
        self._server = _listening(options, self)
        self._threads = [
            threading.Thread(target=self._stage, name="sink-writer"),
            threading.Thread(target=self._server.serve_forever, name="sink-listener"),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    @property
    def busy(self) -> int:
        """Requests that were answered 503, because too many waited."""
        return self._refused_busy

    @property
    def trouble(self) -> str:
        """Why events or traffic cannot be written now; "" = they can."""
        return repr(self._failure) if self._failure else self._trouble

    def wait(self) -> None:
        """Returns when the writer has ended; otherwise never."""
        self._stop.wait()

    def close(self) -> ImportReport | None:
        """Stops listening, writes what is whole and reports; None when no event ever came.

        Raises:
          HarnessError: writing failed.
        """
        self._server.shutdown()
        self._server.server_close()
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._failure is not None:
            raise self._failure
        return self._report

    def offer(self, found: Sequence[Part | Refused]) -> int:
        """Hands events over and waits until they are committed; the HTTP status to answer with."""
        waiting = _Waiting(found)
        if self._failure is not None:
            return _BUSY
        try:
            self._queue.put_nowait(waiting)
        except queue.Full:
            self._refused_busy += 1
            return _BUSY
        return waiting.answer if waiting.done.wait(_ANSWER_S) else _BUSY

    def _stage(self) -> None:
        try:
            state = self._target.state / STAGING_FILE
            with writing(self._target.to), Staging(state, live=True) as staging:
                self._stage_until_stopped(staging)
                staging.undo()
                if staging.counts()["records"]:
                    self._report = self._write(staging)
        except Exception as error:  # noqa: BLE001 - whatever ends the writer must end the sink, with its exit code
            self._failure = error
            self._stop.set()
            while not self._queue.empty():
                self._queue.get_nowait().done.set()

    def _stage_until_stopped(self, staging: Staging) -> None:
        written_s = time.monotonic()
        while not self._stop.is_set() or not self._queue.empty():
            together = self._together()
            if together or self._trouble != self._unwritten:
                self._take(staging, together)
            if time.monotonic() - written_s >= self._options.flush_s:
                self._flush(staging)
                written_s = time.monotonic()

    def _take(self, staging: Staging, together: Sequence[_Waiting]) -> None:
        """Stages events and commits; a disk that refuses costs none: their senders hear 503."""
        try:
            if self._trouble:
                staging.undo()
            answers = []
            for waiting in together:
                read = [take(staging, found, self._messages) for found in waiting.found]
                answers.append(_OK if any(read) else _BAD)
            staging.count("probes", int(bool(self._trouble)))
            staging.commit()
        except (sqlite3.Error, OSError) as error:
            self._trouble = f"events cannot be stored: {error}"
            self._stop.wait(_RETRY_S)
        else:
            self._trouble = self._unwritten
            for waiting, answer in zip(together, answers, strict=True):
                waiting.answer = answer
        for waiting in together:
            waiting.done.set()

    def _flush(self, staging: Staging) -> None:
        """Writes traffic; where it cannot be, what was taken stays staged until it can."""
        if self._trouble and self._trouble != self._unwritten:
            return
        try:
            self._write(staging)
        except (sqlite3.Error, OSError, TrafficError) as error:
            self._unwritten = self._trouble = f"traffic cannot be written: {error}"
        else:
            self._unwritten = self._trouble = ""

    def _together(self) -> list[_Waiting]:
        found: list[_Waiting] = []
        with contextlib.suppress(queue.Empty):
            found.append(self._queue.get(timeout=0.2))
            while len(found) < _MOST_TOGETHER:
                found.append(self._queue.get_nowait())
        return found

    def _write(self, staging: Staging) -> ImportReport:
        staging.note_ran()
        until = staging.ran_ns - round(self._options.wait_s * 1e9)
        return write_and_report(staging, self._target, until)


def _listening(options: SinkOptions, sink: EventSink) -> ThreadingHTTPServer:
    class Handler(_Handler):
        taker = sink
        limit = options.most_record_bytes

    try:
        server = ThreadingHTTPServer((options.host, options.port), Handler)
    except OSError as error:
        raise UsageError(
            f"--listen {options.host}:{options.port}", f"cannot be listened at: {error.strerror}",
            "Name a free port of an address of this machine.",
        ) from None  # fmt: skip
    if options.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(options.certificate, options.key or None)
        except OSError as error:
            server.server_close()
            raise UsageError(
                options.certificate, f"cannot be used: {error}", "Give PEM files."
            ) from None
        # The handshake belongs to the connection's own thread: a silent client must hold up nobody.
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    return server


class _Handler(BaseHTTPRequestHandler):
    taker: EventSink
    limit: int
    timeout = 30
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Health."""
        if self.path != "/healthz":
            self._answer(404)
            return
        trouble = self.taker.trouble
        self._answer(_BUSY if trouble else _OK, trouble)

    def do_POST(self) -> None:
        """One event, or a batch of them."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self.close_connection = True
            self._answer(_NO_LENGTH)
            return
        headers = {k.lower(): v for k, v in self.headers.items()}
        if int(length) > self.limit:
            self.close_connection = True
            raw = json.dumps(headers).encode()
            why = f"an event of {int(length):,} bytes, over the limit of {self.limit:,}"
            self.taker.offer([Refused(place=_place(), trouble=Trouble.OVERSIZED, why=why, raw=raw)])
            self._answer(_TOO_LARGE)
            return
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            return
        self._answer(self.taker.offer(events(headers, body)))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - http.server's signature
        """Says nothing: counts are in the report."""

    def _answer(self, code: int, text: str = "") -> None:
        body = text.encode("utf-8", "backslashreplace")
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


_numbers = itertools.count()


def _place() -> str:
    """A name of its own for each event, over restarts too."""
    return f"event {now_ns()}.{next(_numbers)}"


def events(headers: Mapping[str, str], body: bytes) -> list[Part | Refused]:
    """The events of one HTTP request.

    Args:
      headers: names in lower case.
      body: whole.
    """
    kind = headers.get("content-type", "").split(";")[0].strip().lower()
    if kind not in {_STRUCTURED, _BATCHED}:
        return [Guard(_place(), body)(partial(event, _place(), headers, body))]
    guard = Guard(_place(), body)
    found = guard(partial(_events, body, batched=kind == _BATCHED))
    return [found] if isinstance(found, Refused) else found


def _events(body: bytes, *, batched: bool) -> list[Part | Refused]:
    document = parsed(body)
    batch = document if batched else [document]
    if not isinstance(batch, list) or not all(isinstance(e, dict) for e in batch):
        strange = (
            batch if not isinstance(batch, list) else next(e for e in batch if type(e) is not dict)
        )
        raise PayloadError(f"no CloudEvent: {kind_of(strange)}")
    return [event(_place(), *_binary(e)) for e in batch] or [_no_event("an empty batch", body)]


def _no_event(why: str, body: bytes) -> Refused:
    return Refused(place=_place(), trouble=Trouble.UNDECODABLE, why=why, raw=body)


def _binary(attributes: dict[str, Any]) -> tuple[dict[str, str], bytes]:
    """A structured event as headers and body."""
    headers = {f"ce-{k}": str(v) for k, v in attributes.items() if k not in {"data", "data_base64"}}
    headers["content-type"] = str(attributes.get("datacontenttype", "application/json"))
    if "data_base64" in attributes:
        try:
            return headers, base64.b64decode(attributes["data_base64"], validate=True)
        except (ValueError, TypeError):
            raise PayloadError("no CloudEvent: its data_base64 is no base64") from None
    data = attributes.get("data")
    return headers, data.encode() if isinstance(data, str) else json.dumps(data).encode()

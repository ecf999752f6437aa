"""The writer's process: calls come in on a socket, rows go to disk, counts stay in a mapped file.

It is a process of its own because parsing and writing would hold the proxy's interpreter for
milliseconds at a time. It ends when the proxy closes the socket, or is gone, after everything that came
is written. When the disk stalls it reads no more; what waits then waits in the proxy's bounded queue.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import HarnessError
from harness.core.jsonable import jsonable
from harness.core.places import Place, place_from_text
from harness.core.recording import (
    AFTER_HANDING,
    SHARE_UNIT,
    Recorded,
    RedactionRule,
)
from harness.core.traffic import Exchange
from harness.record.exchanges import ExchangeMaker
from harness.record.frames import FrameReader
from harness.record.redaction import Redaction, rules_from_json
from harness.record.spooling import LOG, Spooler
from harness.store.counts import ENDING as COUNTS
from harness.store.counts import Counts
from harness.store.files import locked
from harness.store.totals import write_totals

_ROWS, _BYTES = 2048, 32 << 20
"""Of a row group: the most that a kill loses of this process, besides what came within `flush_s`."""
_READ_BYTES = 1 << 20
_TOTALS_EVERY_S = 5.0
_LOCK_WAIT_S = 10.0
_NICE = 10
"""Production answers come first: the writer takes what processor time they leave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterOptions:
    """What the writer's process is told."""

    out: str
    """Folder or prefix of the traffic."""
    spool: str
    """The recorder's own folder, on this machine."""
    name: str
    """The recorder's name, which its files begin with."""
    rotate_s: float
    """A file is published at that age at the latest,"""
    rotate_bytes: int
    """or at about that size."""
    flush_s: float
    """Rows are durable after that long at the latest."""
    context: tuple[str, ...]
    """Columns to slice by."""
    rules: tuple[RedactionRule, ...]
    """Redaction."""
    key: str
    """Of the hashes, hex."""
    details: bool
    """Whether what servers say of failures is written though there are rules."""
    sample: float
    """Share that the sample keeps; for the totals."""
    message_bytes: int
    """A compressed message that holds more is not written."""

    def to_json(self) -> str:
        """As the process reads it."""
        return json.dumps(jsonable(self))


def options_from_json(text: str) -> WriterOptions:
    """Reads what `to_json` wrote."""
    found: dict[str, Any] = json.loads(text)
    rules = rules_from_json(found["rules"])
    return WriterOptions(**{**found, "context": tuple(found["context"]), "rules": rules})


class Writer:
    """Takes calls and keeps the files.

    Args:
      options: what it was told.
      counts: shared with the proxy.
    """

    def __init__(self, options: WriterOptions, counts: Counts) -> None:
        self._options = options
        self._out: Place = place_from_text(options.out)
        self._counts = counts
        self._reader = FrameReader()
        self._spooler = Spooler(self._out, Path(options.spool), options.name, counts)
        self._redaction = Redaction(options.rules, bytes.fromhex(options.key))
        self._maker = ExchangeMaker(
            self._redaction, options.context, made_up=f"{options.name}-{time.time_ns():x}-",
            counts=counts, details=options.details or not options.rules,
            message_bytes=options.message_bytes,
        )  # fmt: skip
        self._rows: list[Exchange] = []
        self._bytes = 0
        now = time.monotonic()
        self._flushed = self._rotated = self._told = now

    def begin(self) -> tuple[int, int]:
        """Takes over what an earlier writer left; it is published in the background.

        Returns:
          Exchanges recovered, and exchanges lost with it.
        """
        # Before anything is published: what is written then counts as such.
        ended = sum(self._counts[c] for c in AFTER_HANDING) + self._counts[Recorded.WRITTEN]
        handed = self._counts[Recorded.HANDED]
        recovered = self._spooler.recover()
        lost = handed - ended - recovered
        self._counts.add(Recorded.LOST, lost)
        for of_this_start in (Recorded.SPOOL_REFUSED, Recorded.RULES_UNUSED):
            self._counts.set(of_this_start, 0)
        self._counts.set(Recorded.SHARE, round(self._options.sample * SHARE_UNIT))
        self._write_totals()
        return recovered, lost

    def take(self, received: bytes) -> None:
        """Takes what came from the socket."""
        for framed in self._reader.feed(received):
            exchange = self._maker.make(framed)
            if exchange is None:
                continue
            self._rows.append(exchange)
            self._bytes += len(exchange.request) + len(exchange.response)
            if len(self._rows) >= _ROWS or self._bytes >= _BYTES:
                self._flush()

    def tick(self) -> None:
        """Flushes, rotates and tells what is due."""
        now = time.monotonic()
        if not self._rows:
            self._flushed = now
        elif now - self._flushed >= self._options.flush_s:
            self._flush()
        if now - self._rotated >= self._options.rotate_s:
            self._rotate()
        if now - self._told >= _TOTALS_EVERY_S:
            self._maker.look_at_clock()
            self._write_totals()

    def close(self) -> None:
        """Writes and publishes all there is."""
        self._flush()
        self._warn_of_unused_rules()
        self._spooler.close()
        self._counts.set(Recorded.CLOSED, 1)
        self._write_totals()

    def _flush(self) -> None:
        self._spooler.write(self._rows)
        self._rows, self._bytes = [], 0
        self._flushed = time.monotonic()
        if self._spooler.size_bytes >= self._options.rotate_bytes:
            self._rotate()

    def _rotate(self) -> None:
        self._spooler.rotate()
        self._rotated = time.monotonic()

    def _warn_of_unused_rules(self) -> None:
        """A rule with a slip in its name protects nothing."""
        if not self._counts[Recorded.RULES_UNUSED]:
            return
        for rule in self._options.rules:
            if rule in self._redaction.unused:
                LOG.warning("no request had a value for the rule %s: %s", rule.where, rule.name)

    def _write_totals(self) -> None:
        name, sample = self._options.name, self._options.sample
        totals = self._counts.totals(writer=name, sample=sample)
        self._told = time.monotonic()
        try:
            write_totals(self._out, totals)
        except (OSError, HarnessError) as error:
            LOG.warning("the totals could not be written: %s", error)


def run(options: WriterOptions, calls: socket.socket) -> int:
    """Serves one proxy until it goes.

    Args:
      options: what to do.
      calls: frames come in here; one line of JSON goes out when the writer is ready, or cannot be.
    """
    folder = Path(options.spool)
    until = time.monotonic() + _LOCK_WAIT_S
    while True:
        with locked(folder / f"{options.name}.lock", wait=False) as alone:
            if alone:
                return _run_alone(options, calls, Counts(folder / f"{options.name}{COUNTS}"))
        if time.monotonic() > until:
            _say(calls, error=f"a recorder named '{options.name}' is writing there already")
            return 2
        time.sleep(0.1)  # a writer whose proxy was killed still finishes


def _run_alone(options: WriterOptions, calls: socket.socket, counts: Counts) -> int:
    writer = Writer(options, counts)
    try:
        recovered, lost = writer.begin()
    except (OSError, HarnessError) as error:
        _say(calls, error=str(error))
        return 4
    _say(calls, recovered=recovered, lost=lost)
    wait_ms = 1000 * min(options.flush_s, options.rotate_s, 1.0) / 2
    # Not select: where the proxy has many connections the socket's number is above what it takes.
    coming = select.poll()
    coming.register(calls, select.POLLIN)
    while True:
        if coming.poll(wait_ms):
            received = calls.recv(_READ_BYTES)
            if not received:
                break
            writer.take(received)
        writer.tick()
    writer.close()
    return 0


def _say(to: socket.socket, **words: object) -> None:
    to.sendall(json.dumps(words).encode() + b"\n")


def main() -> int:
    """The process: the socket's number in its argument, options as JSON on its standard input."""
    # The proxy decides when to end: Ctrl-C reaches the whole group of processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.basicConfig(format="harness record: %(message)s", level=logging.WARNING)
    os.nice(_NICE)
    with socket.socket(fileno=int(sys.argv[1])) as calls:
        return run(options_from_json(sys.stdin.read()), calls)


if __name__ == "__main__":
    sys.exit(main())

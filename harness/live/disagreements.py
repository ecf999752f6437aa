"""Requests that the versions answer differently, kept with both answers, in bounded space.

    disagreements/baseline/    traffic folders of the same requests, by the same ids:
    disagreements/candidate/   the one with production's answers, the other with the candidate's

Both can be shown, sealed and compared like any recorded traffic. Nothing of them reaches the disk
before the rules of a redaction were applied; credentials in metadata never do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.core.traffic import Exchange
from harness.live.diffing import Mirrored, id_of
from harness.record.redaction import Redaction
from harness.store.traffic import TrafficWriter
from harness.wire.contents import MessageError
from harness.wire.facts import request_facts, response_version

FOLDER = "disagreements"
_EXCHANGE_BYTES = 512
"""Of an exchange besides its messages."""


class Disagreements:
    """Keeps them until the space is used up, then counts.

    Args:
      out: the shadow's folder.
      most_bytes: of requests and answers together, over all starts.
      redaction: applied before anything is written; without rules it drops credentials.
    """

    def __init__(self, out: Path, most_bytes: int, redaction: Redaction) -> None:
        self._redaction = redaction
        self._writers = tuple(
            TrafficWriter(out / FOLDER / arm) for arm in ("baseline", "candidate")
        )
        # Compressed files of former starts count for what they take.
        found = [f.stat().st_size for f in (out / FOLDER).rglob("*.parquet")]
        self._bytes = sum(found)
        self.before = bool(found)
        """Some are there from former starts."""
        self._most_bytes = most_bytes
        self.kept = 0
        """In this start."""
        self.not_kept = 0
        """For want of space, or because the request cannot be read, or a rule cannot be applied."""

    def add(self, mirrored: Sequence[Mirrored]) -> None:
        """Keeps requests with both answers.

        Args:
          mirrored: those that disagree.

        Raises:
          OSError: they cannot be written.
        """
        for one in mirrored:
            exchanges = self._exchanges(one)
            size = 2 * (_EXCHANGE_BYTES + len(one.call.request))
            size += len(one.call.response) + len(one.candidate.response)
            if exchanges is None or self._bytes + size > self._most_bytes:
                self.not_kept += 1
                continue
            self._bytes += size
            self.kept += 1
            for writer, exchange in zip(self._writers, exchanges, strict=True):
                writer.write([exchange])

    def publish(self) -> None:
        """Makes what was added whole files.

        Raises:
          OSError: they cannot be written.
        """
        for writer in self._writers:
            writer.rotate()

    def _exchanges(self, one: Mirrored) -> tuple[Exchange, Exchange] | None:
        """Both answers' exchanges, redacted; None where that cannot be done."""
        call, new, rules = one.call, one.candidate, self._redaction
        try:
            facts = request_facts(call.request)
            request = rules.request(call.request)
            responses = rules.response(call.response), rules.response(new.response)
        except MessageError:
            return None
        metadata = {k: v for k, v in rules.metadata(call.metadata) if isinstance(v, str)}
        baseline = Exchange(
            ts_ns=call.ts_ns, latency_ns=call.latency_ns, code=call.code, method=call.method,
            model=facts.model, version=response_version(call.response), request_id=id_of(call),
            request=request, response=responses[0], metadata=metadata,
        )  # fmt: skip
        candidate = replace(
            baseline, latency_ns=round(new.latency_s * 1e9), code=new.code, response=responses[1],
            version=response_version(new.response),
        )  # fmt: skip
        return baseline, candidate

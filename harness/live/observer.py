"""The judge for traffic that somebody else splits: batches come whole and numbered."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace

import numpy as np

from harness.core.errors import GateError, TrafficError
from harness.core.jsonable import sha256
from harness.core.live import Live, Standing
from harness.judge.exposures import Requests
from harness.judge.live_plan import Labels, LiveBatch
from harness.live.canary import Canary
from harness.live.entries import Entry
from harness.live.folder import CanaryFolder
from harness.live.keeper import notes_of
from harness.live.unusable import sent_unusable
from harness.wire.canary_judge import ObservedColumns

_STATE_EVERY = 50


class Observer:
    """Judges batches as they are sent, one at a time.

    Args:
      canary: as it starts or goes on.
      folder: what it must not lose.
      live: the policy's live section.
    """

    def __init__(self, canary: Canary, folder: CanaryFolder, live: Live) -> None:
        self._canary = canary
        self._live = live
        self._folder = folder
        self.standing = canary.standing()
        """After the last batch."""
        # A client that goes leaves the work for it behind, and the next one may come before its end.
        self._one = threading.Lock()

    def observe(self, sent: ObservedColumns) -> tuple[Standing, int]:
        """Judges a batch and keeps it.

        Args:
          sent: as it came.

        Returns:
          Where the comparison stands, and the number of the batch that is due.

        Raises:
          TrafficError: a batch that cannot be taken; nothing of it has been judged.
          GateError: it was judged and cannot be kept; the comparison has ended in HOLD.
        """
        with self._one:
            return self._observed(sent)

    def _observed(self, sent: ObservedColumns) -> tuple[Standing, int]:
        before, due = self.standing, self._canary.next_batch
        if not before.final and sent.number == due:
            self._check_shares(sent)
        batch = _batch(sent)
        digest = sha256(batch)
        values = sent_unusable(self._live, dict(batch.requests.values))
        batch = replace(batch, requests=replace(batch.requests, values=values))
        entry = Entry(batch=batch, seq=0, answers={}, label_offset=0, digest=digest)
        self.standing = self._canary.judge(entry)
        if not before.final:
            try:
                if self._canary.next_batch > due:
                    self._keep(entry, before)
                else:
                    self._keep_repetition(entry)
            except OSError as error:
                self._canary.stop("state_not_saved", error.strerror or "")
                self.standing = self._canary.standing()
                where, remedy = str(self._folder.path), "Make room and start anew."
                raise GateError(where, f"cannot be written: {error.strerror}", remedy) from error
        return self.standing, self._canary.next_batch

    def _check_shares(self, sent: ObservedColumns) -> None:
        """Refuses a split that was never asked for.

        A step's share is passed on to those who split in some time, so requests of an earlier one
        may still come.

        Raises:
          TrafficError: names the share that was sent and the one in force.
        """
        known = self._canary.shares_so_far
        odd = np.flatnonzero(~np.isin(sent.propensity, known))
        if len(odd):
            row = int(odd[0])
            arm = "candidate" if len(sent.candidate) > row and sent.candidate[row] else "baseline"
            what = (
                f"row {row}, answered by the {arm}, was split with a candidate's share of "
                f"{sent.propensity[row]:g}; the share in force at step {len(known)} is {known[-1]:g}"
            )
            remedy = (
                "Split as the last answer's `share` says, and send the share that was drawn with."
            )
            raise TrafficError(f"batch {sent.number}", what, remedy)

    def _keep(self, entry: Entry, before: Standing) -> None:
        """Only what the judge has taken is kept: a refused batch would stop every later restart."""
        self._folder.append(entry, self._canary.counts)
        if self.standing.final:
            self._folder.tell("decision", self.standing)
            self._save()
            return
        self._folder.tell("step" if self.standing.step != before.step else "answer", self.standing)
        if self._folder.since_state >= _STATE_EVERY:
            self._save()

    def _keep_repetition(self, entry: Entry) -> None:
        """Its count, without what is in the journal before."""
        batch = entry.batch
        nothing = replace(batch, requests=_nothing(batch.requests), labels={})
        self._folder.append(replace(entry, batch=nothing), self._canary.counts)

    def _save(self) -> None:
        self._folder.publish(self.standing, self._canary.evidence(), notes_of(self.standing))
        self._folder.save(self._canary)

    def close(self) -> Standing:
        """Saves and gives the folder back."""
        with self._one:
            with suppress(OSError):
                if not self.standing.final:
                    self._folder.tell("stop", self.standing)
                self._save()
            self._folder.close()
            return replace(self.standing, notes=notes_of(self.standing))


def _batch(sent: ObservedColumns) -> LiveBatch:
    return LiveBatch(
        number=sent.number,
        until_ns=sent.until_ns,
        requests=Requests(
            ts_ns=sent.ts_ns,
            unit=sent.unit,
            candidate=sent.candidate,
            propensity=sent.propensity,
            values=sent.values,
        ),
        labels={
            name: Labels(unit=found.unit, value=found.value, ts_ns=found.ts_ns)
            for name, found in sent.labels.items()
        },
    )


def _nothing(requests: Requests) -> Requests:
    """The same columns, without rows."""
    none = slice(0, 0)
    return Requests(
        ts_ns=requests.ts_ns[none],
        unit=requests.unit[none],
        candidate=requests.candidate[none],
        propensity=requests.propensity[none],
        values={name: column[none] for name, column in requests.values.items()},
    )

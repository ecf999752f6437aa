"""Requests that by themselves cost a process: it died, gave no answer, or ran out of memory over its first batch.

What one of them leaves behind fails others, and to find it again costs as much as the first time. So a leg
remembers them: they are in no batch again. The replay asks each by itself once more before it counts. Only what
production's session fails is remembered: what a trace costs is no failure of the request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.core.observations import Cause, Outcome
from harness.core.traffic import RequestBatch
from harness.replay.composition import some_of
from harness.sandbox.answers import BatchFault


@dataclass(slots=True)
class Blamed:
    """What one version has shown to fail by itself."""

    faults: dict[int, BatchFault] = field(default_factory=dict)
    """Position in the traffic → how that request fails."""
    told: set[int] = field(default_factory=set)
    """Those that were quarantined."""

    def among(self, batch: RequestBatch) -> dict[int, BatchFault]:
        """Index in the batch → how that request fails, of those that are here."""
        if not self.faults:
            return {}
        known = np.isin(batch.seq, np.fromiter(self.faults, np.int64))
        return {i: self.faults[int(batch.seq[i])] for i in np.flatnonzero(known).tolist()}

    def add(self, batch: RequestBatch, index: int, fault: BatchFault) -> bool:
        """Takes a request of a batch that failed by itself, where that cost a process; whether it is new."""
        seq = int(batch.seq[index])
        if not fault.costs_process or seq in self.faults:
            return False
        self.faults[seq] = fault
        return True

    def to_tell(self, batch: RequestBatch, index: int) -> bool:
        """Whether a request of a batch is not here, or is for the first time to be quarantined."""
        seq = int(batch.seq[index])
        new = seq not in self.told
        if seq in self.faults:
            self.told.add(seq)
        return new

    def forget(self, batch: RequestBatch, index: int) -> None:
        """Lets go of a request that was answered after all."""
        self.faults.pop(int(batch.seq[index]), None)

    def kept(self) -> list[dict[str, Any]]:
        """Plain JSON values, for `recall`."""
        return [
            {
                "seq": seq, "kind": int(fault.kind), "cause": fault.cause.value, "message": fault.message,
                "alive": fault.alive,
            }
            for seq, fault in self.faults.items()
        ]  # fmt: skip

    def recall(self, kept: Iterable[Mapping[str, Any]]) -> None:
        """Goes on from what an interrupted run had found out of the same version."""
        for one in kept:
            self.faults[int(one["seq"])] = BatchFault(
                seq=1, kind=Outcome(one["kind"]), cause=Cause(one["cause"]), message=str(one["message"]),
                alive=bool(one["alive"]),
            )  # fmt: skip


def without_blamed(batch: RequestBatch, blamed: Sequence[Blamed]) -> RequestBatch:
    """The requests of a batch that no version is known to fail; all of it where there is none."""
    known = {index for one in blamed for index in one.among(batch)}
    if not known or len(known) == len(batch):
        return batch
    return some_of(batch, np.delete(np.arange(len(batch)), sorted(known)))

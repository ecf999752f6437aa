"""A batch on its way from the requests to the judge."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.core.tensors import Floats
from harness.judge.live_plan import LiveBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the journal keeps of a batch."""

    batch: LiveBatch
    """For the judge."""
    seq: int
    """Number of the last arrival that is in it or in one before."""
    answers: dict[str, Floats]
    """Guardrail with a loss → what the label will be compared with, NaN = failed; one a request."""
    label_offset: int
    """Bytes of the label file whose labels are in it or in one before."""
    label_head: str = ""
    """Of that file; see `Label.head`."""
    versions: dict[str, str] = field(default_factory=dict)
    """See `Versions.known`."""
    down_ns: int = 0
    """Before it nothing was served for so long, which is no stay; 0 = no start was just before it."""
    digest: str = ""
    """Of a batch that somebody sent: a repetition is known by it; "" = it was made here."""

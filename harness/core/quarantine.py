"""A request that made its model fail by itself, kept with everything needed to try it again."""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.observations import Cause, Outcome
from harness.core.tensors import Tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """One poison request."""

    leg: str
    """baseline or candidate: whose process it was tried in."""
    request_id: str
    """As recorded."""
    kind: Outcome
    """ERROR, CRASH, TIMEOUT or INVALID."""
    cause: Cause
    """What more is known."""
    message: str
    """What happened when it was tried alone."""
    rows: int
    """Model rows it carries."""
    last_words: str
    """What its process said last; "" when it did not die or said nothing. Untrusted."""
    inputs: Tensors
    """The traffic's inputs of this request, under the traffic's names, shape (rows, *trailing)."""

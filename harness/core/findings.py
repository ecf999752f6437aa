"""A statement with where, how much and what to do."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Severity(enum.StrEnum):
    """How much a finding matters to the decision."""

    HARM = "harm"
    """Decides or would decide against the candidate."""
    WARNING = "warning"
    """A person should read it before approving."""
    INFO = "info"
    """Worth knowing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fact found on the way, in words a person can act on."""

    kind: str
    """Stable word for programs: feature_changed, filled_with_zero, candidate_crash, unfaithful_replay …"""
    severity: Severity
    """How much it matters."""
    where: str
    """Feature, tensor, output, slice or request ids it concerns."""
    what: str
    """One sentence with the number."""
    remedy: str
    """What to do next."""
    relation: str = ""
    """For changed tensors: equal, scaled, shifted, affine, cyclic_shift, permuted, filled_with_zero, precision, other."""
    value: float | None = None
    """The relation's constant (1.609 for miles → km, 4 for UTC hours), when it has one."""
    requests: tuple[str, ...] = ()
    """A few request ids that show it."""

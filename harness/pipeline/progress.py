"""Progress of long work as events; the command line draws them, a program may ignore them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far one stage has come."""

    stage: str
    """seal, floor, replay, …"""
    done: int
    """Units done."""
    total: int
    """Units in all; 0 when unknown."""
    note: str = ""
    """What a person may want to see beside the bar."""


Listener = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """Listens to nothing."""

"""How a fact is meant."""

from __future__ import annotations

import enum


class Tone(enum.StrEnum):
    """How a fact is meant; always shown as a word and a sign too, never as colour alone."""

    GOOD = "good"
    BAD = "bad"
    WAIT = "wait"
    INFO = "info"
    MUTED = "muted"

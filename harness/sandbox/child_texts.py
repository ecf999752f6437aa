"""Texts that a child says, of bounded length and fit to be written down."""

from __future__ import annotations

from harness.core.plain_text import printable
from harness.sandbox.child import columns
from harness.sandbox.child.frames import FrameError, Header

MAX_TENSORS = 100_000
MAX_TEXT = 4000
MOST_SHOWN = 1000
"""Characters of a name, or of several, in a message."""


def expect_kind(header: Header, kind: str) -> None:
    """Raises FrameError unless the frame is of this kind."""
    if header.get("kind") != kind:
        msg = f"expected a frame of the kind '{kind}', got {header.get('kind')!r:.40}"
        raise FrameError(msg)


def text_from(value: object, longest: int) -> str:
    """A text of bounded length that can be written down, or FrameError."""
    if not isinstance(value, str) or len(value) > longest or not columns.is_unicode(value):
        msg = "a text is missing, too long or holds half a character"
        raise FrameError(msg)
    return value


def message_from(value: object) -> str:
    """A message for people, fit for a terminal; half characters are replaced. As `text_from` otherwise."""
    return text_from(printable(value) if isinstance(value, str) else value, MAX_TEXT)


def reason_from(value: object) -> str:
    """Why something failed, as `message_from`; never empty."""
    return message_from(value).strip() or "it gave no reason"


def texts_from(values: object, longest: int) -> tuple[str, ...]:
    """A list of texts of bounded length, or FrameError."""
    if not isinstance(values, list) or len(values) > MAX_TENSORS:
        msg = "a list of texts is missing or too long"
        raise FrameError(msg)
    return tuple(text_from(v, longest) for v in values)

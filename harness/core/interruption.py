"""Ctrl-C and SIGTERM are remembered: what a handler raises may be swallowed.

Python drops an exception that a signal handler raises inside a weak reference's callback, a finaliser or
some imports. Whoever was told to stop would then go on to a verdict.
"""

from __future__ import annotations

from types import FrameType

_SEEN: list[int] = []


def stop_at_once(number: int, _: FrameType | None) -> None:
    """The program's handler of both signals.

    Raises:
      KeyboardInterrupt: always.
    """
    _SEEN.append(number)
    raise KeyboardInterrupt


def interrupted() -> bool:
    """Whether the program was told to stop, even where nobody heard the exception."""
    return bool(_SEEN)


def stop_if_interrupted() -> None:
    """Before what cannot be taken back.

    Raises:
      KeyboardInterrupt: the program was told to stop, and nobody heard it.
    """
    if interrupted():
        raise KeyboardInterrupt

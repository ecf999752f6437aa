"""Versions that the answers say they are of: evidence about two of them is evidence about neither."""

from __future__ import annotations

from collections.abc import Iterable

from harness.wire.scan import MODEL_NAME, MODEL_VERSION, bytes_field

_MOST = 256
"""Models and asked versions that are told apart: clients name them."""


class Versions:
    """Holds each arm to the version with which it first answered the same question.

    Args:
      known: (arm, model, asked version, answered version), from an earlier start.
      changes: that were seen then.
    """

    def __init__(
        self, known: Iterable[tuple[str, str, str, str]] = (), changes: Iterable[str] = ()
    ) -> None:
        self._first = {(arm, model, asked): seen for arm, model, asked, seen in known}
        self.changes = list(changes)
        """Each once, as words: "the candidate was 2 and is 3"."""
        self.untold = 0
        """Answers that say no version, or of a model beyond the most that are told apart."""

    def saw(self, arm: str, request: bytes, response: bytes) -> None:
        """Takes an answer in.

        Args:
          arm: who answered.
          request: serialized ModelInferRequest.
          response: serialized ModelInferResponse.
        """
        seen = _text(response, MODEL_VERSION)
        key = arm, _text(request, MODEL_NAME), _text(request, MODEL_VERSION)
        if not seen or (key not in self._first and len(self._first) >= _MOST):
            self.untold += 1
            return
        first = self._first.setdefault(key, seen)
        change = f"the {arm} was {first} and is {seen}"
        if seen != first and len(self.changes) < _MOST and change not in self.changes:
            self.changes.append(change)

    def known(self) -> tuple[tuple[str, str, str, str], ...]:
        """As the first argument of a later start."""
        return tuple((*key, seen) for key, seen in self._first.items())


def _text(message: bytes, number: int) -> str:
    return (bytes_field(message, number) or b"").decode("utf-8", "replace")

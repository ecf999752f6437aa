"""Versions that answers say they are of: evidence about two of them is evidence about neither.

A server may hold several models, and clients may name a version: an arm is held to the version with which
it first answered the same question.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from harness.live.layouts import Answered
from harness.wire.scan import MODEL_NAME, MODEL_VERSION, bytes_field

Asked = tuple[str, str]
"""(model, version) as a request names them; "" = it leaves that to the server."""
_MOST = 256
"""Questions and changes that are remembered: clients may name whatever they like."""


class Versions:
    """Holds each arm to its first version.

    Args:
      known: from an earlier start, as `known` gave it then.
      changes: likewise.
    """

    def __init__(self, known: Mapping[str, str] | None = None, changes: Iterable[str] = ()) -> None:
        self.known = dict(known or {})
        """Arm and question, as JSON → the version that the arm first answered with."""
        self.changes = list(changes)
        """Each once, as words: "the candidate was 2 and is 3"."""

    def saw(self, arm: str, asked: Asked, version: str) -> bool:
        """Takes an answer in.

        Args:
          arm: who answered: baseline or candidate.
          asked: what the request named.
          version: that the answer says it is of; "" = it says none.

        Returns:
          Whether a change would be noticed: not of answers that say no version, nor of one question too many.
        """
        key = json.dumps([arm, *asked])
        if not version or (key not in self.known and len(self.known) >= _MOST):
            return False
        first = self.known.setdefault(key, version)
        if version != first:
            of = f" for model {asked[0]}" if asked[0] else ""
            change = f"the {arm} was {first} and is {version}{of}"
            if change not in self.changes and len(self.changes) < _MOST:
                self.changes.append(change)
        return True


def asked_of(request: bytes) -> Asked:
    """What a serialized ModelInferRequest names."""
    return _text(request, MODEL_NAME), _text(request, MODEL_VERSION)


def version_of(response: bytes) -> str:
    """What a serialized ModelInferResponse says it is of; "" = nothing."""
    return _text(response, MODEL_VERSION)


def versions_by_asked(answers: Sequence[Answered]) -> dict[Asked, set[str]]:
    """Versions that answers say they are of; "" among them where an answer says none.

    Args:
      answers: of one arm; failures are left out.
    """
    found: dict[Asked, set[str]] = {}
    for answer in answers:
        if answer.response:
            found.setdefault(asked_of(answer.request), set()).add(version_of(answer.response))
    return found


def _text(message: bytes, number: int) -> str:
    return (bytes_field(message, number) or b"").decode("utf-8", "replace")

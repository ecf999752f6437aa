"""Which versions answered what was asked: a server may hold several models, and clients may name a version."""

from __future__ import annotations

from collections.abc import Sequence

from harness.live.layouts import Answered
from harness.wire.scan import MODEL_NAME, MODEL_VERSION, bytes_field

Asked = tuple[str, str]
"""(model, version) as a request names them; "" = it leaves that to the server."""


def versions_by_asked(answers: Sequence[Answered]) -> dict[Asked, set[str]]:
    """Versions that answers say they are of; "" among them where an answer says none.

    Args:
      answers: of one arm; failures are left out.
    """
    found: dict[Asked, set[str]] = {}
    for answer in answers:
        if not answer.response:
            continue
        asked = _text(answer.request, MODEL_NAME), _text(answer.request, MODEL_VERSION)
        found.setdefault(asked, set()).add(_text(answer.response, MODEL_VERSION))
    return found


def _text(message: bytes, number: int) -> str:
    return (bytes_field(message, number) or b"").decode("utf-8", "replace")

"""Requests that belong to a session: servers of recurrent models keep state between them.

`sequence_id`, `sequence_start` and `sequence_end` are the names that servers of the Open Inference
Protocol use. What such a request was answered depends on the requests before it in its session, and the
state lies in the server, so no replay of the request by itself gives that answer. A model whose state is
an ordinary input and output of its requests needs none of them, and is replayed like any other.
"""

from __future__ import annotations

from harness.wire.contents import MessageError
from harness.wire.facts import request_facts

IN_A_SESSION = "part of a session (sequence_id): its answer depends on requests before it, which no replay gives it"
"""Why an exchange is left out."""
_BEGINNING = b"sequence_"
_NONE = {"", "0", "False"}


def in_session(serialized: bytes) -> bool:
    """Whether a request says that it is part of a session; False for what is no request.

    Args:
      serialized: a ModelInferRequest.
    """
    if _BEGINNING not in serialized:
        return False  # nearly all requests, without parsing them
    try:
        given = request_facts(serialized).parameters
    except MessageError:
        return False
    return any(given.get(f"sequence_{name}", "") not in _NONE for name in ("id", "start", "end"))

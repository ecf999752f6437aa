"""JSON as logs hold it: what is wrong with a document is said in JSON's words, not in Python's."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from harness.record.importers.parts import PayloadError


def parsed(content: bytes | str) -> Any:  # noqa: ANN401 - JSON
    """A document, in which no object has two values of one name: nothing would say which one counts.

    Raises:
      PayloadError: it is none.
    """
    try:
        return json.loads(content, object_pairs_hook=_named_once)
    except UnicodeDecodeError as error:
        raise PayloadError(f"not UTF-8 at byte {error.start}") from None
    except ValueError as error:
        raise PayloadError(f"no JSON: {error}") from None
    except RecursionError:
        raise PayloadError("no JSON: it is nested too deeply") from None


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name = next(n for n, times in Counter(n for n, _ in pairs).items() if times > 1)
        msg = f"two values of '{name[:80]}' in one object"
        raise ValueError(msg)
    return found

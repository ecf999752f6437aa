"""Where a request id stands, for millions of ids at about 24 bytes each beside their text.

A Python dict of the same ids takes about 200 bytes an id. Ids are found by a 64-bit hash and then
compared as text, so that a collision costs a moment and never an answer.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from harness.core.tensors import Ints, Strings

UNKNOWN = -1
"""Position of an id that is not there."""

_CHUNK = 65_536


class IdIndex:
    """Positions of unique ids.

    Args:
      ids: Arrow strings without nulls and without repetition.
    """

    def __init__(self, ids: pa.Array) -> None:
        self._ids = ids.cast(pa.large_string())
        keys = [
            hashes(self._ids[i : i + _CHUNK].to_pylist()) for i in range(0, len(self._ids), _CHUNK)
        ]
        unsorted = np.concatenate(keys) if keys else np.empty(0, np.int64)
        self._order: Ints = np.argsort(unsorted, kind="stable")
        self._keys: Ints = unsorted[self._order]

    def __len__(self) -> int:
        """Number of ids."""
        return len(self._ids)

    def ids(self) -> Strings:
        """All ids by position, shape (n,)."""
        found: Strings = self._ids.to_numpy(zero_copy_only=False)
        return found

    def lookup(self, request_ids: Strings) -> Ints:
        """Position of each id, or UNKNOWN, shape (m,)."""
        wanted = request_ids.tolist()
        keys = hashes(wanted)
        at = np.searchsorted(self._keys, keys)
        found = np.full(len(wanted), UNKNOWN, np.int64)
        if not len(self._keys):
            return found
        hit = np.flatnonzero(self._keys[np.minimum(at, len(self._keys) - 1)] == keys)
        candidates = self._order[at[hit]]
        texts = self._ids.take(pa.array(candidates)).to_pylist()
        for k, candidate, text in zip(hit.tolist(), candidates.tolist(), texts, strict=True):
            found[k] = candidate if text == wanted[k] else self._beside(int(at[k]), wanted[k])
        return found

    def _beside(self, at: int, wanted: str) -> int:
        """Looks at the other ids with the same hash."""
        key = self._keys[at]
        while at < len(self._keys) and self._keys[at] == key:
            position = int(self._order[at])
            if self._ids[position].as_py() == wanted:
                return position
            at += 1
        return UNKNOWN


def hashes(ids: list[str]) -> Ints:
    """A 64-bit hash of each id; only comparable within this process."""
    return np.fromiter(map(hash, ids), np.int64, len(ids))

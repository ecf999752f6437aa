"""Which requests are kept: a seeded share, the same ids on every recorder; failures always."""

from __future__ import annotations

import itertools
from hashlib import blake2b

from harness.core.errors import UsageError
from harness.record.packing import beginning
from harness.wire.scan import REQUEST_ID, bytes_field

_WHOLE = 2**64


class Sampler:
    """Decides by a hash of the seed and the request's id; a request without id by a running number.

    Args:
      share: of the requests, in (0, 1].
      seed: equal seeds keep equal ids.

    Raises:
      UsageError: a share outside (0, 1].
    """

    def __init__(self, share: float, seed: int) -> None:
        if not 0.0 < share <= 1.0:
            raise UsageError(
                f"--sample {share:g}", "is no share above 0, up to 1", "Write it like 0.1."
            )
        self._below = int(share * _WHOLE)
        self._all = share == 1.0
        self._key = str(seed).encode()[:64]
        self._numbers = itertools.count()

    def keeps(self, request: bytes, packing: str = "") -> bool:
        """Whether the sample has this request.

        Args:
          request: serialized ModelInferRequest, or anything.
          packing: how it is compressed.
        """
        if packing and not self._all:
            begins = beginning(request, packing)
            return self.keeps_id(bytes_field(begins, REQUEST_ID, cut=True) or b"")
        return self._all or self.keeps_id(bytes_field(request, REQUEST_ID) or b"")

    def keeps_id(self, request_id: bytes) -> bool:
        """The same, for a request of which no more than its id is at hand; empty = it has none."""
        if self._all:
            return True
        drawn = request_id or b"#%d" % next(self._numbers)
        digest = blake2b(drawn, digest_size=8, key=self._key).digest()
        return int.from_bytes(digest, "little") < self._below

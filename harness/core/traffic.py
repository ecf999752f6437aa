"""Recorded exchanges, and a batch of them as columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from harness.core.tensors import (
    Array,
    Bools,
    CodedText,
    Ints,
    PackedText,
    Strings,
    Tensors,
    TensorSpec,
)

_OBJECT = np.dtype(object).itemsize

OK_CODE = 0
"""gRPC status code of an answered request."""
UNKNOWN_CODE = 2
"""gRPC's UNKNOWN: a failure whose server says no more of it than a message."""


LOGGED = "feature:"
"""Beginning of the names of recorded tensors and context columns that are features which the serving side
computed: `feature:distance`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One recorded request with its response or error. The bytes are verbatim and are the truth."""

    ts_ns: int
    """When the request arrived, nanoseconds since the epoch, UTC."""
    latency_ns: int
    """Until the response left, as the recorder saw it."""
    code: int
    """gRPC status code; 0 = answered."""
    method: str
    """Full RPC name, e.g. /inference.GRPCInferenceService/ModelInfer."""
    model: str
    """Model name asked for."""
    version: str
    """Version that answered; empty when unknown."""
    request_id: str
    """Unique within a traffic source; labels join on it."""
    request: bytes
    """Serialized ModelInferRequest."""
    response: bytes
    """Serialized ModelInferResponse; empty on error."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Call metadata."""
    context: dict[str, str] = field(default_factory=dict)
    """Columns to slice by that are no model input by right: carrier, origin, tenant."""
    trace_id: str = ""
    """Distributed-tracing id, when there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestBatch:
    """n exchanges as columns, in the run's test order.

    R = rows.sum() model rows in all; request i owns rows offsets[i]:offsets[i+1] of every tensor.
    """

    seq: Ints
    """Original position in the traffic, shape (n,)."""
    request_id: Strings | PackedText
    """Shape (n,)."""
    ts_ns: Ints
    """Shape (n,)."""
    rows: Ints
    """Model rows each request carries, shape (n,), ≥ 0."""
    inputs: Mapping[str, Array]
    """Per input, shape (R, *trailing); strings as object arrays of str."""
    recorded: Tensors
    """Recorded response tensors, shape (R, *trailing); rows of unanswered requests are filler."""
    answered: Bools
    """Whether production answered the request with tensors of the recorded shape, shape (n,)."""
    context: Mapping[str, Strings]
    """Per context column, shape (n,); "" = not recorded."""
    coded: dict[str, CodedText] = field(default_factory=dict)
    """Inputs of repeating text, where the window knows their words: the text of `inputs` as codes (R, …)."""
    coded_context: dict[str, CodedText] = field(default_factory=dict)
    """Context columns, where the window knows their words: the text of `context` as codes (n,)."""

    def __len__(self) -> int:
        """Number of requests."""
        return len(self.seq)

    @property
    def single(self) -> bool:
        """Whether every request carries exactly one row."""
        return bool((self.rows == 1).all())

    def row_owner(self) -> Ints:
        """Index of the request that owns each model row, shape (R,)."""
        requests = np.arange(len(self.rows))
        return requests if self.single else np.repeat(requests, self.rows)

    def input_bytes(self) -> int:
        """Memory that the inputs take, as text where they are text; none is made for it."""
        coded = self.coded
        return sum(
            coded[name].codes.size * _OBJECT if name in coded else self.inputs[name].nbytes
            for name in self.inputs
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowInfo:
    """What a sealed window says about itself."""

    window_hash: str
    """sha256 (hex) over the columns' bytes in storage order, the specs and the row count."""
    count: int
    """Exchanges sealed."""
    first_ts_ns: int
    """Earliest request; 0 when empty."""
    last_ts_ns: int
    """Latest request; 0 when empty."""
    inputs: tuple[TensorSpec, ...]
    """Input columns, trailing shapes fixed."""
    recorded: tuple[TensorSpec, ...]
    """Recorded response columns."""
    context: tuple[str, ...]
    """Context columns."""
    not_sealed: tuple[tuple[str, int], ...]
    """(reason, count) of exchanges that were read and could not be sealed."""
    sources: tuple[tuple[str, str], ...]
    """(file name, sha256) of what was sealed."""
    versions: tuple[tuple[str, int], ...] = ()
    """(model version that answered, count) over the window."""
    not_answered: tuple[tuple[str, int], ...] = ()
    """(reason, count) of sealed exchanges without a usable recorded response."""
    models: tuple[tuple[str, int], ...] = ()
    """(model name asked for, count) over all exchanges that were read and have an id of their own."""
    not_recorded: tuple[tuple[str, int], ...] = ()
    """(reason, count) of requests that a recorder saw and should have recorded, and did not."""
    beside_sample: int = 0
    """Exchanges that a recorder's sample would have left out and that are there because they failed."""
    together: int = 0
    """Rows of a table that were put together to a request, as the model takes no other number; 0 = none were."""

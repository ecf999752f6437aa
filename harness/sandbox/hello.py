"""What a child says of a model that it was to load, checked and typed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from harness.core.tensors import MAP, NESTED, NUMPY_DTYPES, Signature, TensorSpec
from harness.sandbox.child import columns, nested
from harness.sandbox.child.frames import FrameError, Header
from harness.sandbox.child_texts import (
    MAX_TENSORS,
    MOST_SHOWN,
    expect_kind,
    message_from,
    reason_from,
    text_from,
    texts_from,
)
from harness.sandbox.graph_names import MAX_NAME
from harness.sandbox.isolation import Isolation
from harness.sandbox.lacking_locale import lacking_locale
from harness.sandbox.of_batch import Lengths

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
_MAPS = frozenset({"seq(map(int64,tensor(float)))", "seq(map(string,tensor(float)))"})
LEAF_DTYPES = {kind: NUMPY_DTYPES[name] for kind, name in _DATATYPES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFailure:
    """A version that cannot be run, as an observation."""

    kind: str
    """load (onnxruntime refused it), look (ours at the graph failed), metadata (cannot be read), locale (this machine lacks one that
    it asks for), crash (also: an interpreter without the packages), timeout or invalid (broke the protocol)."""
    message: str
    """What happened, in one or two sentences."""
    remedy: str = ""
    """What to do, where the kind is metadata or locale: the author's mistake or the machine's lack, and no failure of the model's."""
    unseen: bool = False
    """The process ended before it was given the model, which cannot be to blame."""
    isolation: Isolation | None = None
    """What the process was closed in when it was given the model; None where that is not known."""


def refused(kind: str, error: object) -> LoadFailure:
    """What a child says of a model that it does not load.

    Args:
      kind: whose refusal it is, load or look.
      error: as it came.

    Raises:
      FrameError: the error is no text, or too long.
    """
    message = reason_from(error)
    if lacking := lacking_locale(message):
        return LoadFailure(kind="locale", message=lacking[0], remedy=lacking[1])
    return LoadFailure(kind=kind, message=message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """A loaded model's description of itself."""

    signature: Signature
    """Inputs and outputs in the model's order."""
    loose: frozenset[str]
    """Outputs whose declared rank is 0 or unknown: they may have no batch axis."""
    trace_missing: tuple[str, ...]
    """Named tensors that the trace session does not have."""
    trace_error: str
    """Why there is no trace session although one was asked for."""
    lengths: Lengths = field(default_factory=dict)
    """As long as this, outputs may be about the batch, not about its rows."""
    tables: frozenset[str] = frozenset()
    """Outputs that are read as about the batch also where it has as many rows as they are long."""


def spec_from_described(described: object) -> tuple[TensorSpec, bool]:
    """One input or output; the flag says that its declared rank is 0 or unknown.

    Raises:
      FrameError: not a description.
    """
    if not isinstance(described, dict):
        msg = "a signature entry is no object"
        raise FrameError(msg)
    name = text_from(described.get("name"), MAX_NAME)
    onnx_type = text_from(described.get("type"), MAX_NAME)
    shape = described.get("shape")
    known = [d for d in shape if type(d) is int and d >= 0] if isinstance(shape, list) else []
    if not isinstance(shape, list) or len(shape) > columns.MAX_RANK or not columns.is_shape(known):
        msg = f"the shape of {name[:MOST_SHOWN]!r} is no short list"
        raise FrameError(msg)
    trailing = tuple(d if type(d) is int and d >= 0 else None for d in shape[1:])
    datatype = _DATATYPES.get(onnx_type, f"OTHER:{onnx_type}")
    if onnx_type in _MAPS:
        datatype = f"{MAP}{onnx_type}"
    elif nested.leaf_kind(onnx_type) in LEAF_DTYPES:
        datatype = f"{NESTED}{onnx_type}"
    rowless = datatype.startswith((MAP, NESTED))
    spec = TensorSpec(
        name=name,
        datatype=datatype,
        shape=() if rowless else trailing,
        any_rank=not (shape or rowless),
    )
    return spec, not shape


def signature_from_header(header: Header) -> tuple[Signature, frozenset[str]]:
    """Inputs, outputs, and the outputs that may have no batch axis.

    Raises:
      FrameError: not a signature.
    """
    groups: list[tuple[TensorSpec, ...]] = []
    loose: set[str] = set()
    for group in ("inputs", "outputs"):
        entries = header.get(group)
        if not isinstance(entries, list) or len(entries) > MAX_TENSORS:
            msg = f"the list of {group} is missing or too long"
            raise FrameError(msg)
        specs = [spec_from_described(e) for e in entries]
        if len({s.name for s, _ in specs}) != len(specs):
            msg = f"two {group} have the same name"
            raise FrameError(msg)
        groups.append(tuple(s for s, _ in specs))
        loose |= {s.name for s, unknown in specs if group == "outputs" and unknown}
    rows = ((entry["name"], _first_length(entry)) for entry in header["inputs"])
    known = tuple((n, count) for n, count in rows if count)
    signature = Signature(
        inputs=groups[0], outputs=groups[1], rows=known, lengths=_lengths(header, groups[1], known)
    )
    return signature, frozenset(loose)


def hello_from_header(
    header: Header, beside: Mapping[str, int] | None = None, tables: Collection[str] = ()
) -> Hello | LoadFailure:
    """What the child said after it tried to load the model.

    Args:
      header: as it came.
      beside: output → how long the version that it is compared with declares it as a whole.
      tables: `Hello.tables`.

    Raises:
      FrameError: it is no hello.
    """
    expect_kind(header, "hello")
    if header.get("ok") is not True:
        return refused("load", header.get("error"))
    signature, loose = signature_from_header(header)
    missing = texts_from(header.get("trace_missing", []), MAX_NAME)
    return Hello(
        signature=signature,
        loose=loose,
        trace_missing=missing,
        trace_error=message_from(header.get("trace_error", "")),
        lengths=_all_lengths(signature, beside or {}),
        tables=frozenset(tables),
    )


def _all_lengths(signature: Signature, beside: Mapping[str, int]) -> Lengths:
    """`Hello.lengths`."""
    found = dict(signature.lengths)
    known = {
        s.name: frozenset({found.get(s.name, 0), beside.get(s.name, 0)} - {0, 1})
        for s in signature.outputs
        if s.datatype in NUMPY_DTYPES
    }
    return {name: lengths for name, lengths in known.items() if lengths}


def _lengths(
    header: Header, outputs: Sequence[TensorSpec], rows: Sequence[tuple[str, int]]
) -> tuple[tuple[str, int], ...]:
    """`Signature.lengths`."""
    plain = {spec.name for spec in outputs if spec.datatype in NUMPY_DTYPES}
    taken = {count for _, count in rows}
    found = ((entry["name"], _first_length(entry)) for entry in header["outputs"])
    return tuple((n, k) for n, k in found if k > 1 and k not in taken and n in plain)


def _first_length(described: Header) -> int:
    """The first dimension of a checked description, where it is a number; 0 where it is none."""
    shape = described["shape"]
    return shape[0] if shape and type(shape[0]) is int and shape[0] > 0 else 0

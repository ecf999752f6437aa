"""What the header of an answer says, checked against the signature and the question.

Names, counts, types and shapes are the child's words: only what fits is read as tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from harness.core.tensors import MAP, NESTED, NUMPY_DTYPES, TEXT_BYTES
from harness.sandbox.child import columns
from harness.sandbox.child.frames import FrameError, header_from_bytes
from harness.sandbox.child_texts import (
    MOST_SHOWN,
    expect_kind,
    message_from,
    reason_from,
    texts_from,
)
from harness.sandbox.graph_names import MAX_NAME
from harness.sandbox.hello import LEAF_DTYPES, Hello
from harness.sandbox.nested_values import Forms, expect_declared, forms_from

_POINTER_BYTES = 8
_GROUPS = ("outputs", "features", "trace_outputs", "leaves")


class Said(NamedTuple):
    """What an answer's header says, before it is compared with the question."""

    error: str | None
    """Why the runtime raised; None when there are tensors."""
    groups: tuple[tuple[columns.Entry, ...], ...] = ()
    """Outputs, features, trace outputs, tensors of nested values."""
    end: int = 0
    """Bytes of the body."""
    keys: tuple[tuple[str, tuple[str, ...]], ...] = ()
    forms: Forms = ()
    left_out: tuple[str, ...] = ()
    trace_error: str = ""
    alone: bool = False
    undeclared: tuple[tuple[str, str], ...] = ()
    """(output, how its shape contradicts the signature)."""
    weight: int = 0
    """Bytes of the tensors once they are read."""


def said_from_text(text: bytes, rows: int, hello: Hello) -> Said:
    """A header's content, once it fits the signature and the rows.

    Args:
      text: as it came.
      rows: of the batch.
      hello: what the model said about itself.

    Raises:
      FrameError: it is none, or it cannot be true.
    """
    said = _said(text)
    if said.error is not None:
        return said
    _expect_declared(said, hello)
    _expect_keys(said, hello)
    _expect_traced(said, hello)
    _expect_one_story(said)
    shapes = {entry.name: entry.shape for entry in said.groups[0]}
    for entry in (*said.groups[1], *said.groups[2]):
        as_output = entry in said.groups[2] and entry.shape in ((), shapes.get(entry.name))
        if entry.shape[:1] != (rows,) and not as_output:
            msg = f"traced tensor {entry.name[:MOST_SHOWN]!r} has the shape {entry.shape} for {rows} rows"
            raise FrameError(msg)
    return said._replace(undeclared=_undeclared(said.groups[0], hello))


def _said(text: bytes) -> Said:
    """An answer's header, checked as far as it can be by itself; raises FrameError."""
    header = header_from_bytes(text)
    expect_kind(header, "answer")
    if header.get("ok") is not True:
        return Said(error=reason_from(header.get("error")))
    groups, at = [], 0
    for group in _GROUPS:
        entries, at = columns.layout(header.get(group, []), at)
        groups.append(entries)
    keys = header.get("keys", {})
    if not isinstance(keys, dict):
        msg = "class names are missing"
        raise FrameError(msg)
    return Said(
        error=None,
        groups=tuple(groups),
        end=at,
        keys=tuple((name, texts_from(names, MAX_NAME)) for name, names in keys.items()),
        forms=forms_from(header.get("forms", {}), groups[-1]),
        left_out=texts_from(header.get("left_out", []), MAX_NAME),
        trace_error=message_from(header.get("trace_error", "")),
        alone=header.get("alone") is True,
        weight=sum(map(_weight, (entry for group in groups for entry in group))),
    )


def _weight(entry: columns.Entry) -> int:
    """Bytes of a tensor once it is read: a text each is an object of its own, words are shared."""
    own = {columns.STRING: TEXT_BYTES, columns.CODED: _POINTER_BYTES}.get(entry.dtype, 0)
    return entry.size + own * entry.total


def _expect_declared(said: Said, hello: Hello) -> None:
    """The outputs are those of the signature, with its types; only loose ones may be left out."""
    outputs = {e.name: e for e in said.groups[0]}
    absent = set(said.left_out) & hello.loose
    kinds = {s.name: s.datatype for s in hello.signature.outputs}
    whole = {n: k.removeprefix(NESTED) for n, k in kinds.items() if k.startswith(NESTED)}
    expect_declared(said.forms, said.groups[-1], whole, LEAF_DTYPES)
    expected = {
        name: kind
        for name, kind in kinds.items()
        if not kind.startswith("OTHER:") and name not in {*whole, *(absent - outputs.keys())}
    }
    if set(outputs) != set(expected):
        names = str(sorted(set(outputs) ^ set(expected))[:10])[:MOST_SHOWN]
        msg = f"the outputs are not those of the signature: {names}"
        raise FrameError(msg)
    for name, entry in outputs.items():
        if not (_has_type(entry, expected[name]) and (entry.shape or name in hello.loose)):
            msg = f"output {name[:MOST_SHOWN]!r} came as {entry.dtype} {entry.shape}, declared as {expected[name][:MOST_SHOWN]}"
            raise FrameError(msg)


def _has_type(entry: columns.Entry, datatype: str) -> bool:
    """Whether a tensor is of the type that the signature declares; nothing is of one that is not compared."""
    if datatype.startswith(MAP):
        return entry.dtype == "float64"
    return datatype in NUMPY_DTYPES and columns.DTYPES[entry.dtype] == NUMPY_DTYPES[datatype]


def _expect_traced(said: Said, hello: Hello) -> None:
    """What the trace session returns as outputs are outputs, of their types, with a column for each class."""
    kinds = {s.name: s.datatype for s in hello.signature.outputs}
    keys = dict(said.keys)
    for entry in said.groups[2]:
        datatype, name = kinds.get(entry.name, ""), entry.name
        classes = (len(keys[name]),) if name in keys else entry.shape[1:]
        if not _has_type(entry, datatype) or entry.shape[1:] != classes:
            msg = f"the trace's output {name[:MOST_SHOWN]!r} came as {entry.dtype} {entry.shape}, declared as {datatype[:MOST_SHOWN] or 'none'}"
            raise FrameError(msg)


def _undeclared(outputs: Sequence[columns.Entry], hello: Hello) -> tuple[tuple[str, str], ...]:
    """Outputs whose rank or fixed lengths are not what the model declares.

    No broken protocol: onnxruntime only warns of it, and production serves such a model all the same.
    """
    declared = {
        s.name: s.shape
        for s in hello.signature.outputs
        if s.name not in hello.loose and s.datatype in NUMPY_DTYPES
    }
    found = []
    for entry in outputs:
        expected, given = declared.get(entry.name), entry.shape[1:]
        if expected is None or (
            len(expected) == len(given)
            and all(d in (None, n) for d, n in zip(expected, given, strict=True))
        ):
            continue
        words = f"declared as {_shape_words(expected)} and came as {_shape_words(given)}"
        found.append((entry.name, words))
    return tuple(found)


def _shape_words(trailing: Sequence[int | None]) -> str:
    """A shape for people: `(rows, ?, 3)`."""
    return f"({', '.join(['rows', *('?' if d is None else str(d) for d in trailing)])})"


def _expect_keys(said: Said, hello: Hello) -> None:
    """Class names for each ZipMap output, each once, as many as its matrix has columns."""
    maps = {s.name for s in hello.signature.outputs if s.datatype.startswith(MAP)}
    keys = dict(said.keys)
    if set(keys) != maps:
        msg = "class names are missing"
        raise FrameError(msg)
    twice = [name for name, classes in said.keys if len({*classes}) != len(classes)]
    if twice:
        msg = f"a class of {twice[0][:MOST_SHOWN]!r} comes twice"
        raise FrameError(msg)
    for entry in said.groups[0]:
        if entry.name in maps and entry.shape[1:] != (len(keys[entry.name]),):
            msg = f"output {entry.name[:MOST_SHOWN]!r} has the shape {entry.shape} for {len(keys[entry.name])} class names"
            raise FrameError(msg)


def _expect_one_story(said: Said) -> None:
    """A trace is there or it failed; a feature is sent or it was left out."""
    traced = {e.name for e in (*said.groups[1], *said.groups[2])}
    if said.trace_error and traced:
        msg = f"a trace came with the word that it failed: {said.trace_error[:200]}"
        raise FrameError(msg)
    if said.alone and (said.trace_error or said.groups[2]):
        msg = "one session answered alone, and another one beside it"
        raise FrameError(msg)
    both = {e.name for e in said.groups[1]} & set(said.left_out)
    if both:
        msg = f"features were sent and left out: {str(sorted(both)[:10])[:MOST_SHOWN]}"
        raise FrameError(msg)

"""Mapping files: what the columns of somebody's table are. YAML, read strictly.

version: 1
request_id: id
time: {column: ts, unit: ms}            # s, ms, us, ns, iso
model: flights                          # or {column: m}
model_version: {column: v}              # optional, or a text
latency: {column: took, unit: ms}       # optional
status: {column: http, kind: http}      # optional: http, grpc, ok
inputs:  [{name: carrier, datatype: BYTES}, {name: distance, column: dist, datatype: FP32}]
outputs: [{name: p, datatype: FP32}]    # optional
request: body                           # in place of inputs: the column of whole bodies
response: answer                        # in place of outputs
context: {origin: origin_airport}       # optional

Logs of systems say all of this themselves but what their bodies' values are: there a mapping has inputs
and outputs only, of which `column` is the body's name for a value. A tensor may have a `shape`, of one row.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from harness.core.errors import UsageError, nearest
from harness.core.tensors import NUMPY_DTYPES
from harness.decide.document import Section, read_document
from harness.record.importers.columns import BodyMapping, TensorColumn
from harness.record.importers.tables import ISO, STATUS_KINDS, UNITS, TableMapping, Timed
from harness.store.places import check_readable

_KEYS = ("version", "request_id", "time", "model", "model_version", "latency", "status", "inputs",
         "outputs", "request", "response", "context")  # fmt: skip
_BODY_KEYS = ("version", "inputs", "outputs")
_LONGEST_AXIS = 2**31


def document_of(path: Path) -> Section:
    """Opens a mapping file.

    Raises:
      UsageError: it cannot be read, is no YAML, or is of another version.
    """
    check_readable(path)
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(str(path), f"cannot be read: {error}", "Give a YAML text file.") from None
    if not text.strip():
        raise UsageError(str(path), "is empty", "Start with `version: 1`.")
    section = read_document(text, str(path))
    if section.maybe("version", lambda k: section.integer(k, least=1), 0) != 1:
        raise section.error("version", "is not 1", "Start with `version: 1`.")
    return section


def table_mapping(path: Path) -> TableMapping:
    """Reads a mapping of a table of requests.

    Raises:
      UsageError: names the line, the key and what would have been right.
    """
    section = document_of(path)
    section.only(_KEYS)
    model, model_column = _text_or_column(section, "model", "")
    if not model and not model_column:
        raise section.error("model", "is missing", "Write model: NAME or model: {column: NAME}.")
    version, version_column = _text_or_column(section, "model_version", "")
    status = section.section("status") if "status" in section else None
    if status:
        status.only(("column", "kind"))
    mapping = TableMapping(
        request_id=section.text("request_id"),
        time=timed(section, "time"),
        model=model, model_column=model_column, version=version, version_column=version_column,
        latency=timed(section, "latency", iso=False) if "latency" in section else None,
        status=status.text("column") if status else "",
        status_kind=_one_of(status, "kind", STATUS_KINDS) if status else STATUS_KINDS[0],
        inputs=_tensors(section, "inputs"), outputs=_tensors(section, "outputs"),
        request=section.maybe("request", section.text, ""),
        response=section.maybe("response", section.text, ""),
        context=section.maybe("context", section.pairs, ()),
    )  # fmt: skip
    for whole, single in (("request", "inputs"), ("response", "outputs")):
        if whole in section and single in section:
            raise section.error(whole, f"stands beside {single}", "Give one of them.")
    if not mapping.request and not mapping.inputs:
        raise section.error("inputs", "is missing", "List the inputs, or give request: COLUMN.")
    return mapping


def body_mapping(path: Path, kind: str) -> BodyMapping:
    """Reads a mapping of the bodies in the logs of a system.

    Args:
      path: the file.
      kind: the logs' format.

    Raises:
      UsageError: names the line, the key and what would have been right.
    """
    section = document_of(path)
    for key in section.names():
        if key in _KEYS and key not in _BODY_KEYS:
            raise section.error(
                key,
                f"is for tables: logs of {kind} say it themselves",
                "Keep inputs and outputs only.",
            )
    section.only(_BODY_KEYS)
    found = BodyMapping(inputs=_tensors(section, "inputs"), outputs=_tensors(section, "outputs"))
    for key, tensors in (("inputs", found.inputs), ("outputs", found.outputs)):
        columns = [t.column for t in tensors]
        if len(set(columns)) < len(columns):
            raise section.error(key, "has a column twice", "Name each column once.")
    if not found.inputs and not found.outputs:
        raise section.error("inputs", "is missing", "List the inputs, the outputs or both.")
    return found


def timed(section: Section, key: str, *, iso: bool = True) -> Timed:
    """A column of times with its unit.

    Raises:
      UsageError: no column, or an unknown unit.
    """
    if key not in section:
        raise section.error(key, "is missing", f"Write {key}: {{column: NAME, unit: ms}}.")
    inner = section.section(key)
    inner.only(("column", "unit"))
    return Timed(
        column=inner.text("column"),
        unit=_one_of(inner, "unit", (*UNITS, ISO) if iso else tuple(UNITS)),
    )


def _one_of(section: Section, key: str, known: Collection[str]) -> str:
    found = section.text(key)
    if found not in known:
        raise section.error(key, f"is '{found}' ({nearest(found, known)})")
    return found


def _text_or_column(section: Section, key: str, default: str) -> tuple[str, str]:
    """(text, column), one of them empty."""
    if key not in section:
        return default, ""
    try:
        inner = section.section(key)
    except UsageError:
        return section.text(key), ""
    inner.only(("column",))
    return "", inner.text("column")


def _shape(section: Section) -> tuple[int, ...]:
    found = section.numbers("shape")
    if any(d != int(d) or not 0 < d <= _LONGEST_AXIS for d in found):
        raise section.error(
            "shape", "needs whole numbers above 0", "Leave the rows out: [3], or []."
        )
    return tuple(int(d) for d in found)


def _tensors(section: Section, key: str) -> tuple[TensorColumn, ...]:
    if key not in section:
        return ()
    found = []
    for inner in section.sections(key):
        inner.only(("name", "column", "datatype", "shape"))
        name = inner.text("name")
        found.append(
            TensorColumn(
                name=name,
                column=inner.maybe("column", inner.text, name),
                datatype=_one_of(inner, "datatype", NUMPY_DTYPES),
                shape=_shape(inner) if "shape" in inner else None,
            )
        )
    names = [t.name for t in found]
    if len(set(names)) < len(names):
        raise section.error(key, "has a name twice", "Name each tensor once.")
    return tuple(found)

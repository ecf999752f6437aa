"""The decoding half of sealing: shuffled exchanges → verbatim file, spilled columns, blocks.

Whether a string column has few words and whether all requests carry one row is known only after
the last request. So the decoded columns are spilled once, as lists with plain strings, and encoded
into blocks afterwards; that second pass costs a tenth of the first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.jsonable import sha256
from harness.core.tensors import NUMPY_DTYPES, Array, Bools, Ints, Tensors, TensorSpec
from harness.core.traffic import OK_CODE, WindowInfo
from harness.store.blocks import (
    CONTEXT,
    INPUT,
    RECORDED,
    BlockWriter,
    Words,
    elements_per_row,
    list_column,
    value_type,
)
from harness.store.exchanges import SCHEMA, context_columns
from harness.store.sealed import VERBATIM_FILE
from harness.store.shuffle import Shuffle
from harness.wire.columns import ColumnDecoder, Kind, Layout, most_common_layout

SEQ_SCHEMA = SCHEMA.append(pa.field("seq", pa.int64(), nullable=False))
"""Exchanges with their original position."""

_LAYOUT_SAMPLE = 512
_REASONS_KEPT = 50
_EXAMPLES_KEPT = 5
_OTHER_REASONS = "other reasons"


@dataclass(slots=True)
class Tally:
    """Why exchanges were not sealed or have no usable response, counted, with a few request ids."""

    not_sealed: Counter[str] = field(default_factory=Counter)
    """Reason → exchanges left out."""
    not_answered: Counter[str] = field(default_factory=Counter)
    """Reason → exchanges sealed without a response."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """Reason → some request ids."""

    def count(self, where: Counter[str], reason: str, request_id: str) -> None:
        """Counts one exchange in `not_sealed` or `not_answered`."""
        if reason not in where and len(where) >= _REASONS_KEPT:
            reason = _OTHER_REASONS
        where[reason] += 1
        shown = self.examples.setdefault(reason, [])
        if len(shown) < _EXAMPLES_KEPT:
            shown.append(request_id)


def _said(specs: Sequence[TensorSpec]) -> list[dict[str, object]]:
    """What a window's hash holds of columns; traffic has no undeclared rank."""
    return [{"name": s.name, "datatype": s.datatype, "shape": s.shape} for s in specs]


class Decoding:
    """Decodes shuffled exchanges.

    Args:
      work: folder of the window being built; the verbatim file goes there.
      spill: path for the decoded columns.
      shuffle: the dealt exchanges; looked at for the layouts, not drained.
      context: context columns to seal.
      tally: where what cannot be sealed is counted.
    """

    def __init__(
        self, work: Path, spill: Path, shuffle: Shuffle, context: tuple[str, ...], tally: Tally
    ) -> None:
        self._inputs = _common_layout(shuffle, "request") or ()
        self._recorded = _common_layout(shuffle, "response") or ()
        self._requests = ColumnDecoder("request", self._inputs)
        self._responses = ColumnDecoder("response", self._recorded)
        self._context = context
        self._tally = tally
        self._tensors = {INPUT + s.name: s for s in self._inputs} | {
            RECORDED + s.name: s for s in self._recorded
        }
        self._words = {
            name: Words(set())
            for name in [
                *(n for n, s in self._tensors.items() if s.datatype == "BYTES"),
                *(CONTEXT + c for c in context),
            ]
        }
        self._spill = spill
        self._spill_schema = _spill_schema(self._tensors, context)
        self._spill_writer: Any = pa.ipc.new_stream(str(spill), self._spill_schema)
        self._verbatim = pq.ParquetWriter(
            work / VERBATIM_FILE,
            SEQ_SCHEMA,
            compression="zstd",
            compression_level=1,
            use_dictionary=["method", "model", "version"],
            write_statistics=False,
            write_page_checksum=True,
        )
        self._count = 0
        self._one_row_each = True
        self._spans: list[int] = []
        self._versions: Counter[str] = Counter()
        self._models: Counter[str] = Counter()

    def add(self, chunk: pa.RecordBatch) -> None:
        """Decodes exchanges of `SEQ_SCHEMA` that follow the former ones in storage order."""
        ids = chunk.column("request_id").to_pylist()
        self._models.update(chunk.column("model").to_pylist())
        decoded = self._requests.decode(chunk.column("request").to_pylist())
        for i, reason in decoded.reasons:
            self._tally.count(self._tally.not_sealed, reason, ids[i])
        kept = chunk if decoded.ok.all() else chunk.filter(pa.array(decoded.ok))
        if len(kept) == 0:
            return
        rows = decoded.rows[decoded.ok]
        answered, recorded = self._read_responses(kept, rows)
        self._verbatim.write_batch(kept)
        self._note(kept, rows, answered)
        self._spill_columns(kept, rows, answered, decoded.tensors, recorded)

    def close(self) -> None:
        """Ends decoding; `encode` and `info` may follow."""
        self._verbatim.close()
        self._spill_writer.close()

    def encode(self, path: Path) -> bytes:
        """Writes the block file from the spilled columns.

        Returns:
          The digest of its values.
        """
        writer = BlockWriter(
            path,
            tensors=self._tensors,
            context=[CONTEXT + c for c in self._context],
            words={name: words.sorted() for name, words in self._words.items()},
            flat=self._one_row_each,
        )
        with pa.OSFile(str(self._spill)) as opened, pa.ipc.open_stream(opened) as spilled:
            for batch in spilled:
                writer.add(
                    {
                        name: column.flatten() if name in self._tensors else column
                        for name, column in zip(batch.schema.names, batch.columns, strict=True)
                    }
                )
        return writer.close()

    def info(self, sources: tuple[tuple[str, str], ...], columns_digest: bytes) -> WindowInfo:
        """What the window says about itself.

        Args:
          sources: (file name, sha256) of what was sealed.
          columns_digest: what `encode` returned.
        """
        identity = {
            "columns": columns_digest.hex(),
            "inputs": _said(self._inputs),
            "recorded": _said(self._recorded),
            "context": self._context,
            "count": self._count,
        }
        return WindowInfo(
            window_hash=sha256(identity),
            count=self._count,
            first_ts_ns=min(self._spans, default=0),
            last_ts_ns=max(self._spans, default=0),
            inputs=self._inputs,
            recorded=self._recorded,
            context=self._context,
            not_sealed=tuple(self._tally.not_sealed.most_common()),
            sources=sources,
            versions=tuple(self._versions.most_common()),
            not_answered=tuple(self._tally.not_answered.most_common()),
            models=tuple(self._models.most_common()),
        )

    def _note(self, kept: pa.RecordBatch, rows: Ints, answered: Bools) -> None:
        self._count += len(kept)
        self._one_row_each = self._one_row_each and bool((rows == 1).all())
        ts_ns = kept.column("ts_ns").to_numpy()
        self._spans = [
            min([*self._spans, int(ts_ns.min())]),
            max([*self._spans, int(ts_ns.max())]),
        ]
        versions = kept.column("version").filter(pa.array(answered))
        self._versions.update(versions.to_pylist())

    def _read_responses(self, kept: pa.RecordBatch, rows: Ints) -> tuple[Bools, Tensors]:
        """Which requests have a usable response, and its tensors with filler elsewhere."""
        codes = kept.column("code").to_numpy()
        responses = kept.column("response").to_pylist()
        why = [
            f"gRPC status {code}" if code != OK_CODE else "" if response else "no response recorded"
            for code, response in zip(codes.tolist(), responses, strict=True)
        ]
        asked = np.array([k for k, reason in enumerate(why) if not reason], np.int64)
        decoded = self._responses.decode([responses[k] for k in asked])
        for i, reason in decoded.reasons:
            why[asked[i]] = reason
        fits = decoded.ok & (decoded.rows == rows[asked])
        for k in asked[decoded.ok & ~fits].tolist():
            why[k] = "the response has another number of rows than the request"
        answered = np.zeros(len(kept), np.bool_)
        answered[asked[fits]] = True
        ids = kept.column("request_id")
        for k in np.flatnonzero(~answered).tolist():
            self._tally.count(self._tally.not_answered, why[k], ids[k].as_py())
        source = np.repeat(fits, decoded.rows)
        target = np.repeat(answered, rows)
        recorded = {}
        for spec in self._recorded:
            values = _filler(spec, int(rows.sum()))
            values[target] = decoded.tensors[spec.name][source]
            recorded[spec.name] = values
        return answered, recorded

    def _spill_columns(
        self,
        kept: pa.RecordBatch,
        rows: Ints,
        answered: Bools,
        inputs: Tensors,
        recorded: Tensors,
    ) -> None:
        columns = {
            "seq": kept.column("seq"),
            "request_id": kept.column("request_id"),
            "ts_ns": kept.column("ts_ns"),
            "rows": pa.array(rows),
            "answered": pa.array(answered),
        }
        given = {INPUT + n: v for n, v in inputs.items()} | {
            RECORDED + n: v for n, v in recorded.items()
        }
        for name, spec in self._tensors.items():
            values = pa.array(given[name].ravel(), value_type(spec.datatype), from_pandas=False)
            self._learn(name, values)
            columns[name] = list_column(values, rows, elements_per_row(spec))
        by_key = context_columns(kept.column("context"))
        for column in self._context:
            words = by_key.get(column)
            values = pa.array([""] * len(kept) if words is None else words, pa.string())
            self._learn(CONTEXT + column, values)
            columns[CONTEXT + column] = values
        self._spill_writer.write_batch(
            pa.RecordBatch.from_arrays(
                [columns[name] for name in self._spill_schema.names], schema=self._spill_schema
            )
        )

    def _learn(self, name: str, values: pa.Array) -> None:
        if name in self._words:
            self._words[name].add(values)


def _common_layout(shuffle: Shuffle, kind: Kind) -> Layout | None:
    """The layout most exchanges have, from the first bucket that has any: a uniform sample."""
    for table in shuffle.buckets():
        messages = table[kind]
        if kind == "response":
            messages = messages.filter(pa.array(table["code"].to_numpy() == OK_CODE))
        sample = messages.slice(0, _LAYOUT_SAMPLE).to_pylist()
        layout = most_common_layout(kind, [m for m in sample if m])
        if layout is not None:
            return layout
    return None


def _spill_schema(tensors: dict[str, TensorSpec], context: tuple[str, ...]) -> pa.Schema:
    return pa.schema(
        [
            pa.field("seq", pa.int64()),
            pa.field("request_id", pa.string()),
            pa.field("ts_ns", pa.int64()),
            pa.field("rows", pa.int64()),
            pa.field("answered", pa.bool_()),
            *(
                pa.field(name, pa.large_list(value_type(spec.datatype)))
                for name, spec in tensors.items()
            ),
            *(pa.field(CONTEXT + column, pa.string()) for column in context),
        ]
    )


def _filler(spec: TensorSpec, rows: int) -> Array:
    """Rows of unanswered requests: NaN where there is one, so that nobody takes them for answers."""
    shape = (rows, *(d or 0 for d in spec.shape))
    dtype = NUMPY_DTYPES[spec.datatype]
    if dtype.kind == "f":
        return np.full(shape, np.nan, dtype)
    return np.full(shape, "" if dtype.kind == "O" else 0, dtype)

"""Tables of inputs: .npz, .parquet and .jsonl, read in pieces of the same form.

Besides one array or column per input a table may have `ts_ns` (request time), `request_id`,
`cx:<name>` (context columns to slice by) and `feature:<name>` (what the serving side logged of a feature,
kept as context, too; lists, or an array of shape (N, k), where it has several columns).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.store.table_jsonl import jsonl_pieces
from harness.store.table_npz import npz_pieces
from harness.store.table_parquet import parquet_pieces
from harness.store.table_pieces import Piece, Specs


def pieces(path: Path, specs: Specs | None) -> Iterator[Piece]:
    """Reads a table by its suffix.

    Args:
      path: a .npz, .parquet or .jsonl file.
      specs: the model's inputs by name; None takes the columns as they are.

    Raises:
      TrafficError: damaged file, or columns that are not the model's inputs; the column is named.
    """
    match path.suffix:
        case ".npz":
            yield from npz_pieces(path, specs)
        case ".parquet":
            yield from parquet_pieces(path, specs)
        case _:
            yield from jsonl_pieces(path, specs)

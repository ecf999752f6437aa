"""Which files of a Delta table's folder hold its present rows.

A Delta table's folder keeps files of rows that were updated or deleted long ago; its log says which
ones count (Delta Lake's protocol: `add` and `remove` actions in _delta_log, gathered in checkpoints).
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.errors import TrafficError
from harness.core.places import Place
from harness.store.places import files_below, opened, stream

LOG = "_delta_log"
_COMMIT = re.compile(r"^(\d{20})\.json$")
_CHECKPOINT = re.compile(r"^(\d{20})\.checkpoint(?:\.\d{10}\.\d{10})?\.parquet$")


def present_files(table: Place) -> list[str] | None:
    """Paths below a table's folder of the files that hold its rows; None = it is no Delta table.

    Raises:
      TrafficError: a log that cannot be read, rows deleted in a way that needs Delta itself, or a table
        in a folder below.
    """
    if not _has_log(table):
        return None
    names = {p.name for end in (".json", ".parquet") for p in files_below(table / LOG, end)}
    commits = {int(m[1]): n for n in names if (m := _COMMIT.match(n))}
    checkpoints = {n: int(m[1]) for n in names if (m := _CHECKPOINT.match(n))}
    if not commits and not checkpoints:
        return None
    last = max(checkpoints.values(), default=-1)
    present: set[str] = set()
    try:
        for name in sorted(n for n, version in checkpoints.items() if version == last):
            _apply(table, _checkpoint_actions(table / LOG / name), present)
        after = sorted(version for version in commits if version > last)
        if after != list(range(last + 1, last + 1 + len(after))):
            raise TrafficError(
                str(table), "its Delta log has gaps", "Copy the whole table, or export it."
            )
        for version in after:
            _apply(table, _commit_actions(table / LOG / commits[version]), present)
    except (ValueError, AttributeError, KeyError, TypeError, pa.ArrowException, OSError) as error:
        raise TrafficError(
            str(table),
            f"its Delta log cannot be read: {error}",
            "Copy the whole table, or export it.",
        ) from None
    return sorted(present)


def _has_log(table: Place) -> bool:
    """Raises TrafficError where a table lies deeper: its files alone say nothing of which rows count."""
    logged = [p for p in files_below(table, ".json") if LOG in p.parts[:-1]]
    deeper = [p for p in logged if p.parts[0] != LOG]
    if deeper and len(deeper) == len(logged):
        below = deeper[0].parts[: deeper[0].parts.index(LOG)]
        raise TrafficError(
            str(table),
            f"{table / '/'.join(below)} is a Delta table",
            "Give the folder of one table.",
        )
    return bool(logged)


def _apply(table: Place, actions: list[dict[str, Any]], present: set[str]) -> None:
    for action in actions:
        added, removed = action.get("add"), action.get("remove")
        if added:
            if added.get("deletionVector"):
                raise TrafficError(
                    str(table), "has rows deleted by a deletion vector, which only Delta can read",
                    "Run REORG TABLE … APPLY (PURGE), or export the rows as Parquet.",
                )  # fmt: skip
            present.add(unquote(added["path"]))
        if removed:
            present.discard(unquote(removed["path"]))


def _commit_actions(file: Place) -> list[dict[str, Any]]:
    with stream(file) as content:
        return [json.loads(line) for line in content.read().splitlines() if line.strip()]


def _checkpoint_actions(file: Place) -> list[dict[str, Any]]:
    with opened(file) as content, pq.ParquetFile(content) as parquet:
        wanted = [n for n in ("add", "remove") if n in parquet.schema_arrow.names]
        return list(parquet.read(columns=wanted).to_pylist())

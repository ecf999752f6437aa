"""Files of logs, and those of one JSON document a line, read with flat memory.

A line longer than the limit is passed over, not held. `.gz` files are unpacked on the way. The last line
of a CSV file counts once it has its end: a number that is cut off is a number, too. (A JSON object that is
cut off is none.)
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from harness.core.errors import TrafficError, nearest
from harness.core.places import Place, absolute
from harness.record.importers.documents import parsed
from harness.record.importers.ledger import SAID_WHOLE
from harness.record.importers.parts import PayloadError, Refused, Trouble, kind_of
from harness.store.objects import filesystem
from harness.store.places import check_readable, files_below, is_file, stream

_PIECE = 1 << 20
BEGINNING = 4096
"""Bytes that are kept of a record over the limit."""

CUT = "the file is damaged or cut off"
LEFT_OUT = "the file is left out"
UNENDED = (
    "the file ends in the middle of this line, which may be cut off: it is read again once the file has "
    "changed, or with --whole"
)
_MOST_RECORDS = 1 << 40
"""More than a file can hold; a damaged one says anything."""


class ColumnsError(TrafficError):
    """A file that has not the columns of its format, or of the mapping."""

    def __init__(self, where: str, what: str, remedy: str, records: int | None) -> None:
        super().__init__(where, what, remedy)
        self.records = records
        """How many records it holds; None = it does not say."""


Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One file of a source."""

    place: Place
    """Where it lies."""
    name: str
    """As reports call it: the path below the source."""
    key: str
    """As it is remembered over runs: the whole, absolute place."""
    stamp: str
    """Changes when its content does: size and time of change."""
    changed_ns: int
    """When it was last changed, nanoseconds since the epoch."""
    whole: bool = False
    """Who gives it says that it is: of a CSV file the last line counts also without an end of line."""
    missing: str = ""
    """Why there is nothing to read where a table's log names it, and what to do; "" = it is there."""

    @property
    def size_bytes(self) -> int:
        """Its size; 0 = it is empty, or not there."""
        size = self.stamp.partition(" ")[0]
        return int(size) if size.isdecimal() else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record of a file."""

    place: str
    """file:number"""
    raw: bytes
    """As it was read."""
    row: Row
    """Its fields."""


def source_files(
    source: Place, suffixes: Sequence[str], *, whole: bool = False
) -> list[SourceFile]:
    """The files of a source, by name.

    Args:
      source: a file, or a folder of them, here or in an object store.
      suffixes: endings that count, e.g. .jsonl; each may have .gz behind it.
      whole: see `SourceFile.whole`.

    Raises:
      TrafficError: nothing there, nothing with such an ending, or it cannot be listed.
    """
    if is_file(source):
        return [_source_file(source, source.name, whole=whole)]
    if isinstance(source, Path) and not source.exists():
        raise TrafficError(str(source), "no such file or folder", "Check the path.")
    names = sorted(
        {p for s in suffixes for end in (s, f"{s}.gz") for p in files_below(source, end)}
    )
    if not names:
        raise TrafficError(
            str(source), f"no file that ends in {' or '.join(suffixes)} below it",
            "Give the folder or file that the logs lie in.",
        )  # fmt: skip
    return [_source_file(source / str(name), str(name), whole=whole) for name in names]


def missing_file(source: Place, name: str) -> SourceFile:
    """A file that a table's log names and that is not below its folder; reading it says so."""
    what = "lies outside of the folder;" if _leads_out(name) else "is not there;"
    return SourceFile(
        place=source, name=name, key=str(absolute(source / name)), stamp="missing", changed_ns=0,
        missing=f"the table's log names it, and it {what} copy the whole table, then import again",
    )  # fmt: skip


def _leads_out(name: str) -> bool:
    return name.startswith("/") or "://" in name or ".." in name.split("/")


def _source_file(place: Place, name: str, *, whole: bool) -> SourceFile:
    if isinstance(place, Path):
        check_readable(place)
        found = place.stat()
        size, changed_ns = found.st_size, found.st_mtime_ns
    else:
        info = filesystem(place).get_file_info(place.path)
        size, changed_ns = info.size, info.mtime_ns or 0
    # A file that is said to be whole is read again, as one that has grown.
    said = SAID_WHOLE if whole and name.removesuffix(".gz").endswith(".csv") else ""
    return SourceFile(
        place=place, name=name, key=str(absolute(place)), stamp=f"{size} {changed_ns}{said}",
        changed_ns=changed_ns, whole=whole,
    )  # fmt: skip


def lines(
    file: SourceFile, limit: int, *, ended: bool = False
) -> Iterator[tuple[int, bytes | Refused]]:
    """(number from 1, line without its end) of each line; a longer one than `limit` bytes is refused.

    Args:
      file: which is read.
      limit: longest line, bytes.
      ended: a last line without an end of line is refused, too, unless the file is said to be whole.
    """
    with stream(file.place) as content:
        source: Any = gzip.GzipFile(fileobj=content) if file.name.endswith(".gz") else content
        try:
            yield from _split(file.name, source, limit, ended=ended and not file.whole)
        except (OSError, EOFError) as error:  # a .gz that is cut off, or none
            yield 0, unreadable(file.name, str(error))


def _split(
    name: str, source: BinaryIO, limit: int, *, ended: bool
) -> Iterator[tuple[int, bytes | Refused]]:
    held, passed, number = bytearray(), 0, 1
    # What was unpacked before the cut counts: read() would throw it away.
    read = getattr(source, "read1", source.read)
    while piece := read(_PIECE):
        start = 0
        while (end := piece.find(b"\n", start)) >= 0:
            held += piece[start:end]
            yield number, _line(name, number, held, passed, limit)
            held, passed, number, start = bytearray(), 0, number + 1, end + 1
        held += piece[start:]
        if len(held) > limit:
            passed += len(held) - BEGINNING if not passed else max(0, len(held) - BEGINNING)
            del held[BEGINNING:]
    if held:
        line = _line(name, number, held, passed, limit)
        if ended and isinstance(line, bytes):
            line = undecodable(f"{name}:{number}", UNENDED, line)
        yield number, line


def _line(name: str, number: int, held: bytearray, passed: int, limit: int) -> bytes | Refused:
    size = len(held) + passed
    if size <= limit:
        return bytes(held)
    return Refused(
        place=f"{name}:{number}", trouble=Trouble.OVERSIZED,
        why=f"a record of {size:,} bytes, over the limit of {limit:,}", raw=bytes(held[:BEGINNING]),
    )  # fmt: skip


def json_lines(file: SourceFile, limit: int) -> Iterator[Record | Refused]:
    """The objects of a file with one JSON document a line."""
    for number, line in lines(file, limit):
        place = f"{file.name}:{number}"
        if isinstance(line, Refused):
            yield line
            continue
        if not line.strip():
            continue
        try:
            row = parsed(line)
        except PayloadError as error:
            yield undecodable(place, str(error), line)
        else:
            if isinstance(row, dict):
                yield Record(place=place, raw=line, row=row)
            else:
                yield undecodable(place, f"{kind_of(row)}, no object", line)


def check_columns(
    where: str, names: Sequence[str], needed: Sequence[str], records: int | None = None
) -> None:
    """Refuses a table without the columns that its format has.

    Args:
      where: the file.
      names: of its columns.
      needed: of those that it must have.
      records: how many it holds; None = it does not say.

    Raises:
      ColumnsError: names the column and the nearest one.
    """
    for name in needed:
        if names.count(name) > 1:
            raise ColumnsError(
                where,
                f"two columns '{name}'",
                "Leave one of them out, or name them apart.",
                records,
            )
        if name not in names:
            raise ColumnsError(
                where, f"no column '{name}' ({nearest(name, names)})",
                "Check that the file is of the format named, or that the mapping names its columns.",
                records,
            )  # fmt: skip


def undecodable(place: str, why: str, raw: bytes) -> Refused:
    """A record that is not what its format says."""
    return Refused(place=place, trouble=Trouble.UNDECODABLE, why=why, raw=raw)


def empty(place: str) -> Refused:
    """A file without a byte where its format has some: it is named, and no record is known to be lost."""
    why = f"{CUT} from here: it has 0 bytes, and what it should hold is not known"
    return Refused(place=place, trouble=Trouble.UNDECODABLE, why=why, raw=b"", records=0)


def unreadable(place: str, why: str, records: int | None = None) -> Refused:
    """The rest of a file that is damaged or cut off.

    Args:
      place: where it begins.
      why: what is wrong there.
      records: how many it holds; None = the file does not say.
    """
    return the_rest(place, f"{CUT} from here: {why}", records)


def the_rest(place: str, why: str, records: int | None) -> Refused:
    """Records of a file that are not read.

    Args:
      place: where the first of them stands.
      why: in words.
      records: how many; None = the file does not say.
    """
    if records is not None:
        records = min(max(records, 1), _MOST_RECORDS)
        why += f" ({records:,} {'record' if records == 1 else 'records'})"
    return Refused(place=place, trouble=Trouble.UNDECODABLE, why=why, raw=b"", records=records)

"""The rows of a CSV file, read line by line with flat memory."""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Iterator, Sequence

from harness.record.importers.parts import Refused
from harness.record.importers.sources import (
    UNENDED,
    Record,
    SourceFile,
    check_columns,
    lines,
    undecodable,
)

_MOST_ROW_LINES = 1000
"""A CSV row of more lines has a quote that is not closed."""


def csv_rows(file: SourceFile, limit: int, needed: Sequence[str]) -> Iterator[Record | Refused]:
    """The rows of a CSV file with a header, as text.

    Raises:
      TrafficError: a needed column is not there.
    """
    csv.field_size_limit(max(limit, csv.field_size_limit()))
    source = _CsvLines(file, limit)
    reader = csv.reader(source)
    header: list[str] | None = None
    while True:
        found = _csv_cells(file, source, reader, header)
        yield from source.refused
        source.refused.clear()
        if found is None:
            return
        if isinstance(found, Refused):
            yield found
        elif header is None:
            header = found
            check_columns(str(file.place), header, needed)
        elif found:
            yield _csv_record(f"{file.name}:{source.number}", header, found)


def _csv_cells(
    file: SourceFile, source: _CsvLines, reader: Iterator[list[str]], header: list[str] | None
) -> list[str] | Refused | None:
    """The cells of the next row; None at the end. A quote that is not closed costs its own line only."""
    source.begin()
    try:
        cells = next(reader, None)
    except _OpenQuoteError:
        if source.goes_on_unended():
            # Its lines are no rows by themselves: the row waits with its last line.
            last = source.refused.pop()
            return undecodable(
                f"{file.name}:{source.taken[0][0]}", UNENDED, source.raw() + last.raw
            )
        cells = []
    except csv.Error as error:
        return undecodable(f"{file.name}:{source.number}", f"no CSV: {error}", source.raw())
    else:
        if not (cells and header and len(source.taken) > 1 and len(cells) != len(header)):
            return cells
    place, raw = f"{file.name}:{source.taken[0][0]}", source.raw(1)
    source.put_back()
    return undecodable(place, "a quote that is not closed; the line is left out", raw)


class _OpenQuoteError(Exception):
    """A row that goes on over too many lines, or over the end of the file."""


class _CsvLines:
    """The lines of a CSV file, some of which can be read again.

    Args:
      file: the file.
      limit: longest line, and longest row, bytes.
    """

    def __init__(self, file: SourceFile, limit: int) -> None:
        self._lines, self._limit = lines(file, limit, ended=True), limit
        self._again: deque[tuple[int, str]] = deque()
        self._size = 0
        self.taken: list[tuple[int, str]] = []
        self.refused: list[Refused] = []
        self.number = 0

    def begin(self) -> None:
        """A row begins with the next line."""
        self.taken.clear()
        self._size = 0

    def put_back(self) -> None:
        """All lines of the row but its first are read again, as rows of their own."""
        self._again.extendleft(reversed(self.taken[1:]))

    def goes_on_unended(self) -> bool:
        """Whether the row goes on into a last line that has no end."""
        return not self._again and bool(self.refused) and self.refused[-1].why == UNENDED

    def raw(self, most: int | None = None) -> bytes:
        """The row's lines as they were read."""
        return "".join(t for _, t in self.taken[:most]).encode("utf-8", "surrogateescape")

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        if len(self.taken) >= _MOST_ROW_LINES or self._size > self._limit:
            raise _OpenQuoteError
        if not self._again:
            self._read()
        if not self._again:
            if self.taken:
                raise _OpenQuoteError
            raise StopIteration
        self.number, text = self._again.popleft()
        self.taken.append((self.number, text))
        self._size += len(text)
        return text

    def _read(self) -> None:
        for number, line in self._lines:
            if not isinstance(line, Refused):
                text = line.decode("utf-8", "surrogateescape")
                self._again.append(
                    (number, (text.removeprefix("\ufeff") if number == 1 else text) + "\n")
                )
                return
            self.refused.append(line)


def _csv_record(place: str, header: list[str], cells: list[str]) -> Record | Refused:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    raw = text.getvalue().encode("utf-8", "surrogateescape")
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return undecodable(place, f"not UTF-8 at byte {error.start}", raw)
    if len(cells) != len(header):
        return undecodable(place, f"{len(cells)} cells for {len(header)} columns", raw)
    return Record(place=place, raw=raw, row=dict(zip(header, cells, strict=True)))

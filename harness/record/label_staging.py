"""Labels on their way into a traffic folder: one SQLite file, so that none is taken twice.

The same label of the same request with the same arrival is a duplicate; another label with the same
arrival is a conflict, of which the first counts; a later arrival is a correction, or a delivery again,
and is kept, because what was known when depends on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from harness.record.importers.ledger import Ledger
from harness.record.importers.parts import Refused, Trouble
from harness.record.label_files import Label

FILE_ROWS = 262_144
_TABLES = """
CREATE TABLE IF NOT EXISTS label(
  id TEXT, ingestion_ns INTEGER, label REAL, event_ns INTEGER, label_event_ns INTEGER, file INTEGER, reading INTEGER,
  PRIMARY KEY(id, ingestion_ns));
CREATE INDEX IF NOT EXISTS filed ON label(file);
CREATE INDEX IF NOT EXISTS label_reading ON label(reading);
"""


class LabelStaging(Ledger):
    """The labels of one traffic folder that were imported, kept over runs.

    Args:
      path: its file; made when missing.

    Raises:
      TrafficError: the file is damaged, or another import uses it.
    """

    GIVEN = (("label", "reading"),)

    def __init__(self, path: Path) -> None:
        super().__init__(path, _TABLES)

    def add(self, label: Label) -> None:
        """Takes a label, or counts why not."""
        row = self.db.execute(
            "SELECT label, reading FROM label WHERE id = ? AND ingestion_ns = ?",
            (label.request_id, label.ingestion_ns),
        ).fetchone()
        if row is not None:
            if self.is_own(row[1]):
                if row[0] != label.label and self.other_terms:
                    raise self.changed(label.place)
                if row[0] == label.label:
                    self._found_again(label)
                    return
            if row[0] == label.label:
                self.count("duplicates")
                return
            why = f"the label {label.label:g} beside {row[0]:g}, both of the same arrival"
            content = hashlib.sha256(label.raw).hexdigest()[:8]
            self.refuse(
                Refused(
                    place=f"{label.place} {content}",
                    trouble=Trouble.CONFLICTING,
                    why=why,
                    raw=label.raw,
                )
            )
            return
        self.db.execute(
            "INSERT INTO label VALUES(?, ?, ?, ?, ?, NULL, ?)",
            (label.request_id, label.ingestion_ns, label.label, label.event_ns,
             label.ingestion_ns if label.label_event_ns is None else label.label_event_ns,
             self.reading),
        )  # fmt: skip

    def _found_again(self, label: Label) -> None:
        """A file that is read again gives what it gave: no duplicate."""
        self.count("again")
        self.db.execute(
            "UPDATE label SET reading = ? WHERE id = ? AND ingestion_ns = ?",
            (self.reading, label.request_id, label.ingestion_ns),
        )

    def begin_file(self, name: str) -> int | None:
        """Notes, for good, which labels the next file will hold; None when nothing waits."""
        if not self.db.execute("SELECT 1 FROM label WHERE file IS NULL").fetchone():
            return None
        number = self.new_file("labels", name)
        self.db.execute(
            "UPDATE label SET file = ? WHERE rowid IN "
            "(SELECT rowid FROM label WHERE file IS NULL ORDER BY rowid LIMIT ?)",
            (number, FILE_ROWS),
        )
        self.commit()
        return number

    def labels_of(self, number: int) -> list[tuple[str, int, float, int | None, int]]:
        """(id, arrival, label, event, label event) of a file, by id and arrival."""
        return self.db.execute(
            "SELECT id, ingestion_ns, label, event_ns, label_event_ns FROM label WHERE file = ? "
            "ORDER BY id, ingestion_ns", (number,),
        ).fetchall()  # fmt: skip

    def end_file(self, number: int) -> None:
        """Notes that a file is there."""
        self.end(number)
        self.commit()

    def batches(self, rows: int) -> Iterator[list[tuple[str, int, float, int | None, int]]]:
        """All labels, in pieces, by id and arrival."""
        cursor = self.db.execute(
            "SELECT id, ingestion_ns, label, event_ns, label_event_ns FROM label ORDER BY id, ingestion_ns"
        )
        while piece := cursor.fetchmany(rows):
            yield piece

    def repeated(self) -> tuple[int, int]:
        """(labels that came again with another value, labels that came again with the same)."""
        query = (
            "SELECT sum(label != before), sum(label = before) FROM (SELECT label, lag(label) OVER "
            "(PARTITION BY id ORDER BY ingestion_ns) AS before FROM label) WHERE before IS NOT NULL"
        )
        corrected, again = self.db.execute(query).fetchone()
        return int(corrected or 0), int(again or 0)

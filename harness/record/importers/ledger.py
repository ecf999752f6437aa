"""What every import remembers between runs: the place reached in each source, counts, refusals, files.

One SQLite file. A file whose content or mapping changed is read again from its beginning: what it gave
before is its own and no duplicate, and the counts and refusals of the former reading give way to those
of the new one, unless the file no longer holds what it gave: then both count. Each commit holds what was taken, the counts and the place reached together, so that
nothing is counted twice; a file's content is noted for good before the file is written.
"""

from __future__ import annotations

import errno
import hashlib
import secrets
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from harness.core.errors import TrafficError
from harness.core.places import Place
from harness.record.importers.parts import Refused

SAID_WHOLE = " whole"
"""Ends the stamp of a file whose giver said that it is whole; who has said so once has said it for good."""
_RAW_KEPT = 64 << 10
_OF_THE_PLACE = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP,
    errno.ENAMETOOLONG,
}  # fmt: skip
"""What no room on the disk helps against."""
_VERSION = 2
_TABLES = """
CREATE TABLE IF NOT EXISTS state(token TEXT);
CREATE TABLE IF NOT EXISTS source(
  name TEXT PRIMARY KEY, stamp TEXT, how TEXT, records INTEGER, whole INTEGER, reading INTEGER, former INTEGER);
CREATE TABLE IF NOT EXISTS count(reading INTEGER, name TEXT, n INTEGER, PRIMARY KEY(reading, name));
CREATE TABLE IF NOT EXISTS refused(
  place TEXT, trouble TEXT, why TEXT, size INTEGER, raw BLOB, reading INTEGER, digest BLOB PRIMARY KEY);
CREATE INDEX IF NOT EXISTS refused_reading ON refused(reading);
CREATE TABLE IF NOT EXISTS file(
  number INTEGER PRIMARY KEY, folder TEXT, name TEXT, done INTEGER);
"""


@contextmanager
def writing(to: Place) -> Iterator[None]:
    """Turns what a full or broken disk does to an import into an error that says how to go on.

    Args:
      to: where the import writes.

    Raises:
      TrafficError: in place of the system's or the database's error.
    """
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        said = getattr(error, "strerror", None) or str(error).split("\n", 1)[0]
        what, remedy = "", "Make room, or repair the disk"
        if isinstance(error, OSError) and error.errno in _OF_THE_PLACE:
            what, remedy = f", {error.filename or to}", "Give access there, or name another folder"
        raise TrafficError(
            str(to), f"the import cannot be written{what}: {said}",
            f"{remedy}, and give the command again: it goes on where it stopped.",
        ) from error  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What reading a file gave the last time."""

    size_bytes: int
    """Of the file; 0 = it is not there."""
    records: int
    """Read, those that could not be used among them."""
    counts: Counter[str]
    """What was counted."""


class Ledger:
    """The memory of one import.

    `token` is the state's own name and `run` this opening's: files that are named by them never take
    the place of those that another state, a lost one or a copy of this one wrote.

    Args:
      path: its file; made when missing.
      tables: SQL that makes what this kind of import stages.

    Raises:
      TrafficError: the file is damaged, or another import uses it.
    """

    GIVEN: ClassVar[tuple[tuple[str, str], ...]] = ()
    """(table, column) of what is staged and the reading that gave it."""

    def __init__(self, path: Path, tables: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._counts: Counter[str] = Counter()
        self.run = secrets.token_hex(4)
        self._reading = 0
        self._former: int | None = None
        self.other_terms = False
        """Whether the file that is read was read before with another mapping, model or limit."""
        self.db = sqlite3.connect(path, isolation_level=None, timeout=1.0, check_same_thread=False)
        try:
            self.db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self.db.execute("PRAGMA journal_mode=WAL")
            self.db.execute("PRAGMA synchronous=FULL")
            self.db.execute("PRAGMA cache_size=-16384")
            self._check_version(path)
            self.db.executescript(_TABLES + tables)
            self.db.execute("BEGIN IMMEDIATE")
            self.token = self._token()
        except sqlite3.OperationalError as error:
            self.db.close()
            if "locked" not in str(error):
                raise
            raise TrafficError(
                str(path), "another import is writing there", "Wait for it, or name another folder."
            ) from None
        except sqlite3.DatabaseError:
            self.db.close()
            raise TrafficError(
                str(path), "the import's staging file is damaged",
                "Move the traffic's files of this import and the file's folder away, then import again.",
            ) from None  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.commit()
                self.db.execute("COMMIT")
            elif self.db.in_transaction:  # a full disk has ended it already
                self.db.execute("ROLLBACK")
        finally:
            self.db.close()

    def _check_version(self, path: Path) -> None:
        (version,) = self.db.execute("PRAGMA user_version").fetchone()
        (tables,) = self.db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and version != _VERSION:
            self.db.close()
            raise TrafficError(
                str(path), "the import's staging file is of another version of this program",
                "Go on with that version, or move the file away and import what is new alone.",
            )  # fmt: skip
        self.db.execute(f"PRAGMA user_version = {_VERSION}")

    def _token(self) -> str:
        row = self.db.execute("SELECT token FROM state").fetchone()
        if row is None:
            row = (secrets.token_hex(4),)
            self.db.execute("INSERT INTO state VALUES(?)", row)
            self.commit()
        return str(row[0])

    def undo(self) -> None:
        """Goes back to the last commit, after a write that failed.

        Raises:
          sqlite3.Error: that cannot be done now.
        """
        self._counts.clear()
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")
        self.db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Makes what was done so far outlive a kill."""
        self.db.executemany(
            "INSERT INTO count VALUES(?, ?, ?) ON CONFLICT(reading, name) DO UPDATE SET n = n + excluded.n",
            [(self._reading, name, n) for name, n in self._counts.items()],
        )
        self._counts.clear()
        self.db.execute("COMMIT")
        self.db.execute("BEGIN IMMEDIATE")

    def count(self, name: str, n: int = 1) -> None:
        """Counts something for the report."""
        self._counts[name] += n

    def counts(self) -> Counter[str]:
        """What was counted, over all runs."""
        query = "SELECT name, sum(n) FROM count GROUP BY name"
        found = Counter(dict(self.db.execute(query).fetchall()))
        found.update(self._counts)
        return found

    def begin_source(self, name: str, stamp: str, how: str) -> int | None:
        """How many records of a file were taken before in this reading; None = all of them.

        Args:
          name: the file's.
          stamp: changes when its content does; another stamp begins the file again.
          how: the terms of reading: mapping, model, limits; others begin it again, too.
        """
        name = name.encode("utf-8", "backslashreplace").decode()
        row = self.db.execute(
            "SELECT stamp, how, records, whole, reading, former FROM source WHERE name = ?", (name,)
        ).fetchone()
        self.commit()
        if row and row[0] in {stamp, stamp + SAID_WHOLE} and row[1] == how:
            _, _, records, whole, self._reading, self._former = row
            self.other_terms = False
            return None if whole else int(records)
        (last,) = self.db.execute("SELECT coalesce(max(reading), 0) FROM source").fetchone()
        if row and not row[3] and row[5] is not None:
            self._merge(row[5], row[4])
        self._reading, self._former = int(last) + 1, row[4] if row else None
        self.other_terms = bool(row) and row[1] != how
        self.db.execute(
            "INSERT OR REPLACE INTO source VALUES(?, ?, ?, 0, 0, ?, ?)",
            (name, stamp, how, self._reading, self._former),
        )
        return 0

    def reach(self, records: int) -> None:
        """Notes how far the file was read; commits, but for a reading that may yet be refused."""
        self.db.execute("UPDATE source SET records = ? WHERE reading = ?", (records, self._reading))
        if not self.other_terms:
            self.commit()

    def end_source(self, where: str, records: int) -> None:
        """Notes that the file was read to its end.

        Args:
          where: the file, for messages.
          records: its records.

        Raises:
          TrafficError: under other terms it no longer gives what it gave.
        """
        left = self._former is not None and self.left_of(self._former)
        if left and self.other_terms:
            raise self.changed(where)
        if self._former is not None and not left:
            for table in ("count", "refused"):
                self.db.execute(f"DELETE FROM {table} WHERE reading = ?", (self._former,))  # noqa: S608 - two fixed names
        elif left:
            self.count("duplicates", self._counts["again"])
        self.db.execute(
            "UPDATE source SET records = ?, whole = 1 WHERE reading = ?", (records, self._reading)
        )
        self.commit()
        self._reading, self._former, self.other_terms = 0, None, False

    def leave_source(self, records: int) -> None:
        """Notes that the file was not read to its end: every run looks at it again.

        Args:
          records: those that were read, and that it is left out.
        """
        self.reach(records)
        self._reading, self._former, self.other_terms = 0, None, False

    def readings(self) -> list[Reading]:
        """Of every file, as it was read last."""
        self.commit()
        found = self.db.execute(
            "SELECT stamp, records, reading FROM source ORDER BY reading"
        ).fetchall()
        counts: dict[int, Counter[str]] = {}
        for reading, name, n in self.db.execute("SELECT reading, name, n FROM count"):
            counts.setdefault(reading, Counter())[name] = n
        return [
            Reading(
                size_bytes=int(size) if (size := stamp.partition(" ")[0]).isdecimal() else 0,
                records=records, counts=counts.get(reading, Counter()),
            )
            for stamp, records, reading in found
        ]  # fmt: skip

    def counted(self, name: str) -> list[str]:
        """The files in whose last reading something was counted."""
        self.commit()
        found = self.db.execute(
            "SELECT source.name FROM source JOIN count USING(reading) WHERE count.name = ? AND n > 0",
            (name,),
        ).fetchall()
        return [str(source) for (source,) in found]

    def count_as(self, source: str, name: str, other: str) -> None:
        """Counts under another name what was counted in a file's last reading."""
        self.db.execute(
            "UPDATE OR REPLACE count SET name = ? WHERE name = ? AND reading = "
            "(SELECT reading FROM source WHERE source.name = ?)", (other, name, source),
        )  # fmt: skip

    def left_of(self, reading: int) -> bool:
        """Whether something of a former reading was not found again."""
        return any(
            self.db.execute(f"SELECT 1 FROM {table} WHERE {column} = ?", (reading,)).fetchone()  # noqa: S608 - fixed names
            for table, column in self.GIVEN
        )

    def _merge(self, former: int, reading: int) -> None:
        """A reading that was cut off and what it had not found again become one."""
        for table, column in (*self.GIVEN, ("refused", "reading")):
            self.db.execute(
                f"UPDATE {table} SET {column} = ? WHERE {column} = ?",  # noqa: S608 - fixed names
                (reading, former),
            )
        self.db.execute(
            "INSERT INTO count SELECT ?, name, n FROM count WHERE reading = ? "
            "ON CONFLICT(reading, name) DO UPDATE SET n = n + excluded.n", (reading, former),
        )  # fmt: skip
        self.db.execute("DELETE FROM count WHERE reading = ?", (former,))

    def is_own(self, reading: int | None) -> bool:
        """Whether the file that is read now gave this before; it is told once of each."""
        return self._former is not None and reading == self._former

    @property
    def reading(self) -> int:
        """The number of the reading that goes on; 0 = of no file."""
        return self._reading

    @staticmethod
    def changed(where: str) -> TrafficError:
        """A file that was imported with another mapping or model, and gave other requests."""
        return TrafficError(
            where, "was imported before with another mapping, model or limit, which gave other records",
            "Import it into another traffic folder, or give the mapping and model of then.",
        )  # fmt: skip

    def refuse(self, refused: Refused) -> bool:
        """Keeps a record that cannot be used, once; whether it is new."""
        place, why = (
            t.encode("utf-8", "backslashreplace").decode() for t in (refused.place, refused.why)
        )
        said = f"{place}\0{refused.trouble}\0{why}\0{self._reading}\0".encode()
        digest = hashlib.sha256(said + refused.raw).digest()
        added = self.db.execute(
            "INSERT OR IGNORE INTO refused VALUES(?, ?, ?, ?, ?, ?, ?)",
            (place, refused.trouble.value, why, len(refused.raw), refused.raw[:_RAW_KEPT], self._reading, digest),
        )  # fmt: skip
        if added.rowcount:
            self.count(refused.trouble.value, refused.counted)
        return bool(added.rowcount)

    def refusals(self) -> sqlite3.Cursor:
        """(place, trouble, why, size, raw) of each, in the order they came."""
        return self.db.execute("SELECT place, trouble, why, size, raw FROM refused ORDER BY rowid")

    def new_file(self, folder: str, name: str) -> int:
        """Notes a file that will be written; `{number}` in its name is filled in. Commit when its rows are noted."""
        (number,) = self.db.execute("SELECT coalesce(max(number), -1) + 1 FROM file").fetchone()
        self.db.execute(
            "INSERT INTO file VALUES(?, ?, ?, 0)", (number, folder, name.format(number=number))
        )
        return int(number)

    def end(self, number: int) -> None:
        """Notes that a file is there; commit then."""
        self.db.execute("UPDATE file SET done = 1 WHERE number = ?", (number,))

    def begun_files(self) -> list[tuple[int, str, str]]:
        """(number, folder, name) of files that are not known to be there."""
        return self.db.execute("SELECT number, folder, name FROM file WHERE NOT done").fetchall()

"""What every import remembers between runs: the place reached in each source, counts, refusals, files.

One SQLite file. Each commit holds what was taken, the counts and the place reached together, so that
nothing is counted twice; a file's content is noted for good before the file is written.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.core.errors import TrafficError
from harness.core.places import Place
from harness.record.importers.parts import Refused

_RAW_KEPT = 64 << 10
_TABLES = """
CREATE TABLE IF NOT EXISTS state(token TEXT);
CREATE TABLE IF NOT EXISTS source(name TEXT PRIMARY KEY, stamp TEXT, records INTEGER, whole INTEGER);
CREATE TABLE IF NOT EXISTS count(name TEXT PRIMARY KEY, n INTEGER);
CREATE TABLE IF NOT EXISTS refused(
  place TEXT, trouble TEXT, why TEXT, size INTEGER, raw BLOB, digest BLOB PRIMARY KEY);
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
        raise TrafficError(
            str(to), f"the import cannot be written: {said}",
            "Make room, or repair the disk, and give the command again: it goes on where it stopped.",
        ) from error  # fmt: skip


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

    def __init__(self, path: Path, tables: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._counts: Counter[str] = Counter()
        self.run = secrets.token_hex(4)
        self.db = sqlite3.connect(path, isolation_level=None, timeout=1.0, check_same_thread=False)
        try:
            self.db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self.db.execute("PRAGMA journal_mode=WAL")
            self.db.execute("PRAGMA synchronous=FULL")
            self.db.execute("PRAGMA cache_size=-16384")
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
            "INSERT INTO count VALUES(?, ?) ON CONFLICT(name) DO UPDATE SET n = n + excluded.n",
            self._counts.items(),
        )
        self._counts.clear()
        self.db.execute("COMMIT")
        self.db.execute("BEGIN IMMEDIATE")

    def count(self, name: str, n: int = 1) -> None:
        """Counts something for the report."""
        self._counts[name] += n

    def counts(self) -> Counter[str]:
        """What was counted, over all runs."""
        found = Counter(dict(self.db.execute("SELECT name, n FROM count").fetchall()))
        found.update(self._counts)
        return found

    def reached(self, source: str, stamp: str) -> tuple[int, bool]:
        """How many records of a file were taken before, and whether those are all.

        Args:
          source: its name.
          stamp: changes when its content does; another stamp begins the file again.
        """
        row = self.db.execute(
            "SELECT stamp, records, whole FROM source WHERE name = ?", (source,)
        ).fetchone()
        return (row[1], bool(row[2])) if row and row[0] == stamp else (0, False)

    def reach(self, source: str, stamp: str, records: int, *, whole: bool) -> None:
        """Notes how far a file was read."""
        self.db.execute(
            "INSERT OR REPLACE INTO source VALUES(?, ?, ?, ?)", (source, stamp, records, int(whole))
        )

    def refuse(self, refused: Refused) -> bool:
        """Keeps a record that cannot be used, once; whether it is new: a file that grew is read again."""
        place, why = (
            t.encode("utf-8", "backslashreplace").decode() for t in (refused.place, refused.why)
        )
        said = f"{place}\0{refused.trouble}\0{why}\0".encode()
        digest = hashlib.sha256(said + refused.raw).digest()
        added = self.db.execute(
            "INSERT OR IGNORE INTO refused VALUES(?, ?, ?, ?, ?, ?)",
            (place, refused.trouble.value, why, len(refused.raw), refused.raw[:_RAW_KEPT], digest),
        )  # fmt: skip
        if added.rowcount:
            self.count(refused.trouble.value)
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

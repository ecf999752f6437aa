"""Where an import collects parts until an exchange is whole: one SQLite file.

Halves may come in any order and far from each other, a file may be read again after a kill, and a
table of all ids does not fit in memory: a database file on the disk has all three (`ledger`).
An id of the same model that is there already is a duplicate: the first one counts.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from harness.core.traffic import Exchange
from harness.record.importers.ledger import Ledger
from harness.record.importers.parts import UNKNOWN_CODE, Part, Refused, Trouble
from harness.wire import MODEL_INFER

REQUEST, RESPONSE = 1, 2
BOTH = REQUEST | RESPONSE

_TABLES = """
CREATE TABLE IF NOT EXISTS exchange(
  model TEXT, id TEXT, sides INTEGER, ts_ns INTEGER, response_ts_ns INTEGER, latency_ns INTEGER,
  code INTEGER, version TEXT, request BLOB, response BLOB, request_sha BLOB, response_sha BLOB,
  metadata TEXT, context TEXT, trace_id TEXT, file INTEGER, request_reading INTEGER, response_reading INTEGER,
  PRIMARY KEY(model, id));
CREATE TABLE IF NOT EXISTS beginning(
  source TEXT, bytes INTEGER, sha256 TEXT, PRIMARY KEY(source, sha256));
CREATE TABLE IF NOT EXISTS arrived(row INTEGER PRIMARY KEY, ran_ns INTEGER);
CREATE TABLE IF NOT EXISTS ran(ns INTEGER);
CREATE INDEX IF NOT EXISTS asked ON exchange(request_reading);
CREATE INDEX IF NOT EXISTS answered ON exchange(response_reading);
CREATE INDEX IF NOT EXISTS waiting ON exchange(model, ts_ns, id) WHERE file IS NULL;
CREATE INDEX IF NOT EXISTS filed ON exchange(file) WHERE file IS NOT NULL;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bodies:
    """A part's bodies as Open Inference messages."""

    request: bytes | None
    """None = it has none."""
    response: bytes | None
    """None = it has none."""


class Staging(Ledger):
    """The staged parts of one import, kept over runs.

    Args:
      path: its file; made when missing.
      live: parts come as they happen: how long a request has waited is told by `ran_ns` and not by its
        own time, which is the sender's, and may be late or on a clock that is wrong.

    Raises:
      TrafficError: the file is damaged, or another import uses it.
    """

    GIVEN = (("exchange", "request_reading"), ("exchange", "response_reading"))

    def __init__(self, path: Path, *, live: bool = False) -> None:
        super().__init__(path, _TABLES)
        self._live = live
        (ran,) = self.db.execute(
            "SELECT max(coalesce((SELECT max(ns) FROM ran), 0), coalesce((SELECT max(ran_ns) FROM arrived), 0))"
        ).fetchone()
        self._before_ns = int(ran) - time.monotonic_ns()

    @property
    def ran_ns(self) -> int:
        """How long live stagings on this file have run, over restarts: no clock can jump in it."""
        return self._before_ns + time.monotonic_ns()

    def note_ran(self) -> None:
        """Keeps `ran_ns` for the next start."""
        self.db.execute("DELETE FROM ran")
        self.db.execute("INSERT INTO ran VALUES(?)", (self.ran_ns,))

    def add(self, part: Part, bodies: Bodies) -> None:
        """Takes a part; the first of each side and id counts."""
        sides = (REQUEST if bodies.request is not None else 0) | (RESPONSE if part.answered else 0)
        row = self.db.execute(
            "SELECT sides, request_sha, response_sha, file, request_reading, response_reading, ts_ns, "
            "context, code, version FROM exchange WHERE model = ? AND id = ?", (part.model, part.id),
        ).fetchone()  # fmt: skip
        shas = (_sha(bodies.request), _sha(bodies.response) if part.answered else None)
        if row is None:
            self._insert(part, bodies, sides, shas)
            return
        both = row[0] & sides
        if not both:
            self._add_side(part, bodies, shas, sides, filed=row[3] is not None)
            return
        same = all(
            not both & side or new == old
            for side, new, old in zip((REQUEST, RESPONSE), shas, row[1:3], strict=True)
        ) and (not both & RESPONSE or part.code == row[8])  # fmt: skip
        own = self.is_own(row[4] if both & REQUEST else row[5])
        late = sides != both and row[3] is not None
        told = same and not late and _tells_the_same(part, sides, row[6:])
        if own and self.other_terms and not told:
            raise self.changed(part.place)
        if not same:
            self.count("duplicates")
            self._refuse(
                part, Trouble.CONFLICTING, "another content of an id that was there before"
            )
            return
        if own:
            self._found_again(part, both)
        else:
            self.count("duplicates")
        if sides != both:
            self._add_side(part, bodies, shas, sides & ~both, filed=late)

    def _add_side(
        self, part: Part, bodies: Bodies, shas: tuple[bytes | None, bytes | None], sides: int,
        *, filed: bool,
    ) -> None:  # fmt: skip
        """Takes the other half of an exchange that was not written without it."""
        if filed:
            self._refuse(
                part, Trouble.LATE, "an answer whose request was written without one before"
            )
        else:
            self._complete(part, bodies, shas, sides)

    def _refuse(self, part: Part, trouble: Trouble, why: str) -> None:
        self.refuse(
            Refused(place=part.place, trouble=trouble, why=f"{why}: {part.id[:80]}", raw=part.raw)
        )

    def _found_again(self, part: Part, sides: int) -> None:
        """A file that is read again gives what it gave: no duplicate."""
        self.count("again")
        for side, name in ((REQUEST, "request"), (RESPONSE, "response")):
            if sides & side:
                self.db.execute(
                    f"UPDATE exchange SET {name}_reading = ? WHERE model = ? AND id = ?",  # noqa: S608 - two fixed names
                    (self.reading, part.model, part.id),
                )

    def _insert(
        self, part: Part, bodies: Bodies, sides: int, shas: tuple[bytes | None, bytes | None]
    ) -> None:
        asked = sides & REQUEST
        added = self.db.execute(
            "INSERT INTO exchange VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, ?, ?)",
            (part.model, part.id, sides, part.ts_ns if asked else None, None if asked else part.ts_ns,
             part.latency_ns, part.code, part.version, bodies.request, bodies.response, *shas,
             json.dumps(part.metadata), json.dumps(part.context), part.trace_id,
             self.reading if asked else None, self.reading if sides & RESPONSE else None),
        )  # fmt: skip
        if self._live and sides == REQUEST:
            row = (added.lastrowid, self.ran_ns)
            self.db.execute("INSERT OR REPLACE INTO arrived VALUES(?, ?)", row)

    def _complete(
        self, part: Part, bodies: Bodies, shas: tuple[bytes | None, bytes | None], sides: int
    ) -> None:
        key = (part.model, part.id)
        if sides & REQUEST:
            self.db.execute(
                "UPDATE exchange SET sides = 3, ts_ns = ?, request = ?, request_sha = ?, metadata = ?, "
                "context = ?, trace_id = ?, request_reading = ? WHERE model = ? AND id = ?",
                (part.ts_ns, bodies.request, shas[0], json.dumps(part.metadata),
                 json.dumps(part.context), part.trace_id, self.reading, *key),
            )  # fmt: skip
        else:
            self.db.execute(
                "UPDATE exchange SET sides = 3, response_ts_ns = ?, latency_ns = ?, code = ?, version = ?, "
                "response = ?, response_sha = ?, response_reading = ? WHERE model = ? AND id = ?",
                (part.ts_ns, part.latency_ns, part.code, part.version, bodies.response, shas[1],
                 self.reading, *key),
            )  # fmt: skip

    def stamp_of(self, source: str) -> str | None:
        """The stamp of a file when it was last read; None = it never was."""
        query = "SELECT stamp FROM source WHERE name = ?"
        row = self.db.execute(query, (_utf8(source),)).fetchone()
        return None if row is None else str(row[0])

    def note_mark(self, source: str, size: int, sha256: str) -> None:
        """Notes what tells a file that will be read, or what told it when it was shorter."""
        self.db.execute(
            "INSERT OR IGNORE INTO beginning VALUES(?, ?, ?)", (_utf8(source), size, sha256)
        )

    def noted(self) -> dict[str, list[tuple[int, str]]]:
        """File → (bytes, sha256) of each of its marks, also where it has given no record yet."""
        found: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
        for source, size, sha256 in self.db.execute("SELECT * FROM beginning"):
            found[source].append((size, sha256))
        return found

    def marks(self) -> list[tuple[str, int, str]]:
        """(file, bytes, sha256) of the marks of the files that gave records."""
        return self.db.execute(
            "SELECT source, bytes, sha256 FROM beginning JOIN source ON source.name = beginning.source "
            "WHERE records > 0 ORDER BY source, bytes"
        ).fetchall()

    def sided(self, sides: int) -> int:
        """How many exchanges have exactly these sides."""
        return int(
            self.db.execute("SELECT count(*) FROM exchange WHERE sides = ?", (sides,)).fetchone()[0]
        )

    def failed(self) -> int:
        """How many answered requests ended in an error."""
        return int(
            self.db.execute(
                "SELECT count(*) FROM exchange WHERE sides = 3 AND code != 0"
            ).fetchone()[0]
        )

    def turned(self) -> int:
        """How many answers are older than their request: a clock that jumped."""
        query = "SELECT count(*) FROM exchange WHERE sides = 3 AND response_ts_ns < ts_ns AND latency_ns IS NULL"
        return int(self.db.execute(query).fetchone()[0])

    def newest_ns(self) -> int:
        """Time of the latest request that waits; 0 when there is none."""
        query = "SELECT max(ts_ns) FROM exchange WHERE file IS NULL"
        return int(self.db.execute(query).fetchone()[0] or 0)

    def waiting(self, one_sided_until_ns: int) -> sqlite3.Cursor:
        """(rowid, model, ts_ns, bytes) of what can be written, by model and time.

        Args:
          one_sided_until_ns: requests without an answer are written when they are older than this, by
            `ran_ns` where this is live, else by their own time.
        """
        came = "ts_ns"
        if self._live:
            came = "coalesce((SELECT ran_ns FROM arrived WHERE row = exchange.rowid), 0)"
        return self.db.execute(
            "SELECT rowid, model, ts_ns, length(request) + coalesce(length(response), 0) FROM exchange "  # noqa: S608 - one of two fixed texts
            f"WHERE file IS NULL AND sides & 1 AND (sides = 3 OR {came} < ?) ORDER BY model, ts_ns, id",
            (one_sided_until_ns,),
        )

    def begin_file(self, folder: str, name: str, rows: list[int]) -> int:
        """Notes, for good, which exchanges a file will hold; `{number}` in its name is filled in."""
        number = self.new_file(folder, name)
        self.db.executemany(
            "UPDATE exchange SET file = ? WHERE rowid = ?", [(number, row) for row in rows]
        )
        self.db.executemany("DELETE FROM arrived WHERE row = ?", [(row,) for row in rows])
        self.commit()
        return number

    def exchanges_of(self, number: int) -> list[Exchange]:
        """What a file will hold, by time."""
        cursor = self.db.cursor()
        cursor.row_factory = sqlite3.Row
        query = "SELECT * FROM exchange WHERE file = ? ORDER BY ts_ns, id"
        return [_exchange(row) for row in cursor.execute(query, (number,))]

    def end_file(self, number: int) -> None:
        """Notes that a file is there; its exchanges' bytes are no longer needed."""
        self.end(number)
        self.db.execute(
            "UPDATE exchange SET request = NULL, response = NULL WHERE file = ?", (number,)
        )
        self.commit()

    def written(self) -> tuple[int, int]:
        """(files, exchanges) written so far."""
        (files,) = self.db.execute("SELECT count(*) FROM file WHERE done").fetchone()
        (rows,) = self.db.execute("SELECT count(*) FROM exchange WHERE file IS NOT NULL").fetchone()
        return int(files), int(rows)


def _tells_the_same(part: Part, sides: int, row: tuple[int, str, int, str]) -> bool:
    """Whether a part says of its exchange what is staged: time and context, code and version."""
    ts_ns, context, code, version = row
    asked = not sides & REQUEST or (part.ts_ns, part.context) == (ts_ns, json.loads(context))
    return asked and (not sides & RESPONSE or (part.code, part.version) == (code, version))


def _utf8(name: str) -> str:
    """A file's name as the database holds it."""
    return name.encode("utf-8", "backslashreplace").decode()


def _sha(message: bytes | None) -> bytes | None:
    return None if message is None else hashlib.sha256(message).digest()


def _exchange(row: sqlite3.Row) -> Exchange:
    latency_ns, answered_ns = row["latency_ns"], row["response_ts_ns"]
    if latency_ns is None:
        latency_ns = 0 if answered_ns is None else max(0, answered_ns - row["ts_ns"])
    return Exchange(
        ts_ns=row["ts_ns"], latency_ns=latency_ns, method=MODEL_INFER, model=row["model"],
        code=row["code"] if row["sides"] == BOTH else UNKNOWN_CODE, version=row["version"],
        request_id=row["id"], request=row["request"], response=row["response"] or b"",
        metadata=json.loads(row["metadata"]), context=json.loads(row["context"]),
        trace_id=row["trace_id"],
    )  # fmt: skip

"""A table of observations from pandas, Arrow, Parquet or CSV, read column by column."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from harness.core.errors import TrafficError, nearest
from harness.core.tensors import Array, Floats, Ints, Strings

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    TableLike: TypeAlias = pd.DataFrame | pa.Table | Path | str

ID_COLUMNS = ("request_id",)
"""Optional; where there is one, a row that is given twice is refused."""
TIME_COLUMNS = ("ts_ns", "ts")
"""Optional; where there is one, rows must be in its order."""


_LAST_S = 2**63 // 10**9 - 1
"""Times are 64-bit nanoseconds."""


class ObservedTable:
    """The columns of a table that a policy asks for."""

    def __init__(self, name: str, table: pa.Table, available: Iterable[str]) -> None:
        self.name = name
        """The file's name, or what kind of object was given."""
        self.n = int(table.num_rows)
        """Rows."""
        self._table = table
        self._available = tuple(available)

    def has(self, column: str) -> bool:
        """Whether the table has the column, read or not."""
        return column in self._available

    def numbers(self, column: str) -> Floats:
        """A numeric column, shape (n,); empty cells are NaN.

        Raises:
          TrafficError: no such column, or it holds something else than numbers.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        values = self._column(column)
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        kind = values.type
        numeric = pa.types.is_boolean(kind) or pa.types.is_integer(kind)
        numeric = numeric or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        if not (numeric or pa.types.is_null(kind)):
            raise TrafficError(
                f"{self.name}, column '{column}'",
                f"holds {kind}, not numbers",
                "Give numbers or true and false.",
            )
        cast = pc.cast(values, pa.float64(), safe=False)
        return np.asarray(cast.to_numpy(zero_copy_only=False), np.float64)

    def words(self, column: str) -> Strings:
        """A column as text, shape (n,); empty cells are ""."""
        return np.array(
            ["" if v is None else str(v) for v in self._column(column).to_pylist()], dtype=object
        )

    def digest(self) -> str:
        """sha256 (hex) of the columns that were read, in rows as given."""
        import pyarrow as pa

        sink = pa.BufferOutputStream()
        bare = self._table.combine_chunks().replace_schema_metadata(None)
        with pa.ipc.new_stream(sink, bare.schema) as stream:
            stream.write_table(bare)
        return hashlib.sha256(sink.getvalue()).hexdigest()

    def check_rows(self) -> None:
        """Refuses rows that are given twice or out of order, where the table can tell.

        Raises:
          TrafficError: names the first such row.
        """
        for column in (c for c in ID_COLUMNS if c in self._table.column_names):
            words = self.words(column)
            if (words == "").any():
                raise TrafficError(
                    f"{self.name}, column '{column}'",
                    "has empty cells",
                    "Give every row its id, or drop the column.",
                )
            first: dict[str, int] = {}
            again = [i for i, word in enumerate(words.tolist()) if first.setdefault(word, i) != i]
            if again:
                raise TrafficError(
                    f"{self.name}, row {again[0]}",
                    f"{column} '{words[again[0]]}' is there twice; "
                    f"{len(again):,} rows repeat another",
                    "Keep one row a request: a repeated row would count as new evidence.",
                )
        for column in (c for c in TIME_COLUMNS if c in self._table.column_names):
            at = self._times(column)
            # Compared, not subtracted: a difference of unsigned times is never below 0.
            back = np.flatnonzero(np.less(at[1:], at[:-1]))
            if len(back):
                raise TrafficError(
                    f"{self.name}, row {back[0] + 1}",
                    f"{column} is earlier than in the row before",
                    "Sort the rows in the order in which the requests arrived.",
                )

    def times_ns(self) -> Ints:
        """Each row's time, nanoseconds since the epoch, shape (n,); a time without a zone is UTC.

        Raises:
          TrafficError: no column of times, empty cells, or numbers of an unknown unit.
        """
        column = next((c for c in TIME_COLUMNS if c in self._table.column_names), TIME_COLUMNS[0])
        at = np.asarray(self._times(self._named(column)))
        where, remedy = (
            f"{self.name}, column '{column}'",
            ("Give timestamps, or whole nanoseconds since the epoch as ts_ns."),
        )
        if at.dtype.kind == "M":
            seconds = at.astype("datetime64[s]").astype(np.int64)
            if len(at) and not 0 <= int(seconds.min()) <= int(seconds.max()) <= _LAST_S:
                raise TrafficError(where, "holds times outside 1970 to 2262", remedy)
            return at.astype("datetime64[ns]").astype(np.int64)
        if at.dtype.kind not in "iu" or column != TIME_COLUMNS[0]:
            raise TrafficError(where, "holds numbers that are no whole nanoseconds", remedy)
        return at.astype(np.int64)

    def _times(self, column: str) -> Array:
        import pyarrow as pa

        values = self._table[column].combine_chunks()
        where = f"{self.name}, column '{column}'"
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            values = _times_of_text(values, where)
        kind = values.type
        told = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        if len(values) and not (told or pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
            raise TrafficError(
                where, f"holds {kind}, not times", "Give timestamps, or nanoseconds as ts_ns."
            )
        at = np.asarray(values.to_numpy(zero_copy_only=False))
        if values.null_count or (at.dtype.kind == "f" and np.isnan(at).any()):
            raise TrafficError(where, "has empty cells", "Give every row its time.")
        return at

    def _named(self, column: str) -> str:
        if column not in self._table.column_names:
            raise TrafficError(
                f"{self.name}",
                f"has no column '{column}'",
                f"Name one of its columns in the policy; {nearest(column, self._available)}",
            )
        return column

    def _column(self, column: str) -> Any:  # noqa: ANN401 - pyarrow has no types
        return self._table[self._named(column)].combine_chunks()


def read_observed(
    table: TableLike, columns: Iterable[str], names: Iterable[str] = ()
) -> ObservedTable:
    """Reads the columns that are needed, and those that tell rows apart.

    Args:
      table: DataFrame, Arrow table, or path to a .parquet or .csv file.
      columns: numbers that the policy's guardrails name.
      names: columns that name something (slices, units, arms): a CSV file's are read as text, as
        001 and 1 are two names.

    Raises:
      TrafficError: the file cannot be read, or columns share a name.
    """
    import pyarrow as pa

    numbers, names = tuple(columns), (*names, *ID_COLUMNS)
    wanted = tuple(dict.fromkeys([*numbers, *names, *TIME_COLUMNS]))
    if isinstance(table, str | Path):
        name = str(table)
        available, kept = _from_file(Path(table), wanted, set(names) - set(numbers))
    elif isinstance(table, pa.Table):
        name, available = "Arrow table", table.column_names
        _once(name, available)
        kept = table.select([c for c in wanted if c in available])
    elif hasattr(table, "columns") and hasattr(table, "dtypes"):
        name = "DataFrame"
        available, kept = _from_pandas(table, wanted)
    else:
        raise TrafficError(
            "table",
            f"a {type(table).__name__} is no table",
            "Give a DataFrame, an Arrow table, or the path of a Parquet or CSV file.",
        )
    return ObservedTable(name, kept, available)


def _once(name: str, available: Sequence[str]) -> None:
    twice = sorted({c for c in available if available.count(c) > 1})
    if twice:
        raise TrafficError(name, f"has two columns named '{twice[0]}'", "Rename one of them.")


def _from_pandas(frame: pd.DataFrame, wanted: Sequence[str]) -> tuple[list[str], pa.Table]:
    import pyarrow as pa

    available = [str(c) for c in frame.columns]
    _once("DataFrame", available)
    kept = frame[[c for c in frame.columns if c in wanted]]
    # As UTC without a zone: what pyarrow asks pandas for of zoned columns is deprecated there.
    zoned = [
        c for c in TIME_COLUMNS if c in available and getattr(kept[c].dtype, "tz", None) is not None
    ]
    kept = kept.assign(**{c: kept[c].dt.tz_convert(None) for c in zoned})
    try:
        return available, pa.Table.from_pandas(kept, preserve_index=False)
    except pa.ArrowException as error:
        raise TrafficError(
            "DataFrame",
            f"a column mixes kinds of values: {_told(error)}",
            "Give one kind a column.",
        ) from None


def _from_file(
    path: Path, wanted: Sequence[str], names: Collection[str]
) -> tuple[list[str], pa.Table]:
    """Column names and the wanted columns of a Parquet or CSV file."""
    import pyarrow as pa
    import pyarrow.csv as pc
    import pyarrow.parquet as pq

    kind = path.suffix.lower()
    if kind not in (".parquet", ".csv"):
        what = (
            f"'{kind}' is no kind of table" if kind else "its name does not end in a kind of table"
        )
        raise TrafficError(str(path), what, "Give a file that ends in .parquet or .csv.")
    if not path.is_file():
        raise TrafficError(str(path), "there is no such file", "Check the path.")
    try:
        if kind == ".csv":
            as_text = pc.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
            table = pc.read_csv(path, convert_options=as_text)
            available = table.column_names
            _once(str(path), available)
            return available, table.select([c for c in wanted if c in available])
        available = pq.read_schema(path).names
        _once(str(path), available)
        return available, pq.read_table(path, columns=[c for c in wanted if c in available])
    except UnicodeDecodeError:
        raise TrafficError(
            str(path), "its column names are not UTF-8", "Save it as UTF-8."
        ) from None
    except (OSError, pa.ArrowException) as error:
        raise TrafficError(
            str(path), f"cannot be read: {_told(error)}", _remedy(path, kind)
        ) from None


def _times_of_text(values: Any, where: str) -> Any:  # noqa: ANN401 - pyarrow has no types
    """ISO 8601 text as timestamps, as it is read from a CSV file; all with a zone, or all without.

    Raises:
      TrafficError: other text.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    for zone in ("UTC", None):
        try:
            return pc.cast(values, pa.timestamp("ns", zone))
        except pa.ArrowInvalid:
            continue
    what = "holds text that is not ISO 8601, or mixes times with and without a zone"
    raise TrafficError(where, what, "Write times like 2013-11-01T00:00:00Z.")


def _told(error: Exception) -> str:
    """The first line of a message, without bytes that a terminal would take for commands."""
    line = (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
    return "".join(c if c.isprintable() else "\ufffd" for c in line)[:200]


def _remedy(path: Path, kind: str) -> str:
    if path.stat().st_size == 0:
        return "The file is empty: give one with a line of column names and a line a request."
    if kind == ".csv":
        return "Save it as UTF-8, comma separated, each line with as many cells as the first."
    return "Save it as Parquet, or give it the ending of what it is."

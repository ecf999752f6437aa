"""Recorded traffic: what is written is read, in order; what is damaged is named."""

import os
import signal
import subprocess
import sys
import textwrap

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from exchanges_made import exchange

from harness.core.errors import TrafficError
from harness.store.exchanges import batch_from_exchanges
from harness.store.label_rows import SCHEMA as LABEL_SCHEMA
from harness.store.traffic import SCHEMA, TrafficSource, TrafficWriter


def written(folder, exchanges, **options):
    with TrafficWriter(folder, **options) as writer:
        writer.write(exchanges)
    return writer


def test_exchanges_come_back_in_order(tmp_path):
    recorded = [exchange(i) for i in range(50)]
    written(tmp_path / "model=flights" / "date=2013-07-01", recorded[:30])
    written(tmp_path / "model=flights" / "date=2013-07-02", recorded[30:])
    source = TrafficSource.open([tmp_path])
    assert len(source) == 50
    assert list(source.exchanges()) == recorded


def test_many_row_groups_come_back_in_order(tmp_path):
    one = exchange(1)
    fields = {f: getattr(one, f) for f in SCHEMA.names}
    recorded = [type(one)(**{**fields, "request_id": str(i)}) for i in range(5000)]
    written(tmp_path, recorded, rows_per_file=4500)
    source = TrafficSource.open([tmp_path])
    batches = list(source.batches(["request_id"]))
    assert [i for b in batches for i in b.column(0).to_pylist()] == [str(i) for i in range(5000)]
    assert max(len(b) for b in batches) <= 1024
    assert [f.rows for f in source.traffic_files] == [4500, 500]


def test_files_rotate_by_rows_and_keep_their_numbers(tmp_path):
    written(tmp_path, [exchange(i) for i in range(5)], rows_per_file=2, name="w")
    written(tmp_path, [exchange(9)], name="w")
    assert [p.name for p in sorted(tmp_path.iterdir())] == [f"w-0000{i}.parquet" for i in range(4)]


def test_files_rotate_by_bytes(tmp_path):
    size = len(exchange(0).request) + len(exchange(0).response)
    writer = written(tmp_path, [exchange(i) for i in range(4)], bytes_per_file=2 * size)
    assert len(writer.files) == 2


def test_nothing_written_leaves_no_file(tmp_path):
    written(tmp_path, [])
    assert list(tmp_path.iterdir()) == []


def test_a_failing_body_publishes_nothing(tmp_path):
    def failing():
        yield from (exchange(i) for i in range(3000))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        written(tmp_path, failing())
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_whole_files_only(tmp_path):
    code = textwrap.dedent("""
        import sys, pathlib
        sys.path.insert(0, sys.argv[2])
        from exchanges_made import exchange
        from harness.store.traffic import TrafficWriter
        with TrafficWriter(pathlib.Path(sys.argv[1]), rows_per_file=2500) as writer:
            one = [exchange(i) for i in range(50)]
            while True:
                writer.write(one)
                print(len(writer.files), flush=True)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), os.path.dirname(__file__)],  # noqa: PTH120
        stdout=subprocess.PIPE,
    ) as writer:
        while int(writer.stdout.readline()) < 2:
            pass
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    source = TrafficSource.open([tmp_path])
    assert len(list(source.exchanges())) == len(source)
    assert len(source) % 2500 == 0
    assert len(source) >= 5000


def test_one_file_and_several_paths_are_sources(tmp_path):
    first = written(tmp_path / "a", [exchange(1)]).files[0]
    second = written(tmp_path / "b", [exchange(2)]).files[0]
    assert [e.request_id for e in TrafficSource.open([second, first]).exchanges()] == [
        "fl-000002",
        "fl-000001",
    ]


def test_a_file_given_twice_is_read_once(tmp_path):
    file = written(tmp_path, [exchange(1)]).files[0]
    assert len(TrafficSource.open([file, tmp_path])) == 1


def test_labels_and_hidden_files_are_no_exchanges(tmp_path):
    written(tmp_path, [exchange(1)])
    (tmp_path / "labels").mkdir()
    pq.write_table(LABEL_SCHEMA.empty_table(), tmp_path / "labels" / "l.parquet")
    (tmp_path / ".begun.parquet").write_bytes(b"not whole")
    source = TrafficSource.open([tmp_path])
    assert len(source) == 1
    assert [p.name for p in source.labels] == ["l.parquet"]


def test_file_hashes_name_the_content(tmp_path):
    written(tmp_path / "x" / "date=1", [exchange(1)])
    ((name, digest),) = TrafficSource.open([tmp_path / "x"]).files()
    assert name == "date=1/part-00000.parquet"
    written(tmp_path / "y" / "date=1", [exchange(1)])
    assert TrafficSource.open([tmp_path / "y"]).files() == ((name, digest),)
    written(tmp_path / "z" / "date=1", [exchange(2)])
    assert TrafficSource.open([tmp_path / "z"]).files() != ((name, digest),)


def test_other_writers_types_nulls_and_missing_columns_are_read(tmp_path):
    batch = batch_from_exchanges([exchange(1), exchange(2)])
    table = pa.table(
        {
            "ts_ns": batch.column("ts_ns"),
            "latency_ns": batch.column("latency_ns").cast(pa.int32()),
            "code": batch.column("code").cast(pa.int64()),
            "method": batch.column("method").dictionary_encode(),
            "model": batch.column("model").cast(pa.large_string()),
            "version": pa.array(["1", None]),
            "request_id": batch.column("request_id"),
            "request": batch.column("request").cast(pa.binary()),
            "response": pa.array([None, b"r"], pa.binary()),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    first, second = TrafficSource.open([tmp_path]).exchanges()
    assert first.request == exchange(1).request
    assert (first.response, first.context, first.trace_id) == (b"", {}, "")
    assert (second.version, second.method) == ("", exchange(2).method)


def error_of(paths):
    with pytest.raises(TrafficError) as caught:
        for _ in TrafficSource.open(paths).exchanges():
            pass
    return caught.value


def test_missing_path_is_named(tmp_path):
    error = error_of([tmp_path / "gone"])
    assert error.where.endswith("gone")
    assert "no such file" in error.what


def test_folder_without_traffic_is_named(tmp_path):
    assert "no .parquet file" in error_of([tmp_path]).what


def test_missing_column_is_named_with_the_nearest(tmp_path):
    table = pa.Table.from_batches([batch_from_exchanges([exchange(1)])])
    names = ["reqest" if n == "request" else n for n in table.column_names]
    pq.write_table(table.rename_columns(names), tmp_path / "t.parquet")
    error = error_of([tmp_path])
    assert error.where == str(tmp_path / "t.parquet")
    assert "no column 'request' (did you mean 'reqest'?)" in error.what


def test_column_of_another_type_is_named(tmp_path):
    table = pa.Table.from_batches([batch_from_exchanges([exchange(1)])])
    at = table.column_names.index("ts_ns")
    pq.write_table(table.set_column(at, "ts_ns", pa.array([0.5])), tmp_path / "t.parquet")
    assert "column 'ts_ns' holds double" in error_of([tmp_path]).what


def test_truncated_file_is_named(tmp_path):
    file = written(tmp_path, [exchange(i) for i in range(20)]).files[0]
    file.write_bytes(file.read_bytes()[:-20])
    error = error_of([tmp_path])
    assert error.where == str(file)
    assert "cannot be read as Parquet" in error.what


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5, 0.7])
def test_one_flipped_byte_in_the_data_is_found(tmp_path, fraction):
    file = written(tmp_path, [exchange(i) for i in range(300)]).files[0]
    content = bytearray(file.read_bytes())
    content[int(len(content) * fraction)] ^= 0x55
    file.write_bytes(content)
    assert error_of([tmp_path]).where == str(file)


def test_strings_that_are_not_utf8_are_damage(tmp_path):
    table = pa.Table.from_batches([batch_from_exchanges([exchange(1)])])
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\x01\0\0\0"), pa.py_buffer(b"\xff")]
    )
    at = table.column_names.index("trace_id")
    pq.write_table(table.set_column(at, "trace_id", bad), tmp_path / "t.parquet")
    assert error_of([tmp_path]).where == str(tmp_path / "t.parquet")


def test_summary_counts_what_is_there(tmp_path):
    recorded = [exchange(i) for i in range(10)]
    recorded += [exchange(3), exchange(11, request_id=""), exchange(12, code=14, response=b"")]
    recorded += [exchange(13, context={"tenant": "x"})]
    written(tmp_path, recorded)
    summary = TrafficSource.open([tmp_path]).summary()
    assert (summary.count, summary.files) == (14, 1)
    assert (summary.first_ts_ns, summary.last_ts_ns) == (0, 13_000_000)
    assert summary.models == (("flights", 14),)
    assert summary.versions == (("2", 8), ("1", 6))
    assert summary.codes == (("0", 13), ("14", 1))
    assert (summary.duplicates, summary.without_id) == (1, 1)
    assert summary.request_bytes == sum(len(e.request) for e in recorded)
    assert summary.response_bytes == sum(len(e.response) for e in recorded)
    carrier, origin, tenant = summary.context
    assert (carrier.column, carrier.values, carrier.missing) == ("carrier", (("AA", 13),), 1)
    assert origin.values == (("EWR", 7), ("JFK", 6))
    assert (tenant.distinct, tenant.missing) == (1, 13)

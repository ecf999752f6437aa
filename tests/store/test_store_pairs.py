"""Tables that are written while their rows come."""

import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from harness.core.errors import GateError, TrafficError
from harness.core.tensors import CodedText
from harness.store.pairs import TableWriter, read_table


def part(start, n, *, coded):
    words = np.array(["new", "york", "né"], object)
    codes = (np.arange(start, start + n) % 3).astype(np.int32)
    return {
        "request_id": np.array([f"r{i}" for i in range(start, start + n)], object),
        "x": np.arange(start, start + n) / 7,
        "city": CodedText(codes=codes, words=words) if coded else words[codes],
    }


@pytest.mark.parametrize("kinds", [(True,) * 5, (False,) * 5, (True, True, False, True, False)])
def test_rows_come_back_in_order_whatever_the_parts(tmp_path, kinds):
    sizes = [300, 9000, 0, 8000, 500]
    with TableWriter(tmp_path / "t.parquet") as writer:
        at = 0
        for size, coded in zip(sizes, kinds, strict=True):
            writer.add(part(at, size, coded=coded))
            at += size
            assert not (tmp_path / "t.parquet").exists()
    whole = part(0, at, coded=False)
    found = read_table(tmp_path / "t.parquet")
    assert list(found) == list(whole)
    for name, values in whole.items():
        assert found[name].tolist() == values.tolist()
    assert read_table(tmp_path / "t.parquet", ["x"]).keys() == {"x"}


def test_rows_do_not_wait_for_the_end(tmp_path):
    with TableWriter(tmp_path / "t.parquet") as writer:
        for at in range(0, 105_000, 5000):
            writer.add(part(at, 5000, coded=True))
    groups = pq.read_metadata(tmp_path / "t.parquet")
    assert [groups.row_group(g).num_rows for g in range(groups.num_row_groups)] == [35_000] * 3


def test_rows_with_one_word_share_its_text(tmp_path):
    with TableWriter(tmp_path / "t.parquet") as writer:
        writer.add(part(0, 900, coded=True))
    cities = read_table(tmp_path / "t.parquet")["city"]
    assert len({id(city) for city in cities}) == 3


def test_a_table_without_rows_has_its_columns(tmp_path):
    with TableWriter(tmp_path / "t.parquet") as writer:
        writer.add(part(0, 0, coded=True))
    assert {n: len(v) for n, v in read_table(tmp_path / "t.parquet").items()} == {
        "request_id": 0, "x": 0, "city": 0
    }  # fmt: skip


def test_a_part_that_is_no_table_leaves_no_file(tmp_path):
    def written():
        with TableWriter(tmp_path / "t.parquet") as writer:
            writer.add(part(0, 9000, coded=True))
            writer.add({**part(0, 9000, coded=True), "city": np.array([1, "a"] * 4500, object)})

    with pytest.raises(GateError, match="holds more than str"):
        written()
    assert list(tmp_path.iterdir()) == []


def test_reading_many_tables_leaves_nothing_behind(tmp_path):
    """A run of ten million requests has hundreds; pyarrow keeps 70 kB of each whose schema is looked at."""
    with TableWriter(tmp_path / "t.parquet") as writer:
        writer.add({**part(0, 100, coded=True), **{f"c{i}": np.zeros(100) for i in range(30)}})
    script = """
import sys
from pathlib import Path
from harness.store.pairs import read_table
def resident_kb():
    return int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0])
for n in range(300):
    if n == 50:
        before = resident_kb()
    read_table(Path(sys.argv[1]))
print(resident_kb() - before)
"""
    ran = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "t.parquet"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(ran.stdout) < 4096


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(TrafficError, match=r"t\.parquet"):
        read_table(tmp_path / "t.parquet")


def test_numbers_of_64_bits_are_split_by_byte_and_come_back_with_theirs(tmp_path):
    values = np.array([0.0, -0.0, np.nan, np.inf, 5e-324, -1.5])
    given = {"x": values, "seq": np.array([0, -1, 2**63 - 1, -(2**63), 5, 6]), "ok": values > 0}
    with TableWriter(tmp_path / "t.parquet") as writer:
        writer.add(given)
    group = pq.read_metadata(tmp_path / "t.parquet").row_group(0)
    split = {"BYTE_STREAM_SPLIT" in group.column(i).encodings for i in range(2)}
    assert split == {True}
    assert "BYTE_STREAM_SPLIT" not in group.column(2).encodings
    found = read_table(tmp_path / "t.parquet")
    assert {n: found[n].tobytes() for n in given} == {n: v.tobytes() for n, v in given.items()}

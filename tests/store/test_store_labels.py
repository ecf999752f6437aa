"""Labels: what was known at one instant, one label a request, joined without a miss."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from exchanges_made import exchange
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import TrafficError
from harness.store import ids as ids_module
from harness.store.ids import IdIndex
from harness.store.labels import NEVER_NS, label_paths, read_labels, write_labels
from harness.store.traffic import TrafficSource, TrafficWriter


def strings(*values):
    column = np.empty(len(values), object)
    column[:] = values
    return column


def write(path, *rows):
    write_labels(
        path,
        request_id=strings(*(r[0] for r in rows)),
        label=np.array([r[1] for r in rows], float),
        event_ts_ns=np.zeros(len(rows), np.int64),
        label_event_ts_ns=np.zeros(len(rows), np.int64),
        ingestion_ts_ns=np.array([r[2] for r in rows], np.int64),
    )
    return path


def test_labels_join_by_request_id(tmp_path):
    labels = read_labels([write(tmp_path / "l.parquet", ("b", 1.0, 5), ("a", 0.0, 6))], None)
    label, ingestion = labels.join(strings("a", "nobody", "b"))
    assert label[[0, 2]].tolist() == [0.0, 1.0]
    assert np.isnan(label[1])
    assert ingestion.tolist() == [6, NEVER_NS, 5]


def test_as_of_hides_what_arrived_later(tmp_path):
    path = write(tmp_path / "l.parquet", ("a", 0.0, 10), ("b", 1.0, 11))
    labels = read_labels([path], 10)
    assert (labels.read, labels.after_as_of, len(labels)) == (2, 1, 1)


def test_the_last_label_known_then_wins(tmp_path):
    first = write(tmp_path / "1.parquet", ("a", 0.0, 10), ("a", 1.0, 20), ("a", 2.0, 30))
    second = write(tmp_path / "2.parquet", ("a", 3.0, 20))
    labels = read_labels([first, second], 25)
    assert labels.join(strings("a"))[0].tolist() == [3.0]
    assert (labels.read, labels.after_as_of, labels.duplicates) == (4, 1, 2)


def test_labels_without_a_number_are_counted_and_unused(tmp_path):
    path = write(tmp_path / "l.parquet", ("a", np.nan, 1), ("b", np.inf, 1), ("c", 1.0, 1))
    labels = read_labels([path], None)
    assert (labels.invalid, len(labels)) == (2, 1)


def test_labels_of_unknown_requests_are_counted(tmp_path):
    path = write(tmp_path / "l.parquet", ("a", 1.0, 1), ("b", 1.0, 1), ("c", 1.0, 1))
    assert read_labels([path], None).unknown(strings("b", "b", "z")) == 2


def test_no_label_files_is_no_labels():
    labels = read_labels([], None)
    assert len(labels) == labels.read == 0
    assert np.isnan(labels.join(strings("a"))[0]).all()
    assert labels.unknown(strings("a")) == 0


def test_other_number_types_and_dictionaries_are_read(tmp_path):
    table = pa.table(
        {
            "request_id": pa.array(["a", "b"]).dictionary_encode(),
            "label": pa.array([True, None]).cast(pa.int8()),
            "ingestion_ts_ns": pa.array([1, 2], pa.int32()),
        }
    )
    pq.write_table(table, tmp_path / "l.parquet")
    labels = read_labels([tmp_path], None)
    assert (labels.join(strings("a"))[0].tolist(), labels.invalid) == ([1.0], 1)


def test_missing_label_column_is_named(tmp_path):
    pq.write_table(pa.table({"request_id": ["a"], "lable": [1.0]}), tmp_path / "l.parquet")
    with pytest.raises(TrafficError, match=r"no column 'label' \(did you mean 'lable'"):
        read_labels([tmp_path / "l.parquet"], None)


def test_damaged_and_missing_label_files_are_named(tmp_path):
    (tmp_path / "l.parquet").write_bytes(b"PAR1nothing")
    with pytest.raises(TrafficError, match="cannot be read as Parquet"):
        read_labels([tmp_path / "l.parquet"], None)
    with pytest.raises(TrafficError, match="no label file"):
        read_labels([tmp_path / "gone"], None)


def test_labels_in_a_traffic_folder_are_found_and_summarised(tmp_path):
    with TrafficWriter(tmp_path / "model=m") as writer:
        writer.write(exchange(i) for i in range(3))
    path = write(tmp_path / "labels" / "l.parquet", ("fl-000001", 1.0, 5), ("other", 0.0, 6))
    assert label_paths(tmp_path) == (path,)
    assert label_paths(writer.files[0]) == ()
    summary = TrafficSource.open([tmp_path]).summary()
    assert (summary.label_files, summary.labels) == (1, 2)
    assert (summary.labelled, summary.labels_unknown) == (1, 1)


@settings(deadline=None)
@given(st.lists(st.text(max_size=4), unique=True), st.lists(st.text(max_size=4)))
def test_ids_are_found_where_they_stand(ids, asked):
    at = IdIndex(pa.array(ids, pa.string())).lookup(strings(*asked))
    assert at.tolist() == [ids.index(a) if a in ids else -1 for a in asked]


def test_equal_hashes_do_not_confuse_ids(monkeypatch):
    monkeypatch.setattr(ids_module, "hashes", lambda ids: np.array([len(i) for i in ids]))
    index = IdIndex(pa.array(["aa", "b", "cc", "dd"]))
    assert index.lookup(strings("dd", "cc", "xx", "b", "y", "zzz")).tolist() == [
        3,
        2,
        -1,
        1,
        -1,
        -1,
    ]

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
from harness.store.label_joins import join_labels
from harness.store.label_rows import NEVER_NS, label_paths, write_labels
from harness.store.labels import read_labels
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


# joined within the maturity


def joined(paths, ts_ns, *, maturity_ns=10, as_of_ns=1000):
    """Labels of the requests a, b, c …, made at these times."""
    ids = IdIndex(pa.array([chr(97 + i) for i in range(len(ts_ns))]))
    return join_labels(
        paths, ids, np.array(ts_ns, np.int64), maturity_ns=maturity_ns, as_of_ns=as_of_ns
    )


def test_the_last_label_within_the_maturity_wins(tmp_path):
    path = write(tmp_path / "l.parquet", ("a", 0.0, 5), ("a", 1.0, 10), ("a", 0.0, 11))
    found = joined([path], [0])
    assert found.label.tolist() == [1.0]
    assert (found.superseded, found.late_rows, found.late.tolist()) == (1, 1, [False])


def test_the_same_labels_delivered_again_later_change_nothing(tmp_path):
    first = write(tmp_path / "1.parquet", ("a", 1.0, 5), ("b", 0.0, 6))
    again = write(tmp_path / "2.parquet", ("a", 1.0, 500), ("b", 0.0, 500))
    once, twice = joined([first], [0, 0]), joined([first, again], [0, 0])
    assert twice.label.tolist() == once.label.tolist() == [1.0, 0.0]
    assert twice.late_rows == 2


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_correction_after_the_maturity_is_told_and_not_used(tmp_path, order):
    files = [
        write(tmp_path / "1.parquet", ("a", 1.0, 5), ("b", 1.0, 5)),
        write(tmp_path / "2.parquet", ("a", 0.0, 50), ("b", 0.0, 50), ("b", 1.0, 60)),
    ]
    found = joined([files[i] for i in order], [0, 0])
    assert found.label.tolist() == [1.0, 1.0]
    assert found.corrected.tolist() == [True, False]


def test_a_label_that_only_arrived_late_is_told_and_not_used(tmp_path):
    found = joined([write(tmp_path / "l.parquet", ("a", 1.0, 11), ("b", 1.0, 11))], [0, 1])
    assert found.late.tolist() == [True, False]
    assert np.isnan(found.label[0])
    assert found.label[1] == 1.0


def test_a_label_counts_by_as_of_at_the_latest(tmp_path):
    path = write(tmp_path / "l.parquet", ("a", 0.0, 5), ("a", 1.0, 8))
    found = joined([path], [0], as_of_ns=7)
    assert (found.label.tolist(), found.after_as_of) == ([0.0], 1)


def test_of_labels_that_arrived_together_the_one_read_last_wins(tmp_path):
    first = write(tmp_path / "1.parquet", ("a", 0.0, 5), ("a", 1.0, 5))
    second = write(tmp_path / "2.parquet", ("b", 0.0, 5), ("a", 2.0, 5))
    found = joined([first, second], [0, 0])
    assert found.label.tolist() == [2.0, 0.0]
    assert [found.paths[i] for i in found.file] == [second, second]


def test_a_request_whose_maturity_has_no_number_any_more_is_never_late(tmp_path):
    found = joined([write(tmp_path / "l.parquet", ("a", 1.0, 5))], [NEVER_NS - 1])
    assert found.label.tolist() == [1.0]


def test_a_maturity_of_a_thousand_years_is_never_over(tmp_path):
    found = joined([write(tmp_path / "l.parquet", ("a", 1.0, 5))], [3], maturity_ns=2**65)
    assert found.label.tolist() == [1.0]


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", "stranger", ""]),
        st.sampled_from([0.0, 1.0, np.nan]),
        st.integers(0, 30),
    ),
    max_size=25,
)


@settings(deadline=None, max_examples=60)
@given(ROWS, st.lists(st.integers(0, 20), min_size=3, max_size=3), st.integers(0, 30), st.data())
def test_every_row_is_counted_once_and_the_label_is_the_last_in_time(
    tmp_path_factory, rows, ts_ns, as_of, data
):
    cut = data.draw(st.integers(0, len(rows)))
    folder = tmp_path_factory.mktemp("labels")
    paths = [write(folder / "1.parquet", *rows[:cut]), write(folder / "2.parquet", *rows[cut:])]
    found = joined(paths, ts_ns, maturity_ns=5, as_of_ns=as_of)
    spent = found.late_rows + found.after_as_of + found.unknown + found.invalid
    labelled = int((~np.isnan(found.label)).sum())
    assert len(rows) == found.read == labelled + found.superseded + spent
    for i, ts in enumerate(ts_ns):
        mine = [r for r in rows if r[0] == "abc"[i] and not np.isnan(r[1]) and r[2] <= as_of]
        in_time = [r for r in mine if r[2] <= ts + 5]
        expected = max(reversed(in_time), key=lambda r: r[2])[1] if in_time else np.nan
        assert np.array_equal(found.label[i], expected, equal_nan=True)
        assert found.late[i] == (bool(mine) and not in_time)
        assert not (found.corrected[i] and not in_time)


@settings(deadline=None, max_examples=40)
@given(ROWS, st.integers(0, 30), st.integers(0, 30))
def test_a_matured_request_has_the_same_label_whenever_one_looks(
    tmp_path_factory, rows, day, later
):
    path = write(tmp_path_factory.mktemp("labels") / "l.parquet", *rows)
    ts = [0, 3, 9]
    then, now = (joined([path], ts, maturity_ns=5, as_of_ns=d) for d in (day, day + later))
    matured = np.array(ts) + 5 <= day
    np.testing.assert_array_equal(then.label[matured], now.label[matured])

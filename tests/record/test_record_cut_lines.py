"""A file whose last line has no end: a number that is cut off is a number, and is not believed."""

import json

import logs_made as made
import numpy as np
import pytest

from harness.pipeline.imports import import_traffic
from harness.pipeline.labels import import_labels
from harness.store.label_rows import label_paths
from harness.store.labels import read_labels
from harness.store.traffic import TrafficSource, TrafficWriter
from harness.wire.messages import tensors_from_response

MAPPING = """
version: 1
request_id: id
time: {column: ts, unit: ms}
model: m
inputs: [{name: x, datatype: FP32}]
outputs: [{name: p, datatype: FP32}]
"""
ROWS = [{"id": f"r{i}", "ts": 1_700_000_000_000 + i, "x": 0.5, "p": 0.654321} for i in range(3)]


@pytest.fixture
def table(tmp_path):
    """Imports a table as it is now; its report and answers."""
    (tmp_path / "m.yaml").write_text(MAPPING)

    def taken(path, **options):
        to = tmp_path / "t"
        report = import_traffic("table", path, to, mapping=tmp_path / "m.yaml", **options)
        read = sorted(TrafficSource.open([to]).exchanges(), key=lambda e: e.ts_ns)
        return report, [float(tensors_from_response(e.response)["p"][0]) for e in read]

    return taken


def csv(rows):
    return "id,ts,x,p\n" + "".join(",".join(map(str, row.values())) + "\n" for row in rows)


def test_a_value_that_is_cut_off_is_not_taken_until_its_line_has_an_end(tmp_path, table):
    path, full = tmp_path / "l.csv", csv(ROWS)
    path.write_text(full[:-4])
    report, answers = table(path)
    assert answers == pytest.approx([0.654321] * 2)
    assert (report.undecodable, report.records) == (1, 3)
    assert "l.csv:4: the file ends in the middle of this line" in report.examples[0]
    path.write_text(full)
    report, answers = table(path)
    assert answers == pytest.approx([0.654321] * 3)
    assert (report.undecodable, report.conflicting, report.duplicates, report.records) == (
        0,
        0,
        0,
        3,
    )


def test_an_unchanged_file_stays_cut_off_and_who_says_that_it_is_whole_has_its_last_line(
    tmp_path, table
):
    path = tmp_path / "l.csv"
    path.write_text(csv(ROWS)[:-1])
    for _ in range(2):
        report, answers = table(path)
        assert (len(answers), report.undecodable, report.records) == (2, 1, 3)
    for whole in (True, True, False):
        report, answers = table(path, whole=whole)
        assert answers == pytest.approx([0.654321] * 3)
        assert (report.undecodable, report.duplicates, report.records) == (0, 0, 3)


def test_a_line_of_json_is_whole_where_its_object_is(tmp_path, table):
    path = tmp_path / "l.jsonl"
    text = "\n".join(json.dumps(row) for row in ROWS)
    path.write_text(text[:-1])
    assert (table(path)[0].undecodable, len(table(path)[1])) == (1, 2)
    path.write_text(text)
    assert (table(path)[0].undecodable, len(table(path)[1])) == (0, 3)


def test_a_label_that_is_cut_off_is_not_taken_until_its_line_has_an_end(tmp_path):
    path, traffic = tmp_path / "labels.csv", tmp_path / "t"
    with TrafficWriter(traffic) as writer:
        writer.write(made.exchange(i) for i in range(2))
    at = f"{made.START_NS},{made.START_NS},{made.START_NS}"
    first = f"request_id,event_ts_ns,label_event_ts_ns,ingestion_ts_ns,label\nr-000000,{at},1\n"
    path.write_text(first + f"r-000001,{at},2")  # of 25

    def labels(**options):
        report = import_labels(path, traffic, **options)
        ids = np.array(["r-000000", "r-000001"], object)
        return report.undecodable, read_labels(label_paths(traffic), None).join(ids)[0].tolist()

    undecodable, found = labels()
    assert (undecodable, found[0], np.isnan(found[1])) == (1, 1.0, True)
    path.write_text(first + f"r-000001,{at},25")
    assert labels(whole=True) == (0, [1.0, 25.0])


def test_a_row_of_several_lines_waits_with_its_last_one(tmp_path, table):
    """None of its lines is a row by itself."""
    path = tmp_path / "l.csv"
    text = 'id,ts,x,p,note\nr0,1700000000000,0.5,0.25,one\nr1,1700000000001,0.5,0.5,"see\nfake,1700000000009,0.5,0.9,b\nend"'
    path.write_text(text)
    report, answers = table(path)
    assert answers == [0.25]
    assert (report.undecodable, report.records) == (1, 2)
    path.write_text(text + "\n")
    report, answers = table(path)
    assert answers == [0.25, 0.5]

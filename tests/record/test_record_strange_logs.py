"""Records that no reader expects: each costs itself only, and nothing that was there is written over."""

import base64
import dataclasses
import gzip
import json
import os
import re
import resource
import shutil
import sqlite3
from contextlib import closing

import logs_made as made
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_record_importers import MAPPING, imported, traffic
from test_record_sink import connect, ended, headers_of, posted, sink  # noqa: F401 - connect is a fixture

from harness.core.errors import TrafficError
from harness.record.importers.parts import Payload, PayloadError
from harness.record.importers.payloads import Messages
from harness.record.importers.tables import TensorColumn, Timed
from harness.store.label_rows import label_paths
from harness.store.places import move
from harness.store.totals import read_totals
from harness.wire.facts import request_facts
from harness.wire.gen import open_inference_pb2
from harness.wire.messages import tensors_from_request

V2 = '{"inputs": [{"name": "x", "datatype": "FP32", "shape": %s, "data": %s%s}]}'
GOOD = V2 % ([1], [1.0], "")


def capture(id_, data=GOOD, encoding="JSON", **changes):
    document = {
        "captureData": {"endpointInput": {"data": data, "encoding": encoding}},
        "eventMetadata": {"eventId": id_, "inferenceTime": "2024-01-02T03:04:05Z"},
    }
    return document | changes


def payload_row(id_, **changes):
    return {
        "databricks_request_id": id_, "timestamp_ms": 1_700_000_000_000, "status_code": 200,
        "execution_time_ms": 5, "request": '{"instances": [[1.5]]}', "response": '{"predictions": [0.5]}',
        "request_metadata": {"model_name": "m"},
    } | changes  # fmt: skip


PLAIN = dataclasses.replace(
    MAPPING, inputs=(TensorColumn(name="x", column="x", datatype="FP32"),), status_kind="grpc",
    context=(("place", "o"),),
)  # fmt: skip


def plain_row(id_, **changes):
    return {"id": id_, "at": made.START_NS, "x": 1.5, "p": 0.5, "status": 0, "o": "JFK"} | changes


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def run(kind, path, to, **options):
    return imported(kind, path, to, signature=None, mapping=PLAIN, **options)


def quarantine(to):
    (file,) = (to / "imports").glob("*.quarantine.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


BAD = {
    "a side that is text": ("sagemaker", capture("b", captureData={"endpointInput": "abc"})),
    "parameters that are text": ("sagemaker", capture("b", V2 % ([1], [1.0], ', "parameters": "s"'))),
    "an overflowing shape": ("sagemaker", capture("b", V2 % ([0, 2**63 - 1, 2**63 - 1], [], ""))),
    "a number of 400 digits": ("sagemaker", capture("b", '{"instances": [[%s]]}' % ("9" * 400))),
    "a tensor of 400 digits": ("sagemaker", capture("b", V2 % ([1], "[%s]" % ("9" * 400), ""))),
    "half a surrogate": ("sagemaker", capture("b\ud800")),
    "half a surrogate as value": ("sagemaker", capture("b", '{"instances": ["\\ud800"]}')),
    "no tensors": ("sagemaker", capture("b", '{"inputs": []}')),
    "no data": ("sagemaker", capture("b", V2.replace(', "data": %s%s', "") % ([1],))),
    "a tensor twice": ("sagemaker", capture("b", GOOD[:-2] + "," + GOOD[12:])),
    "deep lists": ("sagemaker", capture("b", '{"instances": ' + "[" * 3000 + "]" * 3000 + "}")),
    "a list of times": ("databricks", payload_row("b", timestamp_ms=[1])),
    "an object of durations": ("databricks", payload_row("b", execution_time_ms={})),
    "a negative duration": ("databricks", payload_row("b", execution_time_ms=-9)),
    "an infinite time": ("databricks", payload_row("b", timestamp_ms=float("inf"))),
    "a far time": ("databricks", payload_row("b", timestamp_ms=10**17)),
    "a status of 30 digits": ("databricks", payload_row("b", status_code=10**30)),
    "a model that is a list": ("databricks", payload_row("b", request_metadata={"model_name": ["x"]})),
    "a model without UTF-8": ("databricks", payload_row("b", request_metadata={"model_name": "\ud800"})),
    "a context that is a list": ("table", plain_row("b", o=["q"])),
    "a gRPC status of 30 digits": ("table", plain_row("b", status="9" * 30)),
    "a gRPC status that is none": ("table", plain_row("b", status=77)),
    "a time of 400 digits": ("table", plain_row("b", at=10**400)),
    "an id that is a list": ("table", plain_row(["b"])),
    "an id without UTF-8": ("table", plain_row("\ud800")),
    "an input that is an object": ("table", plain_row("b", x={"a": 1})),
    "an input that is a boolean": ("table", plain_row("b", x=True)),
    "a context without UTF-8": ("table", plain_row("b", o="\ud800")),
    "a value beyond its type": ("table", plain_row("b", x="1e300")),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_one_strange_record_costs_itself_only(name, tmp_path):
    kind, bad = BAD[name]
    make = {"sagemaker": capture, "databricks": payload_row, "table": plain_row}[kind]
    source = write_lines(tmp_path / "x.jsonl", [make("a"), bad, make("c")])
    report = run(kind, source, tmp_path / "t")
    assert (report.records, report.written, report.undecodable) == (3, 2, 1)
    assert [e.request_id for e in traffic(tmp_path / "t")] == ["a", "c"]
    (refused,) = quarantine(tmp_path / "t")
    assert refused["place"] == "x.jsonl:2"
    assert not re.search(r"Error|\b(NoneType|dict|bool|str|int)\b|recursion", refused["why"])


def test_a_failure_that_nobody_foresaw_is_named_in_the_quarantine(tmp_path, monkeypatch):
    from harness.record.importers import sagemaker

    part_of = sagemaker._part

    def breaks(record, *rest):
        if record.place.endswith(":2"):
            return {}["missing"]
        return part_of(record, *rest)

    monkeypatch.setattr(sagemaker, "_part", breaks)
    source = write_lines(tmp_path / "x.jsonl", [capture(i) for i in "abc"])
    assert run("sagemaker", source, tmp_path / "t").written == 2
    assert (
        quarantine(tmp_path / "t")[0]["why"]
        == "the record could not be converted (KeyError: 'missing')"
    )


def test_a_model_name_of_any_length_is_written(tmp_path):
    rows = [payload_row("a", request_metadata={"model_name": "m" * 400})]
    run("databricks", write_lines(tmp_path / "x.jsonl", rows), tmp_path / "t")
    assert [e.model for e in traffic(tmp_path / "t")] == ["m" * 400]


def test_a_disk_that_refuses_is_an_error_that_says_how_to_go_on(tmp_path):
    source = write_lines(tmp_path / "x.jsonl", [capture("a")])
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "imports").write_text("in the way")
    with pytest.raises(TrafficError, match="goes on where it stopped"):
        run("sagemaker", source, tmp_path / "t")
    (tmp_path / "t" / "imports").unlink()
    assert run("sagemaker", source, tmp_path / "t").written == 1
    assert len(traffic(tmp_path / "t")) == 1


def test_an_import_that_lost_its_state_writes_over_nothing(tmp_path):
    to = tmp_path / "t"
    for part in "ab":
        bad = capture(f"{part}-bad", captureData={})
        source = write_lines(
            tmp_path / f"{part}.jsonl", [capture(f"{part}{i}") for i in range(5)] + [bad]
        )
        run("sagemaker", source, to)
        shutil.rmtree(to / ".import")
    assert {e.request_id for e in traffic(to)} == {f"{p}{i}" for p in "ab" for i in range(5)}
    assert sum(t.written for t in read_totals([to])) == 10
    assert len(list((to / "imports").glob("*.quarantine.jsonl"))) == 2


def test_a_copied_state_writes_over_nothing(tmp_path):
    to, state = tmp_path / "t", tmp_path / "t" / ".import"
    run("sagemaker", write_lines(tmp_path / "a.jsonl", [capture("a")]), to)
    shutil.copytree(state, tmp_path / "kept")
    run("sagemaker", write_lines(tmp_path / "b.jsonl", [capture("b")]), to)
    shutil.rmtree(state)
    shutil.copytree(tmp_path / "kept", state)
    run("sagemaker", write_lines(tmp_path / "c.jsonl", [capture("c")]), to)
    assert {e.request_id for e in traffic(to)} == {"a", "b", "c"}


def test_labels_that_lost_their_state_write_over_nothing(tmp_path):
    from harness.pipeline.labels import import_labels

    to = tmp_path / "t"
    run("sagemaker", write_lines(tmp_path / "x.jsonl", [capture(i) for i in "ab"]), to)
    names = ("event_ts_ns", "label_event_ts_ns", "ingestion_ts_ns")
    for id_ in "ab":
        row = {"request_id": id_, "label": 1.0} | dict.fromkeys(names, made.START_NS)
        import_labels(write_lines(tmp_path / f"{id_}.jsonl", [row]), to)
        shutil.rmtree(to / ".import")
    found = [i for p in label_paths(to) for i in pq.read_table(p).column("request_id").to_pylist()]
    assert sorted(found) == ["a", "b"]


POISON = (V2 % ([1], [1.0], ', "parameters": "s"')).encode()


def test_an_event_that_cannot_be_read_is_refused_and_the_sink_goes_on(tmp_path, connect):  # noqa: F811
    with sink(tmp_path / "t", "--wait", "0s") as (process, address):
        connection = connect(address)
        assert posted(connection, made.exchange(0), "request") == 200
        connection.request("POST", "/", POISON, headers_of(made.exchange(1), "request"))
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (400, b"")
        named = {"ce-inferenceservicename": "m" * 300}
        assert posted(connection, made.exchange(2), "request", **named) == 200
        report = ended(process)
    assert (report["written"], report["undecodable"]) == (2, 1)
    assert "parameters" in quarantine(tmp_path / "t")[0]["why"]


def test_parameters_of_a_request_are_kept(tmp_path):
    body = json.dumps({**json.loads(GOOD), "parameters": {"sequence_id": 7, "tenant": "a"}})
    run("sagemaker", write_lines(tmp_path / "x.jsonl", [capture("a", body)]), tmp_path / "t")
    (read,) = traffic(tmp_path / "t")
    assert request_facts(read.request).parameters == {"sequence_id": "7", "tenant": "a"}


@pytest.mark.parametrize("length", [91, 123])
@pytest.mark.parametrize("kind", ["application/x-protobuf", ""])
def test_a_message_that_begins_like_json_stays_a_message(length, kind):
    message = made.exchange(0).request
    content = open_inference_pb2.ModelInferRequest.FromString(message)
    content.model_name = "m" * length
    content = content.SerializeToString()
    assert content.lstrip()[:1] in b"[{"
    assert Messages(None).request(Payload(content=content, content_type=kind), "m", "a") == content


def test_a_quote_that_is_not_closed_costs_its_line_only(tmp_path):
    lines = [f"{i},{made.START_NS},z,0.5,0,JFK" for i in range(2500)]
    lines[100] = f'100,{made.START_NS},"open,0.5,0,JFK'
    lines[2400] = f'2400,{made.START_NS},z,0.5,0,"open'
    lines[2300] = f'2300,{made.START_NS},"two\r\nlines",0.5,0,JFK'
    (tmp_path / "x.csv").write_bytes("\n".join(["id,at,x,p,status,o", *lines, ""]).encode())
    mapping = dataclasses.replace(
        PLAIN, inputs=(TensorColumn(name="x", column="x", datatype="BYTES"),)
    )
    report = imported("table", tmp_path / "x.csv", tmp_path / "t", signature=None, mapping=mapping)
    assert (report.records, report.written, report.undecodable) == (2500, 2498, 2)
    (cell,) = (e for e in traffic(tmp_path / "t") if e.request_id == "2300")
    assert tensors_from_request(cell.request)["x"].tolist() == ["two\r\nlines"]


def test_a_time_beyond_2262_costs_its_row_only(tmp_path):
    times = [1_700_000_000_000] * 10
    times[4] = 10**16
    columns = {n: [v] * 10 for n, v in plain_row("").items()}
    columns |= {"id": list("abcdefghij"), "at": pa.array(times, pa.timestamp("ms"))}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    mapping = dataclasses.replace(PLAIN, time=Timed(column="at", unit="iso"))
    report = imported(
        "table", tmp_path / "x.parquet", tmp_path / "t", signature=None, mapping=mapping
    )
    assert (report.written, report.undecodable) == (9, 1)


@pytest.mark.parametrize(("unit", "at", "says"), [
    ("iso", 1_700_000_000_000, "a number's unit is s, ms, us or ns"),
    ("ms", pa.scalar(1_700_000_000_000, pa.timestamp("ms")), "its unit is iso"),
])  # fmt: skip
def test_a_time_in_another_form_than_its_unit_says_which_one_it_is(unit, at, says, tmp_path):
    rows = [plain_row("a", at=at.as_py() if isinstance(at, pa.Scalar) else at)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    mapping = dataclasses.replace(PLAIN, time=Timed(column="at", unit=unit))
    with pytest.raises(TrafficError, match=re.escape(says)):
        imported("table", tmp_path / "x.parquet", tmp_path / "t", signature=None, mapping=mapping)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_column_that_is_there_twice_is_refused(form, tmp_path):
    path = tmp_path / f"x.{form}"
    names = [*plain_row("a"), "x"]
    if form == "csv":
        path.write_text(",".join(names) + "\n" + "1,2,3,4,0,a,6\n")
    else:
        cells = [pa.array([v]) for v in [*plain_row("a").values(), 2.5]]
        pq.write_table(pa.Table.from_arrays(cells, names=names), path)
    with pytest.raises(TrafficError, match="two columns 'x'"):
        run("table", path, tmp_path / "t")


def test_a_packed_file_that_is_cut_gives_what_can_be_read(tmp_path):
    ids = [base64.b16encode(f"{i * 7919 % 65536:05d}".encode()).decode() for i in range(20_000)]
    packed = gzip.compress(
        "".join(json.dumps(plain_row(f"{i}{n}")) + "\n" for n, i in enumerate(ids)).encode()
    )
    (tmp_path / "x.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    report = run("table", tmp_path / "x.jsonl.gz", tmp_path / "t")
    assert report.written > 5000
    assert len(report.files_cut) == 1


@pytest.mark.parametrize(("body", "says"), [
    (b"carrier,distance,hour\n", "a header and no rows"),
    (b"carrier,distance,hour\nAA,1\n", "different numbers of values"),
    (b"carrier,distance,hour,hour\nAA,1,2,3\n", "two columns 'hour'"),
    (b"AA,1e300,2\n", "no FP32"),
])  # fmt: skip
def test_a_csv_body_that_does_not_fit_says_why(body, says):
    with pytest.raises(PayloadError, match=says):
        Messages(made.SIGNATURE).request(Payload(content=body, content_type="text/csv"), "m", "a")


def test_a_corrected_mapping_takes_what_the_wrong_one_could_not(tmp_path):
    source = write_lines(tmp_path / "x.jsonl", [plain_row(i, x="abc") for i in "ab"])
    with pytest.raises(TrafficError, match="none of the 2 records"):
        run("table", source, tmp_path / "t", how="wrong")
    text = (TensorColumn(name="x", column="x", datatype="BYTES"),)
    right = dataclasses.replace(PLAIN, inputs=text)
    report = imported("table", source, tmp_path / "t", signature=None, mapping=right, how="right")
    assert (report.records, report.written, report.undecodable) == (2, 2, 0)


def test_another_mapping_takes_what_is_missing_and_leaves_the_rest(tmp_path):
    rows = [plain_row("a"), plain_row("b", status="ok")]
    source = write_lines(tmp_path / "x.jsonl", rows)
    assert run("table", source, tmp_path / "t", how="http").written == 1
    mapping = dataclasses.replace(PLAIN, status="")
    report = imported("table", source, tmp_path / "t", signature=None, mapping=mapping, how="none")
    assert (report.records, report.written, report.undecodable, report.duplicates) == (2, 2, 0, 0)


@pytest.mark.parametrize("changed", [
    {"time": Timed(column="at", unit="us")},
    {"model": "other"},
    {"inputs": (TensorColumn(name="y", column="x", datatype="FP32"),)},
    {"context": ()},
])  # fmt: skip
def test_a_mapping_that_would_give_other_requests_is_refused(changed, tmp_path):
    source = write_lines(tmp_path / "x.jsonl", [plain_row("a", at=1_700_000_000_000_000)])
    run("table", source, tmp_path / "t", how="one")
    before = traffic(tmp_path / "t")
    mapping = dataclasses.replace(PLAIN, **changed)
    for _ in range(2):
        with pytest.raises(TrafficError, match="Import it into another traffic folder"):
            imported("table", source, tmp_path / "t", signature=None, mapping=mapping, how="two")
    assert traffic(tmp_path / "t") == before
    assert run("table", source, tmp_path / "t", how="one").written == 1


def test_a_file_that_grew_has_no_duplicates_but_its_own(tmp_path):
    rows = [plain_row("a"), plain_row("b"), plain_row("a")]
    first = run("table", write_lines(tmp_path / "x.jsonl", rows), tmp_path / "t")
    again = run("table", write_lines(tmp_path / "x.jsonl", [*rows, plain_row("c")]), tmp_path / "t")
    assert (first.records, first.duplicates, first.files) == (3, 1, 1)
    assert (again.records, again.duplicates, again.files, again.written) == (4, 1, 1, 3)


def test_a_file_that_was_replaced_keeps_the_faults_of_what_it_was(tmp_path):
    run("sagemaker", write_lines(tmp_path / "x.jsonl", [capture("a"), {}]), tmp_path / "t")
    again = run("sagemaker", write_lines(tmp_path / "x.jsonl", [capture("b")]), tmp_path / "t")
    assert (again.records, again.written, again.undecodable) == (3, 2, 1)


def test_the_faults_of_a_cut_file_go_when_it_is_repaired(tmp_path):
    rows = [plain_row(f"r{i}") for i in range(5000)]
    write_lines(tmp_path / "plain.jsonl", rows)
    whole = gzip.compress((tmp_path / "plain.jsonl").read_bytes())
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "x.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    cut = run("table", tmp_path / "logs" / "x.jsonl.gz", tmp_path / "t")
    assert (cut.files, cut.undecodable > 0, len(cut.files_cut)) == (0, True, 1)
    (tmp_path / "logs" / "x.jsonl.gz").write_bytes(whole)
    report = run("table", tmp_path / "logs" / "x.jsonl.gz", tmp_path / "t")
    assert (report.files, report.written, report.undecodable, report.files_cut) == (1, 5000, 0, ())
    (totals,) = read_totals([tmp_path / "t"])
    assert totals.not_recorded == ()


def test_a_label_file_that_grew_has_no_duplicates(tmp_path):
    from harness.pipeline.labels import import_labels

    to = tmp_path / "t"
    run("sagemaker", write_lines(tmp_path / "x.jsonl", [capture(i) for i in "ab"]), to)
    names = ("event_ts_ns", "label_event_ts_ns", "ingestion_ts_ns")
    rows = [{"request_id": i, "label": 1.0} | dict.fromkeys(names, made.START_NS) for i in "ab"]
    import_labels(write_lines(tmp_path / "l.jsonl", rows[:1]), to)
    report = import_labels(write_lines(tmp_path / "l.jsonl", rows), to)
    assert (report.records, report.labels, report.duplicates) == (2, 2, 0)


@pytest.mark.parametrize("label", ["9" * 400, "NaN"])
def test_a_label_that_is_no_number_costs_itself_only(label, tmp_path):
    from harness.pipeline.labels import import_labels

    run("sagemaker", write_lines(tmp_path / "x.jsonl", [capture(i) for i in "ab"]), tmp_path / "t")
    truths = "".join(
        f'{{"groundTruthData": {{"data": {data}}}, "eventMetadata": {{"eventId": "{id_}"}}}}\n'
        for data, id_ in ((label, "a"), ("1", "b"), ("1", "\\ud800"))
    )
    (tmp_path / "truth.jsonl").write_text(truths)
    report = import_labels(tmp_path / "truth.jsonl", tmp_path / "t", kind="sagemaker")
    assert (report.labels, report.undecodable) == (1, 2)


def test_conflicting_and_late_records_are_in_the_quarantine(tmp_path):
    kafka = [made.kafka_rows(made.exchange(i)) for i in range(2)]
    other = made.kafka_rows(made.exchange(0, seed=2))
    made.write_table(tmp_path / "logs" / "a.parquet", [*kafka[0], other[0], kafka[1][0]])
    imported("seldon", tmp_path / "logs", tmp_path / "t")
    made.write_table(tmp_path / "logs" / "b.parquet", [kafka[1][1]])
    report = imported("seldon", tmp_path / "logs", tmp_path / "t")
    assert (report.conflicting, report.late) == (1, 1)
    assert [q["trouble"] for q in quarantine(tmp_path / "t")] == ["conflicting", "late"]


def test_an_answer_in_the_next_file_joins_by_default(tmp_path, capsys):
    from harness.cli.entry import run as command

    words = [
        "traffic",
        "import",
        "seldon",
        str(tmp_path / "logs"),
        "--to",
        str(tmp_path / "t"),
        "--json",
    ]
    for name, row in zip("ab", made.kafka_rows(made.exchange(0)), strict=True):
        made.write_table(tmp_path / "logs" / f"{name}.parquet", [row])
        assert command(words) == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["waiting"], report["joined"]) == ((1, 0) if name == "a" else (0, 1))
    made.same(traffic(tmp_path / "t"), [made.exchange(0)])


def test_blob_files_say_nothing_of_latency_or_clocks(tmp_path):
    e = made.exchange(0)
    for name, side, at in (("a", "request", 9), ("b", "response", 1)):
        path = tmp_path / "logs" / f"{name}.csv"
        path.parent.mkdir(exist_ok=True)
        made.write_table(path, made.kserve_rows(e, sides=(side,)))
        os.utime(path, ns=(at * made.SECOND, at * made.SECOND))
    report = imported("kserve", tmp_path / "logs", tmp_path / "t")
    assert (report.joined, report.answer_before_request) == (1, 0)
    assert [x.latency_ns for x in traffic(tmp_path / "t")] == [0]


def payload_table(folder, names):
    for name in names:
        pq.write_table(pa.Table.from_pylist([payload_row(name)]), folder / f"{name}.parquet")


def commit_of(folder, *paths):
    (folder / "_delta_log").mkdir(parents=True, exist_ok=True)
    actions = "".join(json.dumps({"add": {"path": p}}) + "\n" for p in paths)
    (folder / "_delta_log" / f"{0:020d}.json").write_text(actions)


@pytest.mark.parametrize("where", ["here", "in a store"])
def test_a_file_that_a_delta_log_names_and_is_not_there_is_named(where, bucket, tmp_path, capsys):
    from harness.cli.entry import run as command

    local = tmp_path / "payload"
    commit_of(local, "a.parquet", "b.parquet", "/elsewhere/c.parquet")
    payload_table(local, "ab")
    table = local if where == "here" else bucket / "payload"

    def put(name):
        if where == "here":
            return
        move(local / name, table / name)

    put("_delta_log/" + f"{0:020d}.json")
    put("a.parquet")
    kept = local / "b.parquet"
    if where == "here":
        kept = kept.rename(tmp_path / "b.parquet")
    words = ["traffic", "import", "databricks", str(table), "--to", str(tmp_path / "t"), "--json"]
    assert command(words) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["written"], report["undecodable"], report["files"]) == (1, 2, 1)
    outside, missing = report["files_cut"]
    assert outside.startswith("/elsewhere/c.parquet:1")
    assert "outside of the folder" in outside
    assert missing.startswith("b.parquet:1")
    assert "is not there; copy the whole table" in missing
    move(kept, table / "b.parquet")
    assert command(words) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["written"], report["undecodable"], report["files"]) == (2, 1, 2)


def test_a_delta_table_below_the_folder_given_is_named(tmp_path, capsys):
    from harness.cli.entry import run as command

    commit_of(tmp_path / "all" / "payload", "a.parquet")
    payload_table(tmp_path / "all" / "payload", "ab")
    words = ["traffic", "import", "mlflow", str(tmp_path / "all"), "--to", str(tmp_path / "t")]
    assert command(words) == 2
    assert "all/payload is a Delta table" in capsys.readouterr().err


def test_a_delta_log_of_other_things_is_an_error_that_names_it(tmp_path):
    from harness.record.importers.delta import present_files

    (tmp_path / "_delta_log").mkdir()
    (tmp_path / "_delta_log" / f"{0:020d}.json").write_text('{"add": "x"}\n')
    with pytest.raises(TrafficError, match="Delta log cannot be read"):
        present_files(tmp_path)


def test_a_staging_file_of_another_version_is_refused(tmp_path):
    run("sagemaker", write_lines(tmp_path / "x.jsonl", [capture("a")]), tmp_path / "t")
    (file,) = (tmp_path / "t" / ".import").rglob("*.sqlite")
    with closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA user_version = 1")
    with pytest.raises(TrafficError, match="another version"):
        run("sagemaker", tmp_path / "x.jsonl", tmp_path / "t")


def health(connection):
    connection.request("GET", "/healthz")
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_a_sink_whose_disk_refuses_says_so_and_goes_on_when_it_can(tmp_path, connect):  # noqa: F811
    with sink(tmp_path / "t", "--wait", "0s") as (process, address):
        connection = connect(address)
        assert posted(connection, made.exchange(0), "request") == 200
        unlimited = resource.prlimit(
            process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY)
        )
        assert posted(connection, made.exchange(1), "request") == 503
        status, why = health(connection)
        assert (status, "events cannot be stored" in why) == (503, True)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, unlimited)
        assert posted(connection, made.exchange(2), "request") == 200
        assert health(connection) == (200, "")
        assert ended(process)["written"] == 2


def test_a_sink_whose_writer_has_ended_does_not_end_well(tmp_path, connect):  # noqa: F811
    with sink(tmp_path / "t") as (_, first):
        assert posted(connect(first), made.exchange(0), "request") == 200
        with sink(tmp_path / "t") as (second, _):
            assert second.wait(timeout=60) == 2
            assert "another import is writing there" in second.stderr.read()


def test_a_file_that_grew_while_it_was_read_again_has_no_duplicates(tmp_path, monkeypatch):
    from harness.record.importers import run as running

    monkeypatch.setattr(running, "_COMMIT_RECORDS", 2)
    rows = [plain_row(i) for i in "abcdef"]
    run("table", write_lines(tmp_path / "x.jsonl", rows[:4]), tmp_path / "t")
    take, taken = running.take, []

    def killed(*arguments):
        taken.append(arguments)
        if len(taken) > 2:
            raise KeyboardInterrupt
        return take(*arguments)

    monkeypatch.setattr(running, "take", killed)
    with pytest.raises(KeyboardInterrupt):
        run("table", write_lines(tmp_path / "x.jsonl", rows[:5]), tmp_path / "t")
    monkeypatch.setattr(running, "take", take)
    report = run("table", write_lines(tmp_path / "x.jsonl", rows), tmp_path / "t")
    assert (report.records, report.written, report.duplicates) == (6, 6, 0)

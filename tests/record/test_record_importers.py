"""Logs of other systems become the same exchanges, and every record is accounted for."""

import dataclasses
import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import tracemalloc
from contextlib import suppress
from pathlib import Path

import logs_made as made
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.core.errors import TrafficError
from harness.record.importers import databricks, kserve, run, sagemaker, seldon, tables
from harness.record.importers.run import ImportTarget, run_import
from harness.record.importers.sources import source_files
from harness.record.importers.tables import TableMapping, TensorColumn, Timed
from harness.store.traffic import TrafficSource

LIMIT = 1 << 20
MODULES = {"kserve": kserve, "sagemaker": sagemaker, "databricks": databricks, "seldon": seldon}
MAPPING = TableMapping(
    request_id="id", time=Timed(column="at", unit="ns"), model="flights", version="1",
    status="status", inputs=tuple(
        TensorColumn(name=s.name, column=s.name, datatype=s.datatype) for s in made.SIGNATURE.inputs
    ),
    outputs=(TensorColumn(name="p", column="p", datatype="FP32"),), context=(("carrier", "carrier"),),
)  # fmt: skip


def imported(
    kind, source, to, *, signature=made.SIGNATURE, limit=LIMIT, wait_ns=0, mapping=MAPPING, how=""
):
    module = MODULES.get(kind, tables)
    more = {"mapping": mapping} if module is tables else {}
    read = functools.partial(module.read, limit=limit, **more)
    target = ImportTarget(to=to, state=to / ".import" / kind, name=kind)
    files = source_files(source, module.SUFFIXES)
    return run_import(files, read, target, known=signature, wait_ns=wait_ns, how=how)


def traffic(to):
    return sorted(TrafficSource.open([to]).exchanges(), key=lambda e: (e.ts_ns, e.request_id))


def plain_row(e):
    row = {n: v[0] for n, v in {**made.inputs_of(e), **made.outputs_of(e)}.items()}
    return {"id": e.request_id, "at": e.ts_ns, "status": 200, **row}


def write_source(form, folder, exchanges):
    folder.mkdir(parents=True, exist_ok=True)
    match form:
        case "kserve.parquet" | "kserve.csv":
            for e in exchanges:
                path = folder / f"{e.request_id}.{form.split('.')[1]}"
                made.write_table(path, made.kserve_rows(e))
                os.utime(path, ns=(e.ts_ns, e.ts_ns))
        case "sagemaker.CSV" | "sagemaker.JSON" | "sagemaker.BASE64":
            path = folder / "flights" / "v1" / "2013" / "07" / "01" / "00" / "x.jsonl"
            path.parent.mkdir(parents=True)
            path.write_text(
                "".join(made.capture(e, encoding=form.split(".")[1]) + "\n" for e in exchanges)
            )
        case "databricks.old" | "databricks.new":
            rows = [made.inference_row(e, newer=form.endswith("new")) for e in exchanges]
            made.write_table(folder / "t.parquet", rows)
        case "seldon.parquet":
            made.write_table(
                folder / "t.parquet", [r for e in exchanges for r in made.kafka_rows(e)]
            )
        case "seldon.kcat":
            (folder / "t.kcat").write_bytes(
                made.kcat(r for e in exchanges for r in made.kafka_rows(e))
            )
        case "table.jsonl":
            rows = [json.dumps(plain_row(e)) + "\n" for e in exchanges]
            (folder / "t.jsonl").write_text("".join(rows))
        case _:
            made.write_table(folder / form, [plain_row(e) for e in exchanges])
    return form.split(".")[0]


FORMS = ["kserve.parquet", "kserve.csv", "sagemaker.CSV", "sagemaker.JSON", "sagemaker.BASE64",
         "databricks.old", "databricks.new", "seldon.parquet", "seldon.kcat", "table.jsonl",
         "table.csv", "table.parquet"]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**30), count=st.integers(1, 6), rows=st.integers(1, 3))
def test_an_exchange_comes_back_as_it_was_logged(form, seed, count, rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("import")
    rows = 1 if form.startswith("table") else rows
    recorded = [made.exchange(i, seed=seed, rows=rows) for i in range(count)]
    kind = write_source(form, folder / "logs", recorded)
    report = imported(kind, folder / "logs", folder / "t")
    made.same(traffic(folder / "t"), recorded)
    assert (report.joined, report.written, report.undecodable) == (count, count, 0)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**30))
def test_damaged_files_are_an_error_or_every_record_is_counted(form, seed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    rng = np.random.default_rng(seed)
    kind = write_source(form, folder / "logs", [made.exchange(i) for i in range(3)])
    files = sorted(p for p in (folder / "logs").rglob("*") if p.is_file())
    file = files[rng.integers(len(files))]
    content = bytearray(file.read_bytes())
    for at in rng.integers(len(content), size=3).tolist():
        content[at : at + int(rng.integers(1, 20))] = rng.bytes(int(rng.integers(0, 20)))
    file.write_bytes(content)
    with suppress(TrafficError):
        r = imported(kind, folder / "logs", folder / "t")
        halves = 2 if form.startswith(("kserve", "seldon")) else 1
        taken = halves * r.joined + r.one_sided_requests + r.one_sided_responses
        refused = r.undecodable + r.oversized + r.other
        assert taken + r.duplicates + r.late + refused == r.records
        assert len(list(TrafficSource.open([folder / "t"]).exchanges())) == r.written


@pytest.mark.parametrize("form", ["seldon.kcat", "sagemaker.BASE64"])
def test_messages_stay_byte_for_byte(form, tmp_path):
    recorded = [made.exchange(i, rows=3) for i in range(3)]
    kind = write_source(form, tmp_path / "logs", recorded)
    imported(kind, tmp_path / "logs", tmp_path / "t", signature=None)
    read = traffic(tmp_path / "t")
    assert [(e.request, e.response) for e in read] == [(e.request, e.response) for e in recorded]


def test_an_import_given_again_adds_nothing(tmp_path):
    recorded = [made.exchange(i) for i in range(5)]
    kind = write_source("seldon.kcat", tmp_path / "logs", recorded)
    first = imported(kind, tmp_path / "logs", tmp_path / "t")
    assert imported(kind, tmp_path / "logs", tmp_path / "t") == first
    made.same(traffic(tmp_path / "t"), recorded)


def test_new_files_are_added_to_what_was_imported(tmp_path):
    recorded = [made.exchange(i) for i in range(6)]
    kind = write_source("seldon.parquet", tmp_path / "logs" / "a", recorded[:4])
    imported(kind, tmp_path / "logs", tmp_path / "t")
    write_source("seldon.parquet", tmp_path / "logs" / "b", recorded[3:])
    report = imported(kind, tmp_path / "logs", tmp_path / "t")
    made.same(traffic(tmp_path / "t"), recorded)
    assert (report.written, report.duplicates, report.conflicting) == (6, 2, 0)


def test_halves_pair_over_files_in_any_order(tmp_path):
    recorded = [made.exchange(i) for i in range(4)]
    rows = [made.kafka_rows(e) for e in recorded]
    made.write_table(tmp_path / "logs" / "a-outputs.parquet", [r[1] for r in rows])
    made.write_table(tmp_path / "logs" / "b-inputs.parquet", [r[0] for r in reversed(rows)])
    report = imported("seldon", tmp_path / "logs", tmp_path / "t")
    made.same(traffic(tmp_path / "t"), recorded)
    assert report.one_sided_responses == 0
    assert [e.latency_ns for e in traffic(tmp_path / "t")] == [5_000_000] * 4


def test_one_sided_records_are_counted_and_never_count_as_answered(tmp_path):
    rows = [made.kafka_rows(made.exchange(i)) for i in range(4)]
    made.write_table(tmp_path / "logs" / "t.parquet", [*rows[0], rows[1][0], rows[2][1]])
    report = imported("seldon", tmp_path / "logs", tmp_path / "t")
    assert (report.joined, report.one_sided_requests, report.one_sided_responses) == (1, 1, 1)
    assert [(e.request_id, e.code, e.response == b"") for e in traffic(tmp_path / "t")] == [
        ("r-000000", 0, False),
        ("r-000001", 2, True),
    ]


def test_an_answer_after_its_request_was_written_is_late(tmp_path):
    request, answer = made.kafka_rows(made.exchange(0))
    made.write_table(tmp_path / "logs" / "a.parquet", [request])
    imported("seldon", tmp_path / "logs", tmp_path / "t")
    made.write_table(tmp_path / "logs" / "b.parquet", [answer])
    report = imported("seldon", tmp_path / "logs", tmp_path / "t")
    assert (report.late, report.written) == (1, 1)


def test_requests_wait_for_their_answers_as_long_as_asked(tmp_path):
    rows = [made.kafka_rows(made.exchange(i, step_ns=60 * made.SECOND)) for i in range(3)]
    made.write_table(tmp_path / "logs" / "a.parquet", [rows[0][0], rows[1][0], *rows[2]])
    wait = 90 * made.SECOND
    first = imported("seldon", tmp_path / "logs", tmp_path / "t", wait_ns=wait)
    assert first.written == 2  # the oldest without, the newest with its answer
    made.write_table(tmp_path / "logs" / "b.parquet", [rows[1][1]])
    report = imported("seldon", tmp_path / "logs", tmp_path / "t", wait_ns=wait)
    assert (report.written, report.joined, report.late) == (3, 2, 0)


def test_a_second_content_of_an_id_is_a_conflict_and_the_first_counts(tmp_path):
    one, other = made.exchange(0, seed=1), made.exchange(0, seed=2)
    rows = [*made.kafka_rows(one), *made.kafka_rows(other)]
    made.write_table(tmp_path / "logs" / "t.parquet", rows)
    report = imported("seldon", tmp_path / "logs", tmp_path / "t")
    assert (report.duplicates, report.conflicting) == (2, 2)
    made.same(traffic(tmp_path / "t"), [one])


def with_answer_of(e, other):
    """A capture of one exchange's request and another's answer."""
    row = json.loads(made.capture(e))
    row["captureData"]["endpointOutput"] = json.loads(made.capture(other))["captureData"][
        "endpointOutput"
    ]
    return json.dumps(row)


def test_an_event_with_another_answer_is_a_conflict_that_is_named(tmp_path):
    one, other = made.exchange(0, seed=1), made.exchange(0, seed=2)
    text = "\n".join([made.capture(one), with_answer_of(one, other)])
    (tmp_path / "x.jsonl").write_text(text)
    report = imported("sagemaker", tmp_path / "x.jsonl", tmp_path / "t")
    assert (report.joined, report.duplicates, report.conflicting) == (1, 1, 1)
    assert report.examples[0].startswith("x.jsonl:2: another content of an id that was there")


def test_an_answer_and_a_failure_of_one_event_are_a_conflict(tmp_path):
    rows = [
        made.inference_row(made.exchange(0)),
        made.inference_row(made.exchange(0), status_code=500, response=None),
        made.inference_row(made.exchange(1), status_code=500, response=None),
        made.inference_row(made.exchange(1), status_code=400, response=None),
    ]
    made.write_table(tmp_path / "t.parquet", rows)
    report = imported("databricks", tmp_path / "t.parquet", tmp_path / "t")
    assert (report.joined, report.duplicates, report.conflicting) == (2, 2, 2)


def test_a_capture_of_two_answers_is_undecodable(tmp_path):
    good, row = made.capture(made.exchange(0)), json.loads(made.capture(made.exchange(1)))
    row["captureData"]["batchTransformOutput"] = row["captureData"]["endpointOutput"]
    twice = made.capture(made.exchange(2))
    output = json.dumps(json.loads(twice)["captureData"]["endpointOutput"])
    twice = twice.replace('"endpointOutput":', f'"endpointOutput": {output}, "endpointOutput":')
    (tmp_path / "x.jsonl").write_text("\n".join([good, json.dumps(row), twice]))
    report = imported("sagemaker", tmp_path / "x.jsonl", tmp_path / "t")
    assert (report.joined, report.undecodable) == (1, 2)
    assert report.examples == (
        "x.jsonl:2: two captures: endpointOutput and batchTransformOutput",
        "x.jsonl:3: no JSON: two values of 'endpointOutput' in one object",
    )


def test_a_request_that_comes_again_with_its_answer_is_answered(tmp_path):
    row = json.loads(made.capture(made.exchange(0)))
    del row["captureData"]["endpointOutput"]
    (tmp_path / "x.jsonl").write_text(f"{json.dumps(row)}\n{made.capture(made.exchange(0))}")
    report = imported("sagemaker", tmp_path / "x.jsonl", tmp_path / "t")
    assert (report.joined, report.duplicates, report.conflicting) == (1, 1, 0)
    (read,) = traffic(tmp_path / "t")
    assert made.outputs_of(read) == made.outputs_of(made.exchange(0))


def with_its_answer_later(path, e, *more):
    """A row whose answer was not there yet, imported, and the row as it is now."""
    row = {n: v for n, v in plain_row(e).items() if n != "status"}
    rows = [
        row | {"p": None},
        *({n: v for n, v in plain_row(m).items() if n != "status"} for m in more),
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return "".join(json.dumps(r) + "\n" for r in (row, *rows[1:]))


NO_STATUS = dataclasses.replace(MAPPING, status=None)


@pytest.mark.parametrize("same_file", [True, False])
def test_an_answer_that_a_row_got_after_it_was_written_is_late(same_file, tmp_path):
    path = tmp_path / "logs" / "0.jsonl"
    path.parent.mkdir()
    now = with_its_answer_later(path, made.exchange(0), made.exchange(1))
    at = functools.partial(imported, "table", tmp_path / "logs", tmp_path / "t", mapping=NO_STATUS)
    first = at()
    assert (first.joined, first.one_sided_requests, first.late) == (1, 1, 0)
    (path if same_file else path.with_name("1.jsonl")).write_text(now)
    for _ in range(2):
        report = at()
        assert (report.written, report.one_sided_requests, report.late) == (2, 1, 1)
        assert report.duplicates == (0 if same_file else 2)
    (example,) = report.examples
    assert "an answer whose request was written without one" in example
    (kept,) = (tmp_path / "t" / "imports").glob("*.quarantine.jsonl")
    assert [json.loads(line)["trouble"] for line in kept.read_text().splitlines()] == ["late"]
    (totals,) = TrafficSource.open([tmp_path / "t"]).totals
    assert dict(totals.faults)["answers that came after their request was written"] == 1


def test_an_answer_that_a_row_got_before_it_was_written_is_kept(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(with_its_answer_later(path, made.exchange(0)))
    later = path.read_text()
    with_its_answer_later(path, made.exchange(0))
    at = functools.partial(imported, "table", path, tmp_path / "t", mapping=NO_STATUS)
    assert at(wait_ns=made.SECOND).waiting == 1
    path.write_text(later)
    report = at()
    assert (report.joined, report.late, report.one_sided_requests) == (1, 0, 0)


def test_another_mapping_that_gives_written_requests_their_answers_is_refused(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(plain_row(made.exchange(0))) + "\n")
    without = dataclasses.replace(MAPPING, outputs=(), status=None)
    imported("table", path, tmp_path / "t", mapping=without, how="a")
    with pytest.raises(TrafficError, match="another mapping"):
        imported("table", path, tmp_path / "t", mapping=NO_STATUS, how="b")


TWO_OUTPUTS = dataclasses.replace(
    MAPPING, outputs=(*MAPPING.outputs, TensorColumn(name="q", column="q", datatype="FP32"))
)


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_a_row_without_one_of_its_outputs_is_undecodable(form, tmp_path):
    rows = [plain_row(made.exchange(i)) | {"q": 0.5} for i in range(4)]
    rows[1]["q"] = None
    rows[2]["p"] = rows[2]["q"] = None
    path = tmp_path / f"t.{form}"
    if form == "jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    else:
        made.write_table(path, rows)
    report = imported("table", path, tmp_path / "t", mapping=TWO_OUTPUTS)
    assert (report.joined, report.one_sided_requests, report.undecodable) == (2, 1, 1)
    assert report.examples == (
        f"t.{form}:{2 + (form == 'csv')}: no value in 'q', and one in other outputs",
    )


def test_a_list_output_with_a_null_is_undecodable(tmp_path):
    rows = [plain_row(made.exchange(i)) | {"p": [0.5, 0.25]} for i in range(2)]
    rows[1]["p"] = [0.5, None]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    report = imported("table", tmp_path / "t.jsonl", tmp_path / "t")
    assert (report.joined, report.undecodable) == (1, 1)


def test_a_written_nan_stays_an_answer(tmp_path):
    rows = [plain_row(made.exchange(i)) | {"q": float("nan")} for i in range(2)]
    made.write_table(tmp_path / "t.parquet", rows)
    report = imported("table", tmp_path / "t.parquet", tmp_path / "t", mapping=TWO_OUTPUTS)
    assert (report.joined, report.undecodable) == (2, 0)


def test_errors_keep_their_code(tmp_path):
    rows = [
        made.inference_row(made.exchange(0)),
        made.inference_row(made.exchange(1), status_code=400, response='{"error_code": "BAD"}'),
    ]
    made.write_table(tmp_path / "logs" / "t.parquet", rows)
    report = imported("databricks", tmp_path / "logs", tmp_path / "t")
    assert (report.errors, [e.code for e in traffic(tmp_path / "t")]) == (1, [0, 3])


@pytest.mark.parametrize("side", ["request", "response"])
def test_bodies_left_out_for_their_size_are_oversized(side, tmp_path):
    code = f"MAX_{side.upper()}_SIZE_EXCEEDED"
    rows = [
        made.inference_row(made.exchange(0), newer=True),
        made.inference_row(
            made.exchange(1), newer=True, logging_error_codes=[code], **{side: None}
        ),
    ]
    made.write_table(tmp_path / "logs" / "t.parquet", rows)
    report = imported("databricks", tmp_path / "logs", tmp_path / "t")
    assert (report.written, report.oversized) == (1, 1)
    assert code in report.examples[0]


def test_only_the_predictor_of_a_service_is_taken(tmp_path):
    e = made.exchange(0)
    rows = [*made.kserve_rows(e), *made.kserve_rows(e, component="transformer")]
    made.write_table(tmp_path / "logs" / "t.parquet", rows)
    report = imported("kserve", tmp_path / "logs", tmp_path / "t")
    assert (report.joined, report.other, report.records) == (1, 2, 4)


def test_every_record_is_counted_once(tmp_path):
    good = [made.capture(made.exchange(i)) for i in range(3)]
    bad = ["{half", "[]", '{"captureData": {}, "eventMetadata": {}}', good[0], "\udcff\udcfe"]
    text = "\n".join([*good, *bad]).encode("utf-8", "surrogateescape")
    (tmp_path / "x.jsonl").write_bytes(text)
    report = imported("sagemaker", tmp_path / "x.jsonl", tmp_path / "t")
    assert (report.records, report.joined, report.duplicates, report.undecodable) == (8, 3, 1, 4)
    lines = (
        next((tmp_path / "t" / "imports").glob("sagemaker-*.quarantine.jsonl"))
        .read_text()
        .splitlines()
    )
    assert [json.loads(line)["place"] for line in lines] == [f"x.jsonl:{n}" for n in (4, 5, 6, 8)]
    assert (
        json.loads(next((tmp_path / "t" / "imports").glob("sagemaker-????????.json")).read_text())[
            "joined"
        ]
        == 3
    )


def test_requests_that_were_lost_reach_the_gates_totals(tmp_path):
    text = "\n".join([*(made.capture(made.exchange(i)) for i in range(3)), "{half"])
    (tmp_path / "x.jsonl").write_text(text)
    imported("sagemaker", tmp_path / "x.jsonl", tmp_path / "t")
    (totals,) = TrafficSource.open([tmp_path / "t"]).totals
    assert (totals.seen, totals.written, sum(n for _, n in totals.not_recorded)) == (4, 3, 1)


def test_an_unreadable_request_and_its_answer_are_one_lost_request(tmp_path):
    rows = [r for i in range(3) for r in made.kafka_rows(made.exchange(i))]
    rows[0]["value"] = b"\x0a\xff"
    made.write_table(tmp_path / "t.parquet", rows)
    report = imported("seldon", tmp_path / "t.parquet", tmp_path / "t")
    (totals,) = TrafficSource.open([tmp_path / "t"]).totals
    assert (report.undecodable, report.one_sided_responses) == (1, 1)
    assert (totals.seen, totals.written) == (3, 2)


def test_a_line_of_100_mb_is_counted_and_not_held(tmp_path):
    with (tmp_path / "x.jsonl").open("wb") as file:
        file.write(made.capture(made.exchange(0)).encode() + b"\n")
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b"\n" + made.capture(made.exchange(1)).encode() + b"\n")
    tracemalloc.start()
    report = imported("sagemaker", tmp_path / "x.jsonl", tmp_path / "t")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50_000_000
    assert (report.oversized, report.joined) == (1, 2)
    assert "100,000,000 bytes" in report.examples[0]


def test_half_a_parquet_file_is_named_and_the_others_are_read(tmp_path):
    for k in range(2):
        rows = made.kafka_rows(made.exchange(k))
        made.write_table(tmp_path / "logs" / f"{k}.parquet", rows)
    whole = (tmp_path / "logs" / "1.parquet").read_bytes()
    (tmp_path / "logs" / "1.parquet").write_bytes(whole[: len(whole) // 2])
    report = imported("seldon", tmp_path / "logs", tmp_path / "t")
    assert report.joined == 1
    (cut,) = report.files_cut
    assert cut.startswith("1.parquet:1: ")


def test_half_a_kcat_file_is_read_up_to_the_cut(tmp_path):
    (tmp_path / "logs").mkdir()
    whole = made.kcat([r for i in range(3) for r in made.kafka_rows(made.exchange(i))])
    (tmp_path / "logs" / "t.kcat").write_bytes(whole[:-20])
    report = imported("seldon", tmp_path / "logs", tmp_path / "t")
    assert (report.joined, report.one_sided_requests, report.undecodable) == (2, 1, 1)


def test_clock_jumps_are_counted_and_latency_is_never_negative(tmp_path):
    request, answer = made.kafka_rows(made.exchange(0))
    ahead, its = made.kafka_rows(made.exchange(1, ts_ns=2**62))
    answer["timestamp"] = request["timestamp"] - 1000
    made.write_table(tmp_path / "logs" / "t.parquet", [request, answer, ahead, its])
    report = imported("seldon", tmp_path / "logs", tmp_path / "t")
    assert (report.answer_before_request, report.in_the_future) == (1, 2)
    assert traffic(tmp_path / "t")[0].latency_ns == 0


def test_one_bad_row_of_a_table_costs_itself_only(tmp_path):
    rows = [plain_row(made.exchange(i)) for i in range(4)]
    rows[2]["hour"] = "noon"
    text = "".join(json.dumps(r) + "\n" for r in rows)
    (tmp_path / "t.jsonl").write_text(text)
    report = imported("table", tmp_path / "t.jsonl", tmp_path / "t")
    assert (report.joined, report.undecodable) == (3, 1)
    assert report.examples[0].startswith("t.jsonl:3: 'hour' has a value")


@pytest.mark.parametrize(
    ("kind", "columns", "message"),
    [
        ("kserve", {"id": ["1"], "reqtype": ["x"], "bytes": [""], "inferenceService": ["m"]}, "did you mean 'reqtype'"),
        ("seldon", {"key": ["1"]}, "no column 'value'"),
        ("databricks", {"request": ["1"]}, "no column 'databricks_request_id'"),
        ("table", {"id": ["1"]}, "no column 'at'"),
    ],
)  # fmt: skip
def test_wrong_columns_are_named(kind, columns, message, tmp_path):
    names = list(columns)
    made.write_table(
        tmp_path / "t.parquet",
        [dict(zip(names, r, strict=True)) for r in zip(*columns.values(), strict=True)],
    )
    with pytest.raises(TrafficError, match=message):
        imported(kind, tmp_path / "t.parquet", tmp_path / "t")


def test_records_that_are_all_unusable_are_an_error_with_a_report(tmp_path):
    (tmp_path / "x.jsonl").write_text("no\n")
    with pytest.raises(TrafficError, match="none of the 1 records could be used"):
        imported("sagemaker", tmp_path / "x.jsonl", tmp_path / "t")
    assert list((tmp_path / "t" / "imports").glob("sagemaker-*.quarantine.jsonl"))


def test_a_table_that_grew_gives_only_what_is_new(tmp_path):
    recorded = [made.exchange(i) for i in range(4)]
    lines = [made.capture(e) + "\n" for e in recorded]
    (tmp_path / "x.jsonl").write_text("".join(lines[:2]))
    imported("sagemaker", tmp_path / "x.jsonl", tmp_path / "t")
    (tmp_path / "x.jsonl").write_text("".join(lines))
    assert imported("sagemaker", tmp_path / "x.jsonl", tmp_path / "t").written == 4


def test_unusable_records_of_equal_places_in_two_sources_are_both_kept(tmp_path):
    for k in range(2):
        path = tmp_path / str(k) / "x.jsonl"
        path.parent.mkdir()
        path.write_text("\n".join([made.capture(made.exchange(k)), f"{{half {k}"]))
        report = imported("sagemaker", path, tmp_path / "t")
    (tmp_path / "1" / "x.jsonl").write_text(
        path.read_text() + "\n" + made.capture(made.exchange(2))
    )
    again = imported("sagemaker", path, tmp_path / "t")
    assert (report.undecodable, again.undecodable, again.written) == (2, 2, 3)
    (totals,) = TrafficSource.open([tmp_path / "t"]).totals
    assert sum(n for _, n in totals.not_recorded) == 2


_KILLED = """
import sys, time
from pathlib import Path
sys.path[:0] = [{tests!r}]
import test_record_importers as t
from harness.record.importers import run, sagemaker

read, write = sagemaker.read, run.write_staged


def telling(file, limit):
    for number, found in enumerate(read(file, limit)):
        if number % 500 == 0:
            print(number, flush=True)
            time.sleep(60 if str(number) == {moment!r} else 0)
        yield found


def telling_write(*arguments, **options):
    print("writing", flush=True)
    write(*arguments, **options)
    time.sleep(60)  # not at its end before the kill


sagemaker.read = telling
run.write_staged = telling_write
t.imported("sagemaker", Path({source!r}), Path({to!r}))
"""


def test_a_killed_import_goes_on_and_gives_the_same_traffic(tmp_path):
    recorded = [made.exchange(i) for i in range(5000)]
    (tmp_path / "x.jsonl").write_text("".join(made.capture(e) + "\n" for e in recorded))
    whole = imported("sagemaker", tmp_path / "x.jsonl", tmp_path / "whole")
    for moment in ("2500", "4500", "writing"):
        script = textwrap.dedent(_KILLED).format(
            tests=str(Path(__file__).parent), source=str(tmp_path / "x.jsonl"), to=str(tmp_path / "t"), moment=moment,
        )  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
        )
        with process:
            while (line := process.stdout.readline()) and line.strip() != moment:
                pass
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
    report = imported("sagemaker", tmp_path / "x.jsonl", tmp_path / "t")
    assert traffic(tmp_path / "t") == traffic(tmp_path / "whole")
    assert (report.written, report.records) == (whole.written, whole.records)
    assert report.duplicates == 0


def test_a_kill_between_file_and_note_leaves_each_exchange_once(tmp_path, monkeypatch):
    recorded = [made.exchange(i, step_ns=3600 * made.SECOND) for i in range(3)]
    kind = write_source("seldon.kcat", tmp_path / "logs", recorded)
    from harness.record.importers.staging import Staging

    end_file, calls = Staging.end_file, []

    def dies(self, number):
        calls.append(number)
        if len(calls) == 2:
            raise KeyboardInterrupt
        end_file(self, number)

    monkeypatch.setattr(Staging, "end_file", dies)
    with pytest.raises(KeyboardInterrupt):
        imported(kind, tmp_path / "logs", tmp_path / "t")
    assert imported(kind, tmp_path / "logs", tmp_path / "t").traffic_files == 3
    made.same(traffic(tmp_path / "t"), recorded)


def test_an_import_into_an_object_store_is_the_same(bucket, tmp_path):
    recorded = [made.exchange(i) for i in range(3)]
    kind = write_source("seldon.kcat", tmp_path / "logs", recorded)
    read = functools.partial(seldon.read, limit=LIMIT)
    target = ImportTarget(to=bucket / "t", state=tmp_path / "state", name=kind)
    for _ in range(2):
        run_import(source_files(tmp_path / "logs", seldon.SUFFIXES), read, target, known=None)
    made.same(traffic(bucket / "t"), recorded)


def with_state(source, to, state, kind="seldon"):
    target = ImportTarget(to=to, state=state, name=kind)
    read = functools.partial(MODULES[kind].read, limit=LIMIT)
    return run_import(source_files(source, MODULES[kind].SUFFIXES), read, target, known=None)


def test_another_state_s_import_into_an_object_store_is_not_doubled(bucket, tmp_path):
    recorded = [made.exchange(i) for i in range(4)]
    write_source("seldon.kcat", tmp_path / "logs", recorded[:3])
    with_state(tmp_path / "logs", bucket / "t", tmp_path / "one")
    # Elsewhere on the other machine, and grown since.
    write_source("seldon.kcat", tmp_path / "other", recorded)
    with pytest.raises(
        TrafficError, match=r"imported as .*logs/t.kcat, and this state folder"
    ) as told:
        with_state(tmp_path / "other", bucket / "t", tmp_path / "two")
    assert "HARNESS_STATE_DIR" in told.value.remedy
    made.same(traffic(bucket / "t"), recorded[:3])
    assert with_state(tmp_path / "other", bucket / "t", tmp_path / "one").written == 4


def test_other_logs_come_in_by_another_state(bucket, tmp_path):
    recorded = [made.exchange(i) for i in range(4)]
    for name, some in (("one", recorded[:2]), ("two", recorded[2:])):
        write_source("kserve.csv", tmp_path / name, some)
        with_state(tmp_path / name, bucket / "t", tmp_path / f"state-{name}", "kserve")
    read = [e.request_id for e in traffic(bucket / "t")]
    assert read == [e.request_id for e in recorded]


def test_a_copy_of_a_state_does_not_double_what_came_after_it(tmp_path):
    rows = [made.capture(made.exchange(i), encoding="BASE64") for i in range(3)]
    for i, row in enumerate(rows):
        (tmp_path / f"{i}.jsonl").write_text(row)
    at = functools.partial(with_state, to=tmp_path / "t", kind="sagemaker")
    at(tmp_path / "0.jsonl", state=tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    at(tmp_path / "1.jsonl", state=tmp_path / "one")
    at(tmp_path / "2.jsonl", state=tmp_path / "copy")
    for state, other in (("copy", "1"), ("one", "2")):
        with pytest.raises(TrafficError, match="is in the traffic already"):
            at(tmp_path / f"{other}.jsonl", state=tmp_path / state)
    assert len(traffic(tmp_path / "t")) == 3


@pytest.mark.parametrize("killed", ["reading", "before_writing"])
def test_a_state_that_was_killed_does_not_double_what_another_imported_since(
    killed, tmp_path, monkeypatch
):
    recorded = [made.exchange(i) for i in range(4)]
    path = tmp_path / "0.jsonl"
    path.write_text("".join(made.capture(e, encoding="BASE64") + "\n" for e in recorded))
    at = functools.partial(with_state, path, tmp_path / "t", kind="sagemaker")

    def reads(file, limit):
        for found in sagemaker.read(file, limit):
            yield found
            if killed == "reading":
                raise KeyboardInterrupt

    def dies(done, total):
        raise KeyboardInterrupt

    one = ImportTarget(to=tmp_path / "t", state=tmp_path / "one", name="sagemaker")
    files = source_files(path, sagemaker.SUFFIXES)
    read = functools.partial(reads, limit=LIMIT)
    monkeypatch.setattr(run, "_COMMIT_RECORDS", 1)
    with pytest.raises(KeyboardInterrupt):
        run_import(files, read, one, known=None, heard=dies)
    at(state=tmp_path / "two")
    with pytest.raises(TrafficError, match="is in the traffic already, imported as"):
        at(state=tmp_path / "one")
    assert [e.request_id for e in traffic(tmp_path / "t")] == [e.request_id for e in recorded]


def test_what_a_killed_state_staged_does_not_come_with_its_next_files(tmp_path):
    for k in range(2):
        path = tmp_path / f"{k}.jsonl"
        path.write_text(made.capture(made.exchange(k), encoding="BASE64") + "\n")
    at = functools.partial(with_state, to=tmp_path / "t", kind="sagemaker")

    def dies(done, total):
        raise KeyboardInterrupt

    one = ImportTarget(to=tmp_path / "t", state=tmp_path / "one", name="sagemaker")
    with pytest.raises(KeyboardInterrupt):
        run_import(
            source_files(tmp_path / "0.jsonl", sagemaker.SUFFIXES),
            functools.partial(sagemaker.read, limit=LIMIT), one, known=None, heard=dies,
        )  # fmt: skip
    at(tmp_path / "0.jsonl", state=tmp_path / "two")
    with pytest.raises(TrafficError, match="is in the traffic already"):
        at(tmp_path / "1.jsonl", state=tmp_path / "one")
    assert len(traffic(tmp_path / "t")) == 1


def day(path, number, rows=8_500, **options):
    """A table whose first 64 KiB are those of every other day."""
    path.parent.mkdir(exist_ok=True)
    found = {
        "row": range(rows), "id": [f"{number}-{i}" for i in range(rows)],
        "at": [made.START_NS + number * rows + i for i in range(rows)],
        "distance": [1.0] * rows, "p": [0.5] * rows,
    }  # fmt: skip
    if path.suffix == ".csv":
        header = ",".join([*found, *("c" * 99 + str(k) for k in range(1000))])
        lines = (",".join(map(str, (*row, "," * 999))) for row in zip(*found.values(), strict=True))
        path.write_text("\n".join([header, *lines]) + "\n")
    else:
        pq.write_table(
            made.pa.table({n: list(v) for n, v in found.items()}),
            path,
            compression="none",
            **options,
        )
    return path


DAY = dataclasses.replace(
    MAPPING, status=None, context=(),
    inputs=(TensorColumn(name="distance", column="distance", datatype="FP32"),),
)  # fmt: skip


def import_of_day(path, to, state):
    read = functools.partial(tables.read, mapping=DAY, limit=LIMIT)
    target = ImportTarget(to=to, state=state, name="table")
    return run_import(source_files(path, tables.SUFFIXES), read, target, known=None)


@pytest.mark.parametrize(
    ("name", "options"),
    [("d.parquet", {}), ("d.parquet", {"write_statistics": False}), ("d.csv", {})],
)
def test_other_files_that_begin_alike_come_in_and_the_same_file_does_not(name, options, tmp_path):
    rows = 8_500 if name.endswith("parquet") else 20
    first = day(tmp_path / "1" / name, 1, rows, **options)
    second = day(tmp_path / "2" / name, 2, rows, **options)
    assert first.read_bytes()[: 64 << 10] == second.read_bytes()[: 64 << 10]
    import_of_day(first, tmp_path / "t", tmp_path / "one")
    assert import_of_day(second, tmp_path / "t", tmp_path / "two").written == rows
    shutil.copytree(tmp_path / "1", tmp_path / "3")
    with pytest.raises(TrafficError, match="is in the traffic already"):
        import_of_day(tmp_path / "3" / name, tmp_path / "t", tmp_path / "three")


@pytest.mark.parametrize("name", ["d.parquet", "d.csv"])
def test_files_of_an_object_store_that_begin_alike_are_told_apart(name, bucket, tmp_path):
    from harness.store.places import move

    rows = 8_500 if name.endswith("parquet") else 20
    for number in (1, 2):
        copy = shutil.copy(day(tmp_path / str(number) / name, number, rows), tmp_path / "copy")
        move(Path(copy), bucket / str(number) / name)
    import_of_day(bucket / "1", tmp_path / "t", tmp_path / "one")
    assert import_of_day(bucket / "2", tmp_path / "t", tmp_path / "two").written == rows
    with pytest.raises(TrafficError, match="is in the traffic already"):
        import_of_day(tmp_path / "1", tmp_path / "t", tmp_path / "three")


def test_a_list_of_former_versions_holds(tmp_path):
    path = day(tmp_path / "1" / "d.parquet", 1)
    import_of_day(path, tmp_path / "t", tmp_path / "one")
    (own,) = (tmp_path / "t" / "imports").glob("*.sources.jsonl")
    beginning = hashlib.sha256(path.read_bytes()[: 64 << 10]).hexdigest()
    own.write_text(json.dumps({"source": "/then", "bytes": 64 << 10, "sha256": beginning}))
    with pytest.raises(TrafficError, match="imported as /then"):
        import_of_day(path, tmp_path / "t", tmp_path / "two")


def test_logs_that_were_renamed_are_duplicates_of_their_own_state(tmp_path):
    (tmp_path / "a.jsonl").write_text(made.capture(made.exchange(0)))
    first = imported("sagemaker", tmp_path / "a.jsonl", tmp_path / "t")
    more = "\n".join(made.capture(made.exchange(i)) for i in range(2))
    (tmp_path / "a.jsonl").write_text(more)
    imported("sagemaker", tmp_path / "a.jsonl", tmp_path / "t")
    (tmp_path / "a.jsonl").rename(tmp_path / "b.jsonl")
    again = imported("sagemaker", tmp_path / "b.jsonl", tmp_path / "t")
    assert (first.written, again.written, again.duplicates) == (1, 2, 2)


def test_logs_in_an_object_store_are_read(bucket, tmp_path):
    from harness.store.places import move

    recorded = [made.exchange(i) for i in range(3)]
    kind = write_source("seldon.parquet", tmp_path / "logs", recorded)
    move(tmp_path / "logs" / "t.parquet", bucket / "logs" / "t.parquet")
    imported(kind, bucket / "logs", tmp_path / "t")
    made.same(traffic(tmp_path / "t"), recorded)


def test_two_imports_into_one_traffic_at_once_are_refused(tmp_path):
    from harness.record.importers.staging import Staging

    kind = write_source("seldon.kcat", tmp_path / "logs", [made.exchange(0)])
    with (
        Staging(tmp_path / "t" / ".import" / kind / "staging.sqlite"),
        pytest.raises(TrafficError, match="another import is writing there"),
    ):
        imported(kind, tmp_path / "logs", tmp_path / "t")


def test_a_table_without_a_response_gives_requests_only(tmp_path):
    mapping = TableMapping(
        request_id="id", time=Timed(column="at", unit="iso"), model="flights", request="body"
    )
    e = made.exchange(0)
    row = {"id": e.request_id, "at": made.iso_of(e.ts_ns), "body": json.loads(made.v1_request(e))}
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    report = imported("table", tmp_path / "t.jsonl", tmp_path / "t", mapping=mapping)
    assert report.one_sided_requests == 1
    assert made.inputs_of(traffic(tmp_path / "t")[0]) == made.inputs_of(e)


def test_delta_folders_are_read_by_their_log(tmp_path):
    from harness.record.importers.delta import present_files

    log = tmp_path / "t" / "_delta_log"
    log.mkdir(parents=True)
    actions = [
        [{"add": {"path": "a%20b.parquet"}}, {"add": {"path": "c.parquet"}}],
        [{"remove": {"path": "c.parquet"}}],
    ]
    for version, entries in enumerate(actions):
        (log / f"{version:020d}.json").write_text("".join(json.dumps(e) + "\n" for e in entries))
    assert present_files(tmp_path / "t") == ["a b.parquet"]
    (log / f"{4:020d}.json").write_text("")
    with pytest.raises(TrafficError, match="gaps"):
        present_files(tmp_path / "t")
    pq.write_table(
        made.pa.table({"add": [{"path": "z.parquet"}], "remove": [None]}),
        log / f"{3:020d}.checkpoint.parquet",
    )
    assert present_files(tmp_path / "t") == ["z.parquet"]

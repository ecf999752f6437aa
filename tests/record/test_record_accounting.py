"""Nothing is dropped in silence: each format's counts add up to what was read, also after kills."""

import base64
import dataclasses
import json
import os
import signal

import logs_made as made
import numpy as np
import pytest
from test_record_importers import FORMS, imported, plain_row, traffic

from harness.record.importers import run, staging, writing

LIMIT = 1 << 16
LARGE = "x" * 100_000
BOTH = ("request", "response")
HALVED = ("kserve.parquet", "kserve.csv", "seldon.parquet", "seldon.kcat")
"""Forms in which answers are records of their own."""


def records(form, e, sides=BOTH):
    """The records of an exchange, the answer left out where asked."""
    kind, _, how = form.partition(".")
    match kind:
        case "kserve":
            return made.kserve_rows(e, sides=sides)
        case "seldon":
            return [r for r, side in zip(made.kafka_rows(e), BOTH, strict=True) if side in sides]
        case "sagemaker":
            document = json.loads(made.capture(e, encoding=how))
            if sides != BOTH:
                del document["captureData"]["endpointOutput"]
            return [document]
        case "databricks":
            return [made.inference_row(e, newer=how == "new")]
    return [plain_row(e) | ({} if sides == BOTH else {"p": None})]


def undecodable(form, e):
    record = records(form, e)[0]
    match form.partition(".")[0]:
        case "kserve":
            return record | {"bytes": "%%%"}
        case "seldon":
            return record | {"value": b"\x0a\xff"}
        case "sagemaker":
            return record | {"captureData": None}
        case "databricks":
            return record | {"status_code": 7}
    return record | {"status": 7}


def oversized(form, e):
    record = records(form, e)[0]
    match form.partition(".")[0]:
        case "kserve":
            return record | {"bytes": base64.b64encode(LARGE.encode()).decode()}
        case "seldon":
            return record | {"value": LARGE.encode()}
        case "sagemaker":
            return record | {"eventVersion": LARGE}
        case "databricks":
            return record | {"request": None}
    return record | {"carrier": LARGE}


def write(form, file, found):
    file.parent.mkdir(parents=True, exist_ok=True)
    match form.split("."):
        case ["sagemaker", _] | ["table", "jsonl"]:
            file.with_suffix(".jsonl").write_text("".join(json.dumps(r) + "\n" for r in found))
        case ["seldon", "kcat"]:
            file.with_suffix(".kcat").write_bytes(made.kcat(found))
        case [_, "csv"]:
            made.write_table(file.with_suffix(".csv"), found)
        case _:
            made.write_table(file.with_suffix(".parquet"), found)


def planted(form):
    """Three exchanges, and one record or exchange of each trouble that the form can have."""
    found = [r for i in range(3) for r in records(form, made.exchange(i))]
    found += records(form, made.exchange(3), ("request",))
    found += records(form, made.exchange(0))  # duplicates
    found += records(form, made.exchange(1, seed=9, request_id="r-000001"))  # in conflict
    found += [undecodable(form, made.exchange(4)), oversized(form, made.exchange(5))]
    if form in HALVED:
        found += records(form, made.exchange(6), ("response",))
    if form.startswith("kserve"):
        found += made.kserve_rows(made.exchange(7), component="transformer")
    if form.startswith("seldon"):
        found += [records(form, made.exchange(7))[0] | {"topic": "seldon.prod.pipeline.p.inputs"}]
    return found


def adds_up(report, form):
    halves = 2 if form in HALVED else 1
    taken = halves * report.joined + report.one_sided_requests + report.one_sided_responses
    refused = report.late + report.oversized + report.undecodable + report.other
    return report.records == taken + report.duplicates + refused


@pytest.mark.parametrize("form", FORMS)
def test_each_trouble_is_counted_once_and_all_add_up_to_what_was_read(form, tmp_path):
    found = planted(form)
    write(form, tmp_path / "logs" / "a", found)
    kind = form.partition(".")[0]
    report = imported(kind, tmp_path / "logs", tmp_path / "t", limit=LIMIT)
    each = 2 if form in HALVED else 1
    one_sided = 0 if kind == "databricks" else 1  # without an answer logged, it was too large there
    expected = {
        "records": len(found), "joined": 3 + (1 - one_sided), "one_sided_requests": one_sided,
        "one_sided_responses": each - 1, "duplicates": 2 * each, "conflicting": each, "late": 0,
        "undecodable": 1, "oversized": 1,
        "other": {"kserve": 2, "seldon": 1}.get(kind, 0),
    }  # fmt: skip
    assert {name: getattr(report, name) for name in expected} == expected
    assert adds_up(report, form)
    assert len(traffic(tmp_path / "t")) == report.written == 4


@pytest.mark.parametrize("form", HALVED)
def test_an_answer_after_its_request_was_written_is_late_and_adds_up(form, tmp_path):
    kind = form.partition(".")[0]
    for k, side in enumerate(BOTH):
        write(form, tmp_path / "logs" / str(k), records(form, made.exchange(0), (side,)))
        report = imported(kind, tmp_path / "logs", tmp_path / "t")
    assert (report.records, report.late, report.one_sided_requests) == (2, 1, 1)
    assert adds_up(report, form)


def killed(at, import_):
    """Whether a process that imports was killed (SIGKILL) when it had taken so many steps."""
    child = os.fork()
    if child == 0:
        steps = 0

        def stepping(step):
            def stepped(*arguments, **options):
                nonlocal steps
                steps += 1
                if steps == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return step(*arguments, **options)

            return stepped

        run._COMMIT_RECORDS = 3
        run.take, writing.move = stepping(run.take), stepping(writing.move)
        run.write_whole = stepping(run.write_whole)
        for name in ("commit", "begin_file", "end_file", "reach"):
            setattr(staging.Staging, name, stepping(getattr(staging.Staging, name)))
        code = 1
        try:
            import_()
            code = 0
        finally:
            os._exit(code)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended in {0, -signal.SIGKILL}
    return ended != 0


@pytest.mark.parametrize("form", FORMS)
def test_an_import_that_was_killed_gives_what_one_that_was_not_gives(form, tmp_path):
    rng = np.random.default_rng(FORMS.index(form))
    kind = form.partition(".")[0]
    for k, some in enumerate(np.array_split(np.array(planted(form), object), 2)):
        write(form, tmp_path / "logs" / str(k), some.tolist())
    for file in (tmp_path / "logs").iterdir():
        os.utime(file, ns=(made.START_NS, made.START_NS))

    def import_(to):
        return imported(kind, tmp_path / "logs", tmp_path / to, limit=LIMIT, how="same")

    whole = import_("whole")
    kills = [killed(at, lambda: import_("t")) for at in rng.integers(1, 14, 5).tolist()]
    assert kills[0]
    report = import_("t")
    told = {"to": "", "quarantine": "", "traffic_files": 0}
    assert dataclasses.replace(report, **told) == dataclasses.replace(whole, **told)
    assert traffic(tmp_path / "t") == traffic(tmp_path / "whole")

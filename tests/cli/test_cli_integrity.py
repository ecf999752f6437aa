"""Lost traffic and broken joins never promote, and every one of them is told."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from gates import RETRAIN, TINY_START_NS, tiny_model, tiny_traffic

from harness.store.label_rows import write_labels
from harness.store.traffic import TrafficSource, TrafficWriter
from harness.store.windows import seal_cached

AS_OF = "2020-12-01T00:00:00Z"
MINUTE_NS = 60_000_000_000
LATER_NS = 30 * 86_400 * 10**9


@pytest.fixture
def gate(harness, write_policy, tmp_path):
    """A retrain of the tiny model: (exit code, terminal, decision.json, kind → finding)."""
    model = tiny_model(tmp_path / "model.onnx")

    def run(traffic, *more, candidate=model):
        policy = write_policy(
            RETRAIN,
            windows={"matured": {"maturity": "5m"}, "min_requests": 200, "cover": []},
            guardrails=[
                {"name": "features", "metric": "parity_mismatch", "scope": "features",
                 "margin": 0.05},
                {"name": "loss", "metric": "loss_difference", "loss": "brier", "margin": 0.1,
                 "window": "matured"},
            ],
        )  # fmt: skip
        out = tmp_path / "run"
        ran = harness("gate", model, candidate, "-t", traffic, "-p", policy, "-o", out,
                      "--as-of", AS_OF, "-q", *more)  # fmt: skip
        if ran.code not in {0, 1, 3}:
            return ran.code, ran.err, None, None
        found = json.loads((out / "findings.json").read_text())["findings"]
        decision = json.loads((out / "decision.json").read_text())
        return ran.code, ran.out, decision, {f["kind"]: f for f in found}

    return run


def changed(folder, change, n=600):
    """Tiny traffic with labels of which every exchange was changed."""
    source = tiny_traffic(folder / "whole", n, labels=True)
    exchanges = list(TrafficSource.open([source]).exchanges())
    with TrafficWriter(folder / "changed") as writer:
        writer.write(change(i, e) for i, e in enumerate(exchanges))
    (source / "labels").rename(folder / "changed" / "labels")
    return folder / "changed"


def relabelled(folder, keep=None, ids=None, late_ns=None):
    """Tiny traffic whose labels were thinned out, renamed or delivered again."""
    traffic = tiny_traffic(folder / "traffic", labels=True)
    file = traffic / "labels" / "all.parquet"
    table = pq.read_table(file)
    label = table["label"].to_numpy()
    kept = np.ones(len(label), bool) if keep is None else keep(label)
    ts = table["event_ts_ns"].to_numpy()[kept]
    names = table["request_id"].to_numpy()[kept]
    write_labels(
        file if late_ns is None else file.with_name("again.parquet"),
        request_id=names if ids is None else np.array([ids(n) for n in names], object),
        label=label[kept],
        event_ts_ns=ts,
        label_event_ts_ns=ts,
        ingestion_ts_ns=ts + (MINUTE_NS if late_ns is None else late_ns),
    )
    return traffic


def assert_hold(ended, reason, *said):
    code, screen, decision, _ = ended
    assert (code, decision["decision"], decision["reason"]) == (3, "HOLD", reason)
    words = " ".join((decision["explanation"] + " " + decision["next"]).split())
    for part in said:
        assert part in words
    assert "HOLD" in screen


def test_the_same_labels_delivered_again_later_change_nothing(gate, tmp_path):
    code, _, decision, found = gate(relabelled(tmp_path, late_ns=LATER_NS))
    assert code == 0
    assert decision["windows"]["matured"]["n"] == 600
    assert "labels_incomplete" not in found
    labels = json.loads((tmp_path / "run" / "manifest.json").read_text())["labels"]
    assert (labels["late"], labels["duplicates"], labels["joined"]) == (600, 0, 600)
    assert "600 later than the maturity" in (tmp_path / "run" / "report.html").read_text()


def test_a_correction_within_the_maturity_wins(gate, tmp_path):
    traffic = tiny_traffic(tmp_path / "traffic", labels=True)
    ts = TINY_START_NS + np.arange(600) * 1_000_000_000
    write_labels(
        traffic / "labels" / "corrected.parquet",
        request_id=np.array([f"t-{i}" for i in range(600)], object), label=np.zeros(600),
        event_ts_ns=ts, label_event_ts_ns=ts, ingestion_ts_ns=ts + 2 * MINUTE_NS,
    )  # fmt: skip
    gate(traffic)
    with np.load(tmp_path / "run" / "order.npz") as saved:
        assert saved["label"].tolist() == [0.0] * 600


def test_labels_of_one_outcome_only_hold(gate, tmp_path):
    rng = np.random.default_rng(3)
    ended = gate(relabelled(tmp_path, lambda y: (y == 1) & (rng.random(len(y)) < 0.8)))
    assert_hold(ended, "labels_incomplete", "All", "say the same")
    assert ended[2]["binding_guardrail"] == "loss"
    assert ended[3]["labels_of_one_value"]["severity"] == "warning"
    assert ended[3]["labels_incomplete"]["severity"] == "warning"


def test_labels_of_one_outcome_are_told_even_when_they_suffice(gate, tmp_path):
    traffic = tiny_traffic(tmp_path / "traffic")
    ts = TINY_START_NS + np.arange(600) * 1_000_000_000
    write_labels(
        traffic / "labels" / "all.parquet",
        request_id=np.array([f"t-{i}" for i in range(600)], object), label=np.ones(600),
        event_ts_ns=ts, label_event_ts_ns=ts, ingestion_ts_ns=ts + MINUTE_NS,
    )  # fmt: skip
    ended = gate(traffic)
    assert_hold(ended, "labels_incomplete", "All 600 labels that count say the same")
    assert ended[3]["labels_of_one_value"]["severity"] == "warning"


def test_positive_labels_that_are_mostly_left_out_hold(gate, tmp_path):
    """A candidate that leans to the other outcome would pass."""
    rng = np.random.default_rng(4)
    ended = gate(relabelled(tmp_path, lambda y: (y == 0) | (rng.random(len(y)) < 0.5)))
    assert_hold(ended, "labels_incomplete", "of the 600 requests that are old enough", "90 %")


def test_labels_of_a_few_requests_hold(gate, tmp_path):
    ended = gate(relabelled(tmp_path, lambda y: np.arange(len(y)) < 290))
    assert_hold(ended, "labels_incomplete", "Only 290 of the 600 requests", "48.3 %")


def test_a_few_missing_labels_are_told_and_hold_nothing(gate, tmp_path):
    code, screen, _, found = gate(relabelled(tmp_path, lambda y: np.arange(len(y)) >= 20))
    assert code == 0
    assert found["labels_incomplete"]["what"].startswith("20 of 600 requests")
    assert "20 of 600 requests" in screen


def test_harm_that_needs_no_labels_is_rolled_back_all_the_same(gate, tmp_path):
    worse = tiny_model(tmp_path / "worse.onnx", raised="Abs({x})")
    code, _, decision, found = gate(
        relabelled(tmp_path, lambda y: np.arange(len(y)) < 200), candidate=worse
    )
    assert (code, decision["reason"]) == (1, "guardrail_failed")
    assert "labels_incomplete" in found


def test_labels_of_unknown_requests_say_so(gate, tmp_path):
    ended = gate(relabelled(tmp_path, ids=lambda name: f"other-{name}"))
    assert_hold(
        ended, "labels_incomplete",
        "600 labels were known", "none of them matches a recorded request", "request ids",
    )  # fmt: skip
    assert ended[3]["labels_unknown"]["severity"] == "warning"


def test_requests_that_cannot_be_read_hold_beyond_a_few(gate, tmp_path):
    ended = gate(changed(tmp_path, lambda i, e: replace(e, request=b"\xff") if i % 2 else e))
    assert_hold(ended, "traffic_integrity", "300 of the 600 recorded exchanges (50.0 %)")
    assert ended[3]["traffic_not_sealed"]["severity"] == "warning"
    assert "300 of 600 recorded exchanges" in " ".join(ended[1].split())


def test_a_few_requests_that_cannot_be_read_are_told(gate, tmp_path):
    traffic = changed(tmp_path, lambda i, e: replace(e, request=b"\xff") if i % 50 == 0 else e)
    code, screen, _, found = gate(traffic)
    assert code == 0
    assert found["traffic_not_sealed"]["what"].startswith("12 of 600 recorded exchanges")
    assert "12 of 600" in screen


def test_no_request_that_can_be_read_says_so(gate, tmp_path):
    ended = gate(changed(tmp_path, lambda _, e: replace(e, request=b"\xff")))
    assert_hold(
        ended, "traffic_integrity", "None of the 600 recorded exchanges could be sealed", "600: "
    )
    assert "holds no exchange" not in json.dumps(ended[2])
    assert "Record more traffic" not in ended[2]["next"]


def test_traffic_of_two_models_is_refused_with_both(gate, tmp_path):
    traffic = changed(tmp_path, lambda i, e: replace(e, model="other") if i % 3 == 0 else e)
    code, said, *_ = gate(traffic)
    assert code == 2
    assert "'tiny' (400), 'other' (200)" in said
    assert str(traffic) in said
    assert "one model" in said
    assert not (tmp_path / "run").exists()


def test_requests_of_another_model_that_cannot_be_read_are_named_too(gate, tmp_path):
    traffic = changed(
        tmp_path, lambda i, e: replace(e, model="other", request=b"\xff") if i == 5 else e
    )
    assert gate(traffic)[0] == 2


def test_traffic_of_one_other_name_is_gated(gate, tmp_path):
    assert gate(changed(tmp_path, lambda _, e: replace(e, model="renamed")))[0] == 0


def test_a_label_that_is_no_0_or_1_is_refused_before_the_replay(gate, tmp_path):
    traffic = tiny_traffic(tmp_path / "traffic", labels=True)
    ts = np.array([TINY_START_NS + 7 * 1_000_000_000])
    file = Path(tmp_path / "two.parquet")
    write_labels(
        file, request_id=np.array(["t-7"], object), label=np.array([2.0]), event_ts_ns=ts,
        label_event_ts_ns=ts, ingestion_ts_ns=ts + 2 * MINUTE_NS,
    )  # fmt: skip
    code, said, *_ = gate(traffic, "--labels", file)
    assert code == 2
    assert str(file) in said
    assert "'t-7' has the label 2" in said
    assert "'loss'" in said
    assert not (tmp_path / "run").exists()


def test_a_label_that_does_not_count_may_be_anything(gate, tmp_path):
    traffic = tiny_traffic(tmp_path / "traffic", labels=True)
    ts = np.array([TINY_START_NS])
    file = tmp_path / "late.parquet"
    write_labels(
        file, request_id=np.array(["t-0"], object), label=np.array([2.0]), event_ts_ns=ts,
        label_event_ts_ns=ts, ingestion_ts_ns=ts + LATER_NS,
    )  # fmt: skip
    assert gate(traffic, "--labels", file)[0] == 0


def recorded_with(folder, totals):
    """Tiny traffic with labels whose recorder says these totals."""
    traffic = tiny_traffic(folder / "recorded", labels=True)
    written = {
        "writer": "rec", "seen": 600, "failed": 0, "sampled_out": 0, "kept_as_failed": 0,
        "written": 600, "waiting": 0, "not_recorded": [], "faults": [], "sample": 1.0,
        "closed": True, **totals,
    }  # fmt: skip
    (traffic / "rec.totals.json").write_text(json.dumps(written))
    return traffic


DROPPED = "the queue to the writer was full"


def test_requests_that_the_recorder_dropped_hold_beyond_a_few(gate, tmp_path):
    ended = gate(recorded_with(tmp_path, {"seen": 700, "not_recorded": [[DROPPED, 100]]}))
    assert_hold(
        ended, "traffic_integrity",
        "Of 700 requests that the recorder should have kept 100 were not recorded", DROPPED,
    )  # fmt: skip
    assert ended[3]["traffic_not_recorded"]["severity"] == "warning"


def test_a_few_requests_that_the_recorder_dropped_are_told(gate, tmp_path):
    traffic = recorded_with(tmp_path, {"seen": 605, "not_recorded": [[DROPPED, 5]]})
    code, _, decision, found = gate(traffic)
    assert code == 0
    assert found["traffic_not_recorded"]["what"].startswith("recorders saw 5 more requests")
    said = "5 requests of production were not recorded: the queue to the writer was full"
    assert said in decision["not_compared"]


def test_requests_that_a_killed_recorder_left_unpublished_count_as_not_recorded(tmp_path):
    traffic = recorded_with(tmp_path, {"seen": 640, "waiting": 40, "closed": False})
    ((reason, count),) = TrafficSource.open([traffic]).not_recorded()
    assert count == 40
    assert "the recorder still runs, or was ended" in reason


def test_what_the_recorder_says_later_is_not_hidden_by_a_window_sealed_before(tmp_path):
    traffic = recorded_with(tmp_path, {"not_recorded": [[DROPPED, 5]]})
    before = seal_cached(TrafficSource.open([traffic]), tmp_path / "cache").info
    totals = traffic / "rec.totals.json"
    totals.write_text(totals.read_text().replace("5]", "500]"))
    after = seal_cached(TrafficSource.open([traffic]), tmp_path / "cache").info
    assert (before.not_recorded, after.not_recorded) == (((DROPPED, 5),), ((DROPPED, 500),))
    assert before.window_hash == after.window_hash


def test_failures_beside_the_sample_are_told(harness, tmp_path):
    traffic = changed(
        tmp_path, lambda i, e: replace(e, metadata={":sampled": "failure"} if i % 60 == 0 else {})
    )
    window = tmp_path / "window"
    assert harness("traffic", "seal", traffic, "-o", window, "-q").code == 0
    manifest = json.loads((window / "manifest.json").read_text())
    assert manifest["info"]["beside_sample"] == 10


def test_show_says_what_the_recorders_say(harness, tmp_path):
    traffic = recorded_with(tmp_path, {"seen": 700, "not_recorded": [[DROPPED, 100]]})
    shown = harness("traffic", "show", traffic)
    assert "recorder 'rec' saw 700 requests (0 failed), wrote 600" in shown.out
    assert f"not recorded: 100, {DROPPED}" in shown.out


def test_damaged_totals_are_a_usage_error(harness, tmp_path):
    traffic = recorded_with(tmp_path, {})
    (traffic / "rec.totals.json").write_text("{")
    shown = harness("traffic", "show", traffic)
    assert shown.code == 2
    assert "is no recorder's totals" in shown.err

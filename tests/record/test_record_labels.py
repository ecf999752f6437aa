"""Labels beside traffic: joined, counted, dated; and how long they take."""

import json
from functools import partial

import logs_made as made
import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import binomtest, ks_2samp

from harness.core.errors import TrafficError, UsageError
from harness.pipeline.labels import import_labels, label_delays, label_mapping
from harness.record.label_delays import delay_curve, delay_shift, ingestion_shift
from harness.store.label_rows import label_paths
from harness.store.labels import read_labels
from harness.store.traffic import TrafficSource, TrafficWriter

HOUR = 3600 * made.SECOND
LATE_NS = made.START_NS + 1000 * HOUR
iso = made.iso_of


@pytest.fixture
def traffic(tmp_path):
    with TrafficWriter(tmp_path / "t") as writer:
        writer.write(
            made.exchange(i, step_ns=HOUR, context={"origin": ["JFK", "EWR"][i % 2]})
            for i in range(10)
        )
    return tmp_path / "t"


def row(i, *, label=1, after_h=5, arrived_h=6, asked_h=0):
    at = made.START_NS + i * HOUR
    return {
        "request_id": f"r-{i:06d}", "label": label, "event_ts_ns": at + asked_h * HOUR,
        "label_event_ts_ns": at + after_h * HOUR, "ingestion_ts_ns": at + arrived_h * HOUR,
    }  # fmt: skip


def source(tmp_path, rows, name="labels.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def imported(tmp_path, rows, name="labels.jsonl", **options):
    return import_labels(
        source(tmp_path, rows, name), tmp_path / "t", as_of=iso(LATE_NS), **options
    )


def test_labels_are_read_by_the_gate_as_they_were_given(tmp_path, traffic):
    rows = [row(i, label=i % 2) for i in range(8)]
    report = imported(tmp_path, rows)
    labels = read_labels(label_paths(traffic), None)
    known = TrafficSource.open([traffic]).summary()
    y, at = labels.join(np.array([r["request_id"] for r in rows], object))
    assert y.tolist() == [r["label"] for r in rows]
    assert at.tolist() == [r["ingestion_ts_ns"] for r in rows]
    assert (known.labelled, report.labelled, report.matched, report.requests) == (8, 8, 8, 10)


def test_labels_in_a_damaged_file_are_counted_as_its_footer_says(tmp_path, traffic):
    folder = tmp_path / "labels"
    for k in range(2):
        made.write_table(folder / f"{k}.parquet", [row(4 * k + i) for i in range(4)])
    content = (folder / "1.parquet").read_bytes()
    (folder / "1.parquet").write_bytes(content[:4] + bytes(40) + content[44:])
    report = import_labels(folder, traffic, as_of=iso(LATE_NS))
    assert (report.records, report.labels, report.undecodable) == (8, 4, 4)


def test_every_label_is_counted_where_it_belongs(tmp_path, traffic):
    rows = [
        row(0),
        row(0),  # duplicate
        row(0, label=0),  # conflicting
        row(0, label=0, arrived_h=7),  # a correction
        row(0, label=0, arrived_h=8),  # delivered again
        row(1, after_h=-1),  # before its request
        row(2, after_h=9),  # arrived before it happened
        row(3, arrived_h=2000),  # in the future
        {**row(4), "request_id": "unknown"},
        {**row(5), "label": None},
    ]
    r = imported(tmp_path, rows)
    assert (r.records, r.labels, r.duplicates, r.conflicting, r.undecodable) == (10, 7, 1, 1, 1)
    assert (r.corrections, r.delivered_again, r.matched, r.unmatched) == (1, 1, 6, 1)
    assert (r.before_event, r.before_label_event, r.in_the_future) == (1, 1, 1)
    lines = next((traffic / "imports").glob("labels-*.quarantine.jsonl")).read_text().splitlines()
    assert [json.loads(x)["trouble"] for x in lines] == ["conflicting", "undecodable"]


def test_labels_given_again_are_not_taken_twice(tmp_path, traffic):
    rows = [row(i) for i in range(4)]
    first = imported(tmp_path, rows)
    path = tmp_path / "labels.jsonl"
    assert import_labels(path, traffic, as_of=iso(LATE_NS)) == first
    more = imported(tmp_path, [*rows, row(5)])
    assert (more.records, more.labels, more.duplicates) == (5, 5, 0)
    assert read_labels(label_paths(traffic), None).read == 5


def test_a_mapping_names_columns_words_and_units(tmp_path, traffic):
    (tmp_path / "m.yaml").write_text(
        "version: 1\nrequest_id: id\nlabel: {column: outcome, values: {late: 1, punctual: 0}}\n"
        "ingestion_time: {column: loaded, unit: s}\n"
    )
    arrived = made.START_NS // made.SECOND + 7200
    rows = [
        {"id": "r-000001", "outcome": "late", "loaded": arrived},
        {"id": "r-000002", "outcome": "gone", "loaded": arrived},
    ]
    report = imported(tmp_path, rows, mapping=tmp_path / "m.yaml")
    assert (report.labels, report.undecodable) == (1, 1)
    (written,) = pq.read_table(label_paths(traffic)[0]).to_pylist()
    assert written == {
        "request_id": "r-000001", "label": 1.0, "event_ts_ns": made.START_NS + HOUR,
        "label_event_ts_ns": arrived * made.SECOND, "ingestion_ts_ns": arrived * made.SECOND,
    }  # fmt: skip


def test_ground_truth_arrives_at_the_end_of_its_hour(tmp_path, traffic):
    path = tmp_path / "truth" / "2013" / "07" / "02" / "03" / "x.jsonl"
    path.parent.mkdir(parents=True)
    record = {
        "groundTruthData": {"data": "1", "encoding": "CSV"},
        "eventMetadata": {"eventId": "r-000003"},
        "eventVersion": "0",
    }
    path.write_text(json.dumps(record) + "\n{}\n")
    report = import_labels(tmp_path / "truth", traffic, kind="sagemaker")
    assert (report.matched, report.undecodable) == (1, 1)
    (written,) = pq.read_table(label_paths(traffic)[0]).to_pylist()
    assert written["ingestion_ts_ns"] == made.START_NS + 28 * HOUR


def test_labels_go_beside_traffic_in_an_object_store(bucket, tmp_path):
    from harness.store.partitions import PartitionedWriter

    with PartitionedWriter(bucket / "t", spool=tmp_path / "spool") as writer:
        writer.write(made.exchange(i) for i in range(3))
    given = source(tmp_path, [row(0), row(9)])
    report = import_labels(given, bucket / "t", state_dir=tmp_path / "state")
    assert (report.matched, report.unmatched) == (1, 1)
    assert TrafficSource.open([bucket / "t"]).summary().labelled == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version: 1\nrequest_id: id\n", "label: is missing"),
        ("version: 1\nrequest_id: id\nlabel: {colum: y}\n", "(?i)did you mean 'column'"),
        ("version: 1\nrequest_id: id\nlabel: {column: y}\nevent_time: {column: e, unit: hours}\n", "unit: is 'hours'"),
        ("version: 1\nlabel: {column: y}\n", "request_id: is missing"),
        ("version: 1\nrequest_id: id\nlabel: {column: y, values: {yes: 1}}\n", "Quote it: 'yes'"),
    ],
)  # fmt: skip
def test_wrong_mappings_say_what_is_right(text, said, tmp_path):
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(UsageError, match=said):
        label_mapping(tmp_path / "m.yaml")


def test_wrong_columns_and_no_traffic_are_usage_errors(tmp_path, traffic):
    with pytest.raises(TrafficError, match="did you mean 'labels'"):
        imported(tmp_path, [{"request_id": "r", "labels": 1}])
    with pytest.raises(TrafficError, match="no such file or folder"):
        import_labels(source(tmp_path, [row(0)]), tmp_path / "none")


def test_a_delay_curve_is_that_of_the_uncensored_delays(tmp_path, traffic):
    imported(tmp_path, [row(i, arrived_h=1 + i) for i in range(10)])
    found = label_delays([traffic], as_of=iso(LATE_NS))
    (curve,) = found.curves
    assert np.allclose(curve.delay_s, 3600 * np.arange(1, 11))
    assert np.allclose(curve.share, np.arange(1, 11) / 10)
    assert dict(curve.quantiles)[0.5] == pytest.approx(5 * 3600)


def test_requests_without_a_label_are_censored_at_as_of(tmp_path, traffic):
    imported(tmp_path, [row(i, arrived_h=2) for i in range(10)])
    # At hour 5 the requests of hours 0 to 3 have their label, those of 4 and 5 are one hour and none old.
    found = label_delays([traffic], as_of=iso(made.START_NS + 5 * HOUR))
    assert (found.requests, found.later, found.curves[0].arrived) == (6, 4, 4)
    assert found.curves[0].share == (1.0,)


def test_groups_are_compared_and_drawn(tmp_path, traffic):
    imported(tmp_path, [row(i, arrived_h=1 + 20 * (i % 2)) for i in range(10)])
    found = label_delays([traffic], as_of=iso(LATE_NS), by="origin", svg=tmp_path / "d.svg")
    assert [c.group for c in found.curves] == ["", "EWR", "JFK"]
    assert found.shift.p_value < 0.01
    drawn = (tmp_path / "d.svg").read_text()
    assert drawn.startswith("<svg")
    assert "JFK (5 of 5)" in drawn
    same = label_delays([traffic], as_of=iso(LATE_NS), split=iso(made.START_NS + 5 * HOUR))
    assert same.shift.p_value > 0.1


def test_unknown_groups_name_the_nearest(tmp_path, traffic):
    with pytest.raises(UsageError, match="did you mean 'origin'"):
        label_delays([traffic], as_of=iso(LATE_NS), by="orign")
    with pytest.raises(TrafficError, match="no request made by"):
        label_delays([traffic], as_of="2000-01-01T00:00:00Z")


def delays(rng, n, shift_s):
    """Seven hours of requests, seen at their end: labels take about an hour, those of the last two are half censored."""
    asked = rng.uniform(0, 7, n) * 3600
    late = asked >= 5 * 3600
    delay = rng.gamma(4, 15 * 60, n) + shift_s * late
    age = 7 * 3600 - asked
    group = np.where(late, "second", "first").astype(object)
    return np.minimum(delay, age), (delay <= age).astype(np.int64), group


def alarms(shift_s, times, n=600):
    shifts = [delay_shift(*delays(np.random.default_rng([7, k]), n, shift_s)) for k in range(times)]
    return sum(s.p_value < 0.05 for s in shifts)


def test_equal_delays_alarm_at_most_at_the_level_though_the_younger_half_is_censored():
    assert binomtest(alarms(0, 200), 200, 0.05, alternative="greater").pvalue > 0.001


def test_a_quarter_of_an_hour_is_found():
    assert binomtest(alarms(15 * 60, 60), 60, 0.9, alternative="less").pvalue > 0.001


def ingestions(rng, n, shift_s):
    """Seven hours of events; labels arrive after twenty minutes or so, those of the last two hours later by shift_s.

    Only what has arrived by the end is seen.
    """
    event = rng.uniform(0, 7, n) * 3600
    late = event >= 5 * 3600
    arrived = event + rng.gamma(4, 5 * 60, n) + shift_s * late
    seen = arrived <= 7 * 3600
    group = np.where(late, "second", "first").astype(object)
    whole = [np.asarray(t[seen] * 1e9, np.int64) for t in (event, arrived)]
    return *whole, group[seen], 7 * 3600 * 10**9


def ingestion_alarms(shift_s, times, n=600):
    found = [ingestion_shift(*ingestions(np.random.default_rng([8, k]), n, shift_s)) for k in range(times)]  # fmt: skip
    return sum(shift.p_value < 0.05 for shift in found)


def test_equal_ways_from_event_to_arrival_alarm_at_most_at_the_level():
    assert binomtest(ingestion_alarms(0, 300), 300, 0.05, alternative="greater").pvalue > 0.001


def test_on_all_that_has_arrived_the_same_test_would_alarm_far_too_often():
    alarms = 0
    for k in range(100):
        event, arrived, _, _ = ingestions(np.random.default_rng([8, k]), 6_000, 0)
        taken = arrived - event
        young = event > 6.5 * 3600e9
        alarms += ks_2samp(taken[young], taken[~young], method="asymp").pvalue < 0.05
    assert alarms > 90


def test_a_quarter_of_an_hour_more_from_event_to_arrival_is_found():
    assert binomtest(ingestion_alarms(15 * 60, 60), 60, 0.9, alternative="less").pvalue > 0.001


def test_of_many_groups_the_one_that_differs_is_named_and_trying_is_paid_for():
    rng = np.random.default_rng(3)
    event = np.arange(4_000) * 10**9
    group = np.array(["a", "b", "c", "d"], object)[np.arange(4_000) % 4]
    taken = rng.gamma(4, 60, 4_000) + 90 * (group == "c")
    arrived = event + np.asarray(taken * 1e9, np.int64)
    found = ingestion_shift(event, arrived, group, 10**13)
    assert (found.groups, found.p_value < 1e-6) == (("c", "the others"), True)
    alarms = 0
    for _ in range(200):
        even = event + np.asarray(rng.gamma(4, 60, 4_000) * 1e9, np.int64)
        alarms += ingestion_shift(event, even, group, 10**13).p_value < 0.05
    assert binomtest(alarms, 200, 0.05, alternative="greater").pvalue > 0.001


def test_labels_without_a_time_of_their_own_say_nothing_of_their_way():
    event = np.arange(100) * 10**9
    group = np.array(["a", "b"], object)[np.arange(100) % 2]
    assert ingestion_shift(event, event, group, 10**13) is None
    assert ingestion_shift(event[:0], event[:0], group[:0], 10**13) is None


def test_the_way_from_event_to_arrival_is_read_from_label_files(tmp_path, traffic):
    imported(
        tmp_path,
        [row(i, arrived_h=12, after_h=6 if i % 2 else 11) for i in range(10)],
    )
    found = label_delays([traffic], as_of=iso(LATE_NS), by="origin")
    assert found.ingestion.groups == ("EWR", "JFK")
    assert found.ingestion.distance == 1.0
    assert found.shift.p_value == 1.0  # every label came twelve hours after its request
    assert "from the label's event to its arrival, EWR (median" in found.to_text()
    assert label_delays([traffic], as_of=iso(LATE_NS)).ingestion is None


def test_a_curve_covers_the_true_share_under_censoring():
    times, hit = 200, 0
    for k in range(times):
        seconds, arrived, _ = delays(np.random.default_rng([9, k]), 300, 0)
        curve = delay_curve(seconds, arrived)
        at = np.searchsorted(curve.delay_s, 3600) - 1
        # The gamma(4) distribution with mean one hour has .5665 below its mean.
        hit += abs(curve.share[at] - 0.56653) <= 1.96 * curve.error[at] + 0.01
    assert binomtest(hit, times, 0.95, alternative="less").pvalue > 0.001


def test_no_arrived_label_gives_a_curve_of_nothing():
    curve = delay_curve(np.ones(3), np.zeros(3, np.int64))
    assert (curve.arrived, curve.share, dict(curve.quantiles)[0.5]) == (0, (), None)
    assert delay_shift(np.ones(3), np.zeros(3, np.int64), np.array(["a", "b", "b"], object)) is None


def test_a_killed_import_of_labels_goes_on(tmp_path, traffic, monkeypatch):
    from harness.record.label_staging import LabelStaging

    monkeypatch.setattr(LabelStaging, "end_file", partial(_dies))
    with pytest.raises(KeyboardInterrupt):
        imported(tmp_path, [row(i) for i in range(4)])
    monkeypatch.undo()
    assert imported(tmp_path, [row(i) for i in range(4)]).labels == 4
    assert read_labels(label_paths(traffic), None).read == 4


def _dies(*_):
    raise KeyboardInterrupt

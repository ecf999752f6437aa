"""The mirror's parts in this process: sampling and drops, comparison, values, room for disagreements."""

import json
from dataclasses import replace

import numpy as np
import pytest

from harness.core.calls import Call
from harness.core.errors import UsageError
from harness.core.jsonable import jsonable
from harness.core.recording import Redact, Redacted, RedactionRule
from harness.core.verdicts import Decision
from harness.decide.policy import live_from_yaml
from harness.live.diffing import LiveDiff, Mirrored
from harness.live.disagreements import Disagreements
from harness.live.layouts import Answered
from harness.live.mirror_judge import MirrorJudge, MirrorReport
from harness.live.mirror_process import write_report
from harness.live.paired_values import paired_values
from harness.live.shadow import Mirror
from harness.live.shadow_result import NOT_MIRRORED, Before, ShadowResult
from harness.record.outcomes import PROXY_ENDED
from harness.record.redaction import Redaction
from harness.record.sampling import Sampler
from harness.store.traffic import TrafficSource
from harness.wire import MODEL_INFER
from harness.wire.gen import open_inference_pb2
from harness.wire.messages import (
    request_bytes,
    response_bytes,
    tensors_from_request,
    tensors_from_response,
)

POLICY = """
version: 1
decision: {output: p, rule: threshold, value: 0.5}
live:
  unit: x-user
  guardrails:
    - {name: score, metric: score_shift, kind: paired, margin: 0.05}
    - {name: rate, metric: decision_rate_shift, kind: paired, margin: 0.05}
    - {name: flip, metric: decision_flip, kind: paired, margin: 0.05}
    - {name: same, metric: parity_mismatch, kind: paired, margin: 0.1}
    - {name: failed, metric: failure, kind: paired, margin: 0.05}
    - {name: nan, metric: nan_rate, kind: paired, margin: 0.05}
"""
LIVE = live_from_yaml(POLICY, "p")
PLAIN = Redaction((), b"")


def answer(*scores, name="p"):
    return response_bytes("m", "1", {name: np.array(scores, np.float32)[:, None]}, "")


def call(i=0, response=b"", code=0, method=MODEL_INFER):
    request = request_bytes("m", {"x": np.ones((1, 2), np.float32)}, f"r{i}")
    return Call(
        ts_ns=10**18 + i, latency_ns=1_000_000, method=method, code=code, details="", request=request,
        response=response, metadata=(("x-user", f"u{i}"),), trailing=(), upstream="baseline",
    )  # fmt: skip


def mirrored(pairs):
    """(baseline's answer or None, candidate's answer or None) each."""
    return [
        Mirrored(
            call(i, old or b"", 0 if old is not None else 13),
            Answered(new or b"", 0 if new is not None else 13, 0.001),
        )
        for i, (old, new) in enumerate(pairs)
    ]


PAIRS = [
    (answer(0.4), answer(0.4)),
    (answer(0.4), answer(0.6)),
    (answer(0.4), None),
    (None, answer(0.4)),
    (None, None),
    (answer(0.4), answer(0.4, 0.4)),
    (answer(0.4), answer(np.nan)),
]


def test_live_answers_are_compared_as_a_comparison_compares_them():
    diff = LiveDiff()
    found = diff.update(mirrored(PAIRS))
    assert found.mismatch.tolist() == [False, True, False, False, False, False, True]
    assert found.disagrees().tolist() == [False, True, True, True, False, True, True]
    assert (diff.candidate_failed, diff.baseline_failed, diff.both_failed) == (2, 1, 1)
    report = diff.finish()
    assert (report.requests, report.mismatched_requests) == (3, 2)


def test_rounding_is_no_difference_and_more_is():
    diff = LiveDiff()
    pairs = [(answer(s), answer(np.float32(s * (1 + 1e-8)))) for s in np.linspace(0.1, 0.9, 50)]
    assert not diff.update(mirrored(pairs)).mismatch.any()
    assert diff.update(mirrored([(answer(0.4), answer(0.4001))])).mismatch.all()


def test_values_are_candidate_minus_baseline_and_what_failed_is_nan():
    values, enter, unfit = paired_values(LIVE, LiveDiff().update(mirrored(PAIRS)), {})
    assert (enter.tolist(), unfit) == ([True] * 4 + [False, True, True], {})
    nan = np.nan
    expected = {
        "score": [0.0, 0.2, nan, nan, nan, nan, nan],
        "rate": [0.0, 1.0, nan, nan, nan, nan, nan],
        "flip": [0.0, 1.0, nan, nan, nan, nan, nan],
        "same": [0.0, 1.0, nan, 1.0, nan, nan, 1.0],
        "failed": [0.0, 0.0, 1.0, -1.0, 0.0, 1.0, 0.0],
        "nan": [0.0, 0.0, nan, nan, nan, nan, 1.0],
    }
    for name, column in expected.items():
        np.testing.assert_allclose(values[name], column, atol=1e-6, err_msg=name)


def test_a_score_outside_of_0_and_1_is_nan_of_the_version_that_gives_it():
    pairs = [(answer(0.4), answer(-0.4)), (answer(1.7), answer(0.4)), (answer(1.7), answer(1.7))]
    values, enter, _ = paired_values(LIVE, LiveDiff().update(mirrored(pairs)), {})
    assert (enter.all(), values["nan"].tolist()) == (True, [1.0, -1.0, 0.0])
    assert np.isnan(values["score"]).all()


def test_what_was_not_compared_is_no_parity():
    found = LiveDiff().update(mirrored([(answer(0.4), answer(0.4))] * 3))
    blind = replace(
        found, compared=np.array([True, False, False]), mismatch=np.array([False, False, True])
    )
    values, _, _ = paired_values(LIVE, blind, {})
    assert values["same"].tolist() == [0.0, 1.0, 1.0]


def test_outputs_under_another_name_are_failures_of_the_candidate():
    diff = LiveDiff()
    found = diff.update(mirrored([(answer(0.4), answer(0.4, name="q"))] * 3))
    assert "p FP32[?, 1] is missing from the candidate" in diff.unlike
    assert found.disagrees().all()
    values, _, _ = paired_values(LIVE, found, {})
    assert values["failed"].tolist() == [1.0] * 3
    assert np.isnan(values["same"]).all()


def test_every_layout_is_compared_with_its_own():
    diff = LiveDiff()
    two = response_bytes("m", "1", {n: np.array([[0.4]], np.float32) for n in ("p", "q")}, "")
    worse = response_bytes("m", "1", {n: np.array([[0.9]], np.float32) for n in ("p", "q")}, "")
    pairs = [(answer(0.4), answer(0.4)), (two, two), (two, worse), (two, None), (two, answer(0.4))]
    found = diff.update(mirrored(pairs))
    assert found.disagrees().tolist() == [False, False, True, True, True]
    assert (diff.candidate_failed, diff.left_out, diff.finish().requests) == (2, 0, 3)
    values, _, _ = paired_values(LIVE, found, {})
    np.testing.assert_allclose(values["score"], [0, 0, 0.5, np.nan, np.nan], atol=1e-6)
    assert values["failed"].tolist() == [0, 0, 0, 1, 1]


def test_a_form_that_is_not_compared_is_left_out_and_no_failure():
    diff = LiveDiff()
    plain = response_bytes("m", "1", {"p": np.float32(0.4)}, "")
    found = diff.update(mirrored([(plain, plain), (answer(0.4), answer(0.4))]))
    assert (diff.left_out, found.left_out.tolist()) == (1, [True, False])
    values, _, _ = paired_values(LIVE, found, {})
    assert np.isnan(values["same"]).tolist() == [True, False]
    assert values["failed"].tolist() == [0, 0]


class Full:
    """An outbox that takes a few entries."""

    broken = False

    def __init__(self, most):
        self._left = most

    def put(self, _):
        self._left -= 1
        return self._left >= 0


def test_the_tap_counts_whatever_it_does_not_mirror():
    mirror = Mirror(Sampler(1.0, 0), 1_000, b"m", Full(3))
    for i in range(5):
        mirror.offer(call(i))
    mirror.offer(call(5, response=b"x" * 2_000))
    mirror.offer(call(6, method="/inference.GRPCInferenceService/ServerLive"))
    mirror.offer(replace(call(7), code=1, cancelled=True))
    mirror.offer(replace(call(8), code=PROXY_ENDED[0], details=PROXY_ENDED[1]))
    other = request_bytes("n", {"x": np.ones((1, 2), np.float32)}, "8")
    mirror.offer(replace(call(8), request=other))
    mirror.outbox.broken = True
    mirror.offer(call(7))
    assert mirror.mirrored == 3
    assert mirror.not_mirrored == {
        "sampled_out": 0, "queue_full": 2, "too_large": 1, "mirror_gone": 1, "other_calls": 1,
        "other_models": 1, "client_gone": 2,
    }  # fmt: skip


def test_the_sample_is_seeded():
    found = []
    for seed in (5, 5, 6):
        mirror = Mirror(Sampler(0.3, seed), 1_000, outbox=Full(10_000))
        kept = []
        for i in range(300):
            before = mirror.mirrored
            mirror.offer(call(i))
            kept.append(mirror.mirrored - before)
        found.append(kept)
    assert found[0] == found[1] != found[2]
    assert 60 <= sum(found[0]) <= 120


def test_room_for_disagreements_is_bounded_over_restarts(tmp_path):
    rows = mirrored([(answer(0.4), answer(0.6))] * 100)
    kept = Disagreements(tmp_path, 30_000, PLAIN)
    kept.add(rows)
    kept.publish()
    assert 0 < kept.kept < 30
    assert kept.kept + kept.not_kept == 100
    again = Disagreements(
        tmp_path, sum(f.stat().st_size for f in tmp_path.rglob("*.parquet")), PLAIN
    )
    again.add(rows[:1])
    assert (again.kept, again.not_kept) == (0, 1)


RULES = (
    RedactionRule(where=Redacted.INPUT, name="x", action=Redact.ROUND, step=10.0),
    RedactionRule(where=Redacted.OUTPUT, name="p", action=Redact.ROUND, step=0.5),
    RedactionRule(where=Redacted.METADATA, name="x-user", action=Redact.HASH),
)


def test_disagreements_are_redacted_before_they_are_written_and_credentials_never_are(tmp_path):
    kept = Disagreements(tmp_path, 1 << 20, Redaction(RULES, b"k" * 32))
    (one,) = mirrored([(answer(0.4), answer(0.6))])
    secret = (("x-user", "anna"), ("authorization", "Bearer t0ken"), ("x-kept", "yes"))
    kept.add([replace(one, call=replace(one.call, metadata=secret))])
    noise = replace(one, candidate=Answered(b"noise\xff", 0, 0.1))
    kept.add([noise])  # a rule cannot be applied to it
    kept.publish()
    assert (kept.kept, kept.not_kept) == (1, 1)
    for arm, score in (("baseline", 0.5), ("candidate", 0.5)):
        (found,) = TrafficSource.open([tmp_path / "disagreements" / arm]).exchanges()
        assert tensors_from_response(found.response)["p"].tolist() == [[score]]
        assert tensors_from_request(found.request)["x"].tolist() == [[0.0, 0.0]]
        assert set(found.metadata) == {"x-user", "x-kept"}
        assert "anna" not in found.metadata["x-user"]
    content = b"".join(f.read_bytes() for f in tmp_path.rglob("*.parquet"))
    assert b"t0ken" not in content


def start(tmp_path, text, **changes):
    policy = None if text is None else tmp_path / "policy.yaml"
    if policy:
        policy.write_text(text)
    options = {
        "seed": "0",
        "baseline": "b",
        "candidate": "c",
        "keep_bytes": 1000,
        "deadline_s": 1.0,
        "redaction": PLAIN,
    }
    return MirrorJudge.start(tmp_path / "out", policy, **{**options, **changes})


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("kind: paired", "kind: shift", "shift"),
        ("  unit:", "  steps: [0.5]\n  unit:", "steps"),
        ("score_shift", "latency", "not measured on shadow"),
        ("  unit:", "  on_failure: baseline\n  unit:", "there are no steps"),
    ],
)
def test_a_policy_that_a_shadow_cannot_judge_is_refused(tmp_path, old, new, says):
    with pytest.raises(UsageError, match=says):
        start(tmp_path, POLICY.replace(old, new, 1))


def test_a_restart_with_another_candidate_is_refused_and_with_the_same_goes_on(tmp_path):
    first = start(tmp_path, POLICY)
    for i in range(30):
        seq = first.arrived(call(i))
        first.turn([(seq, Mirrored(call(i, answer(0.4)), Answered(answer(0.4), 0, 0.001)))])
    assert first.close().standing.n_closed == 30
    with pytest.raises(UsageError, match="another candidate"):
        start(tmp_path, POLICY, candidate="d")
    again = start(tmp_path, POLICY)
    seq = again.arrived(call(400))
    again.turn([(seq, Mirrored(call(400, answer(0.4)), Answered(answer(0.4), 0, 0.001)))])
    assert again.close().standing.n_closed == 31


def test_requests_that_name_no_unit_are_compared_and_not_judged(tmp_path):
    judge = start(tmp_path, POLICY.replace("x-user", "x-other"))
    for i in range(5):
        assert judge.arrived(call(i)) is None
        judge.turn([(None, Mirrored(call(i, answer(0.4)), Answered(answer(0.6), 0, 0.001)))])
    report = judge.close()
    assert (report.compared, report.differ, report.standing.n_requests) == (5, 5, 0)
    assert dict(report.standing.counts) == {"without_unit": 5}


def test_a_request_that_neither_answers_enters_nothing(tmp_path):
    judge = start(tmp_path, POLICY)
    for i, (old, new) in enumerate([(0, 0), (13, 13), (0, 0)]):
        seq = judge.arrived(call(i))
        given = answer(0.4) if not old else b""
        judge.turn([(seq, Mirrored(call(i, given, old), Answered(given, new, 0.001)))])
    report = judge.close()
    assert (report.both_failed, report.standing.n_requests) == (1, 2)
    assert dict(report.standing.counts) == {"neither_answered": 1}


def test_clients_of_other_outputs_are_compared_and_enter_only_what_they_asked_for(tmp_path):
    judge = start(tmp_path, POLICY)
    message = open_inference_pb2.ModelInferRequest(model_name="m")
    message.outputs.add(name="q")
    for i in range(30):
        asked = call(i, answer(0.4, name="q"))
        asked = replace(asked, request=message.SerializeToString())
        seq = judge.arrived(asked)
        judge.turn([(seq, Mirrored(asked, Answered(answer(0.4, name="q"), 0, 0.001)))])
    report = judge.close()
    assert (report.compared, report.differ) == (30, 0)
    assert "30 requests asked for other outputs" in "; ".join(decision(tmp_path))
    found = json.loads((tmp_path / "out" / "evidence.json").read_text())["evidence"]
    assert {row["name"]: row["n"] for row in found} == {
        "score": 0, "rate": 0, "flip": 0, "same": 30, "failed": 30, "nan": 30,
    }  # fmt: skip


def decision(tmp_path):
    return json.loads((tmp_path / "out" / "decision.json").read_text())["not_compared"]


REPORT = {
    "compared": 5, "differ": 0, "candidate_failed": 0, "baseline_failed": 0, "both_failed": 0, "left_out": 0,
    "disagreements_kept": 0, "disagreements_not_kept": 0, "outputs": [], "not_compared": [],
    "standing": None, "failed": "", "not_asked": 0, "whole": True, "taken": 5,
    "taken_before": 0, "disagreements_before": False, "outputs_before": [], "version_changes": [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "code", "word"),
    [
        ({}, 0, "EQUAL"),
        ({"differ": 1}, 1, "DIFFERENT"),
        ({"baseline_failed": 1}, 1, "DIFFERENT"),
        ({"compared": 0}, 2, "NOTHING COMPARED"),
        ({"left_out": 1}, 2, "TOO LITTLE COMPARED"),
        ({"failed": "no room"}, 4, "BROKEN: no room"),
        (
            {"whole": False},
            4,
            "BROKEN: the mirror's process ended by itself; production was served all the time",
        ),
        ({"standing": {"decision": "HOLD", "explanation": "x"}}, 3, "HOLD: x"),
        ({"standing": {"decision": "ROLLBACK", "explanation": "x"}, "differ": 3}, 1, "ROLLBACK: x"),
    ],
)
def test_the_exit_code_says_what_the_first_line_says(changes, code, word):
    counts = dict.fromkeys(NOT_MIRRORED, 0)
    result = ShadowResult(mirrored=5, not_mirrored=counts, report={**REPORT, **changes})
    assert (result.exit_code, result.to_text().splitlines()[0]) == (code, word)
    broken = ShadowResult(mirrored=5, not_mirrored=counts, report={})
    assert broken.exit_code == 4


def served(i=0, version="1", score=0.4, request_id="", model="m"):
    """Both answers to a request, the candidate's as told."""
    new = response_bytes(model, version, {"p": np.array([[score]], np.float32)}, request_id)
    return Mirrored(call(i, answer(0.4)), Answered(new, 0, 0.001))


def fed(tmp_path, pairs, text=None, **changes):
    """One start of a shadow: its report as its process leaves it."""
    judge = start(tmp_path, text, **{"keep_bytes": 1 << 20, **changes})
    for pair in pairs:
        judge.turn([(judge.arrived(pair.call), pair)])
    report = judge.close()
    write_report(str(tmp_path / "out"), report)
    return report


def result(report, **changes):
    counts = dict.fromkeys(NOT_MIRRORED, 0)
    return ShadowResult(mirrored=9, not_mirrored=counts, report=jsonable(report), **changes)


def test_a_later_start_goes_on_from_what_an_earlier_one_saw(tmp_path):
    first = fed(tmp_path, [served(i, score=0.9) for i in range(4)])
    assert (first.compared, first.differ) == (4, 4)
    again = fed(tmp_path, [served(i) for i in range(10, 13)])
    assert (again.taken, again.taken_before, again.compared, again.differ) == (7, 4, 7, 4)
    assert again.disagreements_kept == 4
    assert result(again).to_text().startswith("DIFFERENT")
    assert "in an earlier start" in result(again).to_text()


def test_nothing_is_equal_over_a_folder_that_holds_disagreements_whatever_was_written(tmp_path):
    fed(tmp_path, [served(i, score=0.9) for i in range(4)])
    (tmp_path / "out" / "mirror.json").write_text("{")
    again = fed(tmp_path, [served(i) for i in range(10, 13)])
    assert (again.compared, again.differ, result(again).exit_code) == (3, 0, 1)


def test_nothing_is_equal_where_an_earlier_start_left_no_account(tmp_path):
    report = fed(tmp_path, [served()])
    assert result(report).exit_code == 0
    found = result(report, cut=1)
    assert (found.exit_code, found.to_text().splitlines()[0]) == (2, "TOO LITTLE COMPARED")
    assert "1 earlier starts" in found.to_text()
    assert result(report, lost=1).exit_code == 2


@pytest.mark.parametrize(
    ("written", "cut"),
    [
        (None, 1),
        ("{", 1),
        ({"exit_code": 0}, 0),
        ({"exit_code": 4}, 1),
        ({"exit_code": 1, "cut": 2}, 2),
    ],
)
def test_the_account_of_the_start_before_is_whole_or_counted_as_cut(tmp_path, written, cut):
    path = tmp_path / "shadow.json"
    if written is not None:
        whole = json.loads(result(MirrorReport()).to_json()) | {"lost": 3}
        text = written if isinstance(written, str) else json.dumps(whole | written)
        path.write_text(text)
    found = Before.read(path)
    assert found.cut == cut
    assert (found.mirrored, found.lost) == ((0, 0) if not isinstance(written, dict) else (9, 3))


def test_starts_that_leave_no_last_word_are_all_counted_and_what_was_known_stays_so(tmp_path):
    path = tmp_path / "shadow.json"
    path.write_text(result(MirrorReport(whole=True, taken=7), lost=3).to_json())
    for cut in range(3):
        found = Before.read(path)
        assert (found.cut, found.mirrored, found.lost, found.taken) == (cut, 9, 3, 7)
        found.begin(path)
        assert not path.exists()
    path.write_text("{")
    assert Before.read(path).cut == 3


def test_an_account_that_the_mirror_no_longer_has_in_full_is_counted_as_cut(tmp_path):
    path = tmp_path / "shadow.json"
    path.write_text(result(MirrorReport(whole=True, taken=7), cut=1).to_json())
    found = Before.read(path)
    assert [found.cut_with(known) for known in (0, 6, 7, 9)] == [2, 2, 1, 1]


@pytest.mark.parametrize("restart", [False, True])
def test_two_versions_are_never_equal_without_a_word(tmp_path, restart):
    pairs = [served(i) for i in range(3)], [served(i, version="2") for i in range(3, 6)]
    if restart:
        fed(tmp_path, pairs[0])
        report = fed(tmp_path, pairs[1])
    else:
        report = fed(tmp_path, [*pairs[0], *pairs[1]])
    assert report.version_changes == ("the candidate was 1 and is 2 for model m",)
    found = result(report)
    assert (found.exit_code, found.to_text().splitlines()[0]) == (
        2, "TWO VERSIONS COMPARED: the candidate was 1 and is 2 for model m",
    )  # fmt: skip
    assert "a version was changed meanwhile" in "; ".join(decision(tmp_path))


def test_a_promotion_is_taken_back_when_another_version_answers(tmp_path):
    easy = POLICY.replace("margin: 0.05}", "margin: 0.9}").replace("margin: 0.1}", "margin: 0.9}")
    pairs = [served(i) for i in range(300)]
    assert fed(tmp_path, pairs, easy).standing.decision is Decision.PROMOTE
    report = fed(tmp_path, [served(400, version="2")], easy)
    assert (report.standing.decision, report.standing.reason) == (Decision.HOLD, "version_changed")
    assert "traffic" not in report.standing.explanation
    assert "Start a new shadow" in report.standing.explanation
    kept = json.loads((tmp_path / "out" / "decision.json").read_text())
    assert (kept["decision"], kept["reason"]) == ("HOLD", "version_changed")


def test_versions_that_were_asked_for_are_no_change(tmp_path):
    pairs = []
    for i, version in enumerate(["", "2", "", "2"]):
        message = open_inference_pb2.ModelInferRequest(model_name="m", model_version=version)
        one = served(i, version=version or "1")
        asked = replace(one.call, request=message.SerializeToString())
        pairs.append(replace(one, call=asked))
    report = fed(tmp_path, pairs)
    assert (report.version_changes, result(report).exit_code) == ((), 0)


def test_an_answer_that_names_no_version_is_said_so(tmp_path):
    report = fed(tmp_path, [served(version="")])
    assert "1 answers name no version" in "; ".join(report.not_compared)


@pytest.mark.parametrize("wrong", [{"request_id": "another"}, {"model": "other"}])
def test_an_answer_under_another_name_is_a_disagreement(tmp_path, wrong):
    report = fed(tmp_path, [served(0), served(1, **wrong)])
    assert (report.compared, report.candidate_failed, result(report).exit_code) == (1, 1, 1)
    assert "another id or model name" in "; ".join(report.not_compared)


@pytest.mark.parametrize("changes", [{"model": "m"}, {"sample": 0.5}, {"deadline_s": 3.0}])
def test_a_restart_that_mirrors_otherwise_is_refused(tmp_path, changes):
    start(tmp_path, None).close()
    with pytest.raises(UsageError, match=f"another {next(iter(changes)).removesuffix('_s')}"):
        start(tmp_path, None, **changes)

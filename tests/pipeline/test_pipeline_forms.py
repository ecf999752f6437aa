"""Requests that are answered in different shapes are compared one by one with the other version's answers."""

import json

import numpy as np
import pytest
from gates import REFACTOR, tiny_traffic
from onnx import helper, parser, save_model

from harness.core.errors import PolicyError
from harness.core.observations import Observations, Outcome, PairBatch
from harness.core.traffic import RequestBatch
from harness.core.verdicts import Decision
from harness.diff.probes import ProbeGuard
from harness.pipeline import judgement
from harness.pipeline.candidate_failures import CandidateFailures
from harness.pipeline.compare import compare_models
from harness.pipeline.gate import run_gate
from harness.replay.composition import joined
from harness.replay.forms import in_forms

MODEL = """
<ir_version: 8, opset_import: ["" : 15]>
m (float[N] x) => (float[N, M] probability, int64[N] label) {{
  doubled = Add(x, x)
  one = Constant<value = int64[1] {{1}}>()
  zero = Constant<value = float {{0.0}}>()
  above = Greater(x, zero)
  above_n = Cast<to = 7>(above)
  any = ReduceMax<keepdims = 0>(above_n)
  {width}
  length = Shape(x)
  shape = Concat<axis = 0>(length, width)
  rows = Cast<to = 1>(length)
  much = Constant<value = float {{{rounding}}}>()
  ratio = Mul(rows, much)
  little = Mul(x, ratio)
  moved = Add(x, little)
  right = Sigmoid(moved)
  unit = Constant<value = float {{1.0}}>()
  wrong = Sub(unit, right)
  given = Where(above, {above}, right)
  column = Unsqueeze(given, one)
  probability = Expand(column, shape)
  half = Constant<value = float {{0.5}}>()
  yes = GreaterOrEqual(right, half)
  label = Cast<to = 7>(yes)
}}
"""
BY_VALUE = "width = Add(one, any)"
"""Two columns as soon as any row of the batch is above zero, else one."""
ALWAYS_TWO = "width = Add(one, one)"
FLIPS = {
    "preset": "none",
    "decision": {"output": "probability", "rule": "threshold", "value": 0.5},
    "sandbox": {"require": "S0"},
    "graph": {"when": "never"},
}


def made(path, *, width=BY_VALUE, above="right", cutoff="2020-01-01T00:00:00Z", rounding="0.0"):
    text = MODEL.format(width=width, above=above, rounding=rounding)
    model = parser.parse_model(text)
    helper.set_model_props(
        model, {"harness.features": '["doubled"]', "harness.training_cutoff": cutoff}
    )
    save_model(model, str(path))
    return path


def gated(tmp_path, metric="decision_flip", positive=-1, old_width=BY_VALUE, **changes):
    both = {"rounding": changes["rounding"]} if "rounding" in changes else {}
    old = made(tmp_path / "old.onnx", width=old_width, cutoff="2019-12-31T00:00:00Z", **both)
    new = made(tmp_path / "new.onnx", **changes)
    values = np.random.default_rng(3).uniform(-2.8, 2.8, 600)
    guardrails = [{"name": "flips", "metric": metric, "margin": 0.05}]
    policy = tmp_path / "policy.yaml"
    decision = {**FLIPS["decision"], "positive": positive}
    asked = {**REFACTOR, **FLIPS, "decision": decision, "guardrails": guardrails}
    policy.write_text(json.dumps(asked))
    return run_gate(
        str(old), str(new), traffic=[tiny_traffic(tmp_path / "traffic", values=values)],
        policy=policy, out=tmp_path / "run", cache_dir=tmp_path / "cache", state_dir=tmp_path / "state",
    )  # fmt: skip


def test_a_candidate_wrong_in_the_requests_of_one_shape_is_rolled_back(tmp_path):
    result = gated(tmp_path, above="wrong")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["composition"] == "recorded"
    assert result.decision is Decision.ROLLBACK
    (found,) = result.evidence
    assert found.n >= 256
    assert "baseline_fails" not in {f.kind for f in result.findings}


@pytest.mark.parametrize("metric", ["decision_flip", "excess_flip"])
def test_sound_twins_of_several_shapes_lose_no_evidence(tmp_path, metric):
    result = gated(tmp_path, metric)
    assert result.decision is Decision.PROMOTE
    assert not {"baseline_fails", "output_changed"} & {f.kind for f in result.findings}


def test_one_column_is_the_second_of_two(tmp_path):
    """Of a binary probability: some requests are answered in one column, and some in two."""
    assert gated(tmp_path, positive=1).decision is Decision.PROMOTE


def test_requests_that_lack_the_policys_column_prove_nothing(tmp_path, monkeypatch):
    """Batches are answered in two columns, and some requests by themselves in one."""
    monkeypatch.setitem(FLIPS, "decision", {"output": "probability", "rule": "argmax"})
    result = gated(tmp_path, positive=1)
    assert result.decision is not Decision.PROMOTE
    assert "baseline_fails" not in {f.kind for f in result.findings}


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("positive", 2, "column 2 is outside output 'probability' with 2 columns"),
        ("output", "probabilty", "the baseline has no output 'probabilty'"),
    ],
)
def test_a_decision_about_what_is_not_there_is_refused_before_the_replay(
    tmp_path, monkeypatch, key, value, what
):
    def replayed(*_, **__):
        pytest.fail("it was replayed")

    monkeypatch.setattr(judgement, "replay", replayed)
    monkeypatch.setitem(FLIPS, "decision", {**FLIPS["decision"], key: value})
    positive = {"positive": value} if key == "positive" else {}
    with pytest.raises(PolicyError, match=what):
        gated(tmp_path, "excess_flip", old_width=ALWAYS_TWO, width=ALWAYS_TWO, **positive)


def test_sound_twins_whose_last_digits_follow_the_batch_failed_nowhere(tmp_path):
    """The floor runs the baseline's requests by themselves, too: that is no answer to their batch."""
    result = gated(tmp_path, rounding="1e-9")
    assert result.decision is Decision.PROMOTE
    assert "candidate_flaky" not in {f.kind for f in result.findings}


def test_another_shape_than_the_baselines_for_the_same_request_is_the_candidates(tmp_path):
    result = gated(tmp_path, width=ALWAYS_TWO)
    assert (result.decision, result.record.reason) == (Decision.HOLD, "output_shape_changed")
    told = [f.what for f in result.findings if f.kind == "output_changed"]
    assert any("the shape (rows, 1) became (rows, 2)" in what for what in told)
    assert "baseline_fails" not in {f.kind for f in result.findings}


def asked(rows):
    n, total = len(rows), sum(rows)
    return RequestBatch(
        seq=np.arange(n), request_id=np.array([f"r{i}" for i in range(n)], object),
        ts_ns=np.zeros(n, np.int64), rows=np.array(rows, np.int64),
        inputs={"x": np.arange(total, dtype=np.float32)}, recorded={},
        answered=np.zeros(n, np.bool_), context={},
    )  # fmt: skip


def answers(rows, widths, *, failed=(), nan=()):
    """Answers to requests one by one: request i in widths[i] columns that hold its number."""
    return joined(
        [
            Observations(
                outcome=np.array([Outcome.ERROR if i in failed else Outcome.OK], np.int8),
                outputs={"y": np.full((k, width), np.nan if i in nan else i, np.float32)},
                features={"f": np.full(k, i, np.float32)}, trace_outputs={}, latency_s=np.zeros(1),
            )
            for i, (k, width) in enumerate(zip(rows, widths, strict=True))
        ]
    )  # fmt: skip


def parts_of(rows, baseline, candidate):
    pair = PairBatch(requests=asked(rows), baseline=baseline, candidate=candidate)
    return in_forms(pair)


def test_every_request_is_in_one_part_with_its_own_answer():
    rows, widths = [1, 2, 1, 3, 1], [1, 2, 1, 2, 3]
    parts = parts_of(rows, answers(rows, widths), answers(rows, widths))
    assert sorted(i for at, _, _ in parts for i in at.tolist()) == [0, 1, 2, 3, 4]
    assert [at.tolist() for at, _, _ in parts] == [[0, 2], [1, 3], [4]]
    for at, part, _ in parts:
        numbers = np.repeat(at, np.array(rows)[at])
        for side in (part.baseline, part.candidate):
            assert not side.forms
            assert side.outputs["y"].shape == (len(numbers), widths[at[0]])
            assert (side.outputs["y"] == numbers[:, None]).all()
            assert (side.features["f"] == numbers).all()


def test_answers_of_one_shape_are_one_batch():
    rows = [1, 1]
    ((at, part, _),) = parts_of(rows, answers(rows, [2, 2]), answers(rows, [3, 3]))
    assert at.tolist() == [0, 1]
    assert part.candidate.outputs["y"].shape == (2, 3)


def test_what_comes_first_excuses_no_other_answer():
    rows = [1, 1, 1]
    for widths in ([1, 2, 2], [2, 2, 1]):
        found = joined([answers(rows, widths)])
        assert found.outcome.tolist() == [Outcome.OK] * 3


def test_a_request_without_rows_or_answer_has_no_shape_of_its_own():
    rows = [1, 0, 1, 1]
    parts = parts_of(rows, answers(rows, [1, 5, 2, 2]), answers(rows, [1, 7, 2, 9], failed=[3]))
    assert [at.tolist() for at, _, _ in parts] == [[0, 1], [2], [3]]
    assert parts[2][1].candidate.outcome.tolist() == [Outcome.ERROR]


def test_an_answer_of_another_shape_is_held_against_the_baselines():
    rows = [1, 1, 1]
    parts = parts_of(rows, answers(rows, [1, 2, 2]), answers(rows, [1, 2, 1]))
    shapes = {
        tuple(at.tolist()): (p.baseline.outputs["y"].shape[1], p.candidate.outputs["y"].shape[1])
        for at, p, _ in parts
    }
    assert shapes == {(0,): (1, 1), (1,): (2, 2), (2,): (2, 1)}


def test_a_nan_among_several_shapes_is_the_candidates_failure():
    rows, widths = [1, 1, 1], [1, 2, 2]
    failures = CandidateFailures()
    failures.update(
        PairBatch(
            requests=asked(rows), baseline=answers(rows, widths),
            candidate=answers(rows, widths, nan=[2]),
        )
    )  # fmt: skip
    assert (failures.kinds, failures.ids) == ({"NAN": 1}, ["r2"])


def test_a_guard_says_that_answers_of_several_shapes_were_not_compared(tmp_path):
    old = made(tmp_path / "old.onnx", cutoff="2019-12-31T00:00:00Z")
    new = made(tmp_path / "new.onnx")
    values = np.random.default_rng(3).uniform(-2.8, 2.8, 40)
    traffic = tiny_traffic(tmp_path / "traffic", values=values)
    found = compare_models(str(old), str(new), inputs=[traffic], cache_dir=tmp_path / "cache")
    assert found.equal
    assert "observer_effect" not in {f.kind for f in found.findings}
    assert any(
        "of 40 requests that the baseline answered in several shapes" in t
        for t in found.not_compared
    )


def test_a_guard_compares_the_outputs_beside_one_of_several_shapes():
    rows, widths = [1, 1, 1], [1, 2, 2]
    seen = answers(rows, widths)
    seen.outputs["z"], seen.trace_outputs["z"] = np.ones(3), np.array([1.0, 2.0, 1.0])
    guard = ProbeGuard()
    guard.update(PairBatch(requests=asked(rows), baseline=seen, candidate=seen))
    side = guard.sides["candidate"]
    assert (side.both, side.differing, side.left, side.examples) == (3, 1, 3, ["r1"])
    assert ProbeGuard.from_state(guard.state()).sides == guard.sides

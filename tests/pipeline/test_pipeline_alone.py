"""What requests get alone is held against their batch one by one, and what shows nothing is replayed as recorded."""

import json
from dataclasses import replace

import numpy as np
import pytest
from gates import REFACTOR, tiny_model, tiny_traffic
from onnx import helper, parser, save_model

from harness.core.observations import Observations, Outcome, PairBatch
from harness.core.policies import Guardrail, Metric, SandboxPolicy
from harness.core.traffic import RequestBatch
from harness.core.verdicts import Decision
from harness.decide.policy import policy_from_yaml
from harness.pipeline.alone import run_alone
from harness.pipeline.batch_mates import share_within_margins
from harness.pipeline.candidate_failures import CandidateFailures
from harness.pipeline.company import Company, company
from harness.pipeline.gate import run_gate
from harness.pipeline.opening import LegRecipe, open_legs
from harness.replay.composition import joined
from harness.replay.order import Batch

MODEL = """
<ir_version: 8, opset_import: ["" : 15]>
m (float[N] x) => ({answers}, int64[N] label) {{
  doubled = Add(x, x)
  length = Shape(x)
  one = Constant<value = int64[1] {{1}}>()
  none = Constant<value = int64[1] {{0}}>()
  single = Equal(length, one)
  bare = Equal(length, none)
  {body}
  half = Constant<value = float {{0.5}}>()
  score = Sigmoid(x)
  yes = GreaterOrEqual(score, half)
  label = Cast<to = 7>(yes)
}}
"""
FLAT, WIDE = "float[N] probability", "float[N, M] probability"
OPPOSITE = """
  asked = Cast<to = 1>({when})
  minus = Constant<value = float {{-2.0}}>()
  doubly = Mul(asked, minus)
  unit = Constant<value = float {{1.0}}>()
  factor = Add(doubly, unit)
  turned = Mul(x, factor)
"""
OF_ANOTHER_SHAPE = (
    OPPOSITE
    + """
  zero = Constant<value = float {{0.0}}>()
  above = Greater(x, zero)
  above_n = Cast<to = 7>(above)
  any = ReduceMax<keepdims = 0>(above_n)
  single_n = Cast<to = 7>({when})
  more = Mul(any, single_n)
  width = Add(one, more)
  shape = Concat<axis = 0>(length, width)
  flat = Sigmoid(turned)
  column = Unsqueeze(flat, one)
  probability = Expand(column, shape)
"""
)
BY_CHANCE = (
    OPPOSITE
    + """
  drawn = RandomUniformLike<dtype = 1>(x)
  much = Constant<value = float {{{much}}}>()
  little = Mul(drawn, much)
  moved = Add(turned, little)
  probability = Sigmoid(moved)
"""
)
REFUSING = """
  bare_n = Cast<to = 7>({when})
  six = Constant<value = int64 {{6}}>()
  count = Mul(bare_n, six)
  table = Constant<value = float[2] {{0.0, 0.0}}>()
  harm = Gather(table, count)
  harmed = Add(x, harm)
  probability = Sigmoid(harmed)
"""
FAILING = (
    OPPOSITE
    + """
  most = Constant<value = float {{{most}}}>()
  beyond = Greater(x, most)
  beyond_n = Cast<to = 7>(beyond)
  six = Constant<value = int64 {{6}}>()
  count = Mul(beyond_n, six)
  table = Constant<value = float[2] {{0.0, 0.0}}>()
  harm = Gather(table, count)
  harmed = Add(turned, harm)
  probability = Sigmoid(harmed)
"""
)
NEVER = "And(bare, single)"
LENIENT = {
    "windows": {"newest": {"days": 4000}, "min_requests": 100},
    "sandbox": {"require": "S0"},
}


def made(path, body, *, answers=FLAT, **more):
    when = f"when = {more.pop('when')}\n"
    text = MODEL.format(answers=answers, body=when + body.format(when="when", **more))
    model = parser.parse_model(text)
    cutoff = {"harness.training_cutoff": "2020-01-01T00:00:00Z"}
    helper.set_model_props(model, {"harness.features": '["doubled"]', **cutoff})
    save_model(model, str(path))
    return path


def read(positions, bare=1):
    """One row a request; of a share of them, every `bare`-th, none."""
    n = len(positions)
    rows = (positions % bare != 0).astype(np.int64) if bare > 1 else np.ones(n, np.int64)
    return RequestBatch(
        seq=positions,
        request_id=np.array([f"r{i}" for i in positions], object),
        ts_ns=np.zeros(n, np.int64),
        rows=rows,
        inputs={"x": np.sin(positions[rows > 0]).astype(np.float32)},
        recorded={},
        answered=np.ones(n, np.bool_),
        context={},
    )


def asked(path, reads=read, ask=run_alone, count=3, **more):
    recipe = LegRecipe(
        role="candidate", model=path, limits=SandboxPolicy(require="S0"), allow_weaker=True
    )
    batches = [
        Batch(index=i, window="newest", order=np.arange(256 * i, 256 * i + 256))
        for i in range(count)
    ]
    with open_legs(recipe) as (leg,):
        drawn = [np.random.default_rng(1)] if ask is run_alone else []
        return ask(leg, batches, reads, *drawn, **more)


@pytest.mark.parametrize(
    ("when", "differ"), [("And(single, single)", Company.ANSWERS), (NEVER, Company.NOTHING)]
)
def test_answers_alone_of_different_shapes_are_answers(tmp_path, when, differ):
    path = made(tmp_path / "m.onnx", OF_ANOTHER_SHAPE, answers=WIDE, when=when)
    assert asked(path).differ is differ


def test_parts_of_a_batch_whose_requests_have_different_shapes_alone_are_answers(tmp_path):
    """Only in a whole batch of 256 rows is every answer right, and as wide as the next one."""
    when = "Less(length, many)"
    body = OF_ANOTHER_SHAPE.replace("{when}", "part")
    part = "many = Constant<value = int64[1] {{256}}>()\n part = " + when + "\n"
    path = made(tmp_path / "m.onnx", part + body, answers=WIDE, when=NEVER)
    assert asked(path, ask=company) is Company.ANSWERS


@pytest.mark.parametrize(
    ("when", "much", "differ"),
    [
        ("And(single, single)", 0.0, Company.ANSWERS),
        ("And(single, single)", 0.01, Company.UNSHOWN),
        (NEVER, 0.0, Company.NOTHING),
        (NEVER, 1e-7, Company.ROUNDING),
        (NEVER, 0.01, Company.UNSHOWN),
    ],
)
def test_a_random_operator_excuses_no_difference(tmp_path, when, much, differ):
    found = asked(made(tmp_path / "m.onnx", BY_CHANCE, when=when, much=f"{much:.9f}"))
    assert found.differ is differ
    assert ("answered as in their batches" in found.to_text()) == (
        differ in (Company.NOTHING, Company.ROUNDING)
    )
    assert ("not compared" in found.to_text()) == (differ is Company.UNSHOWN)


def test_where_no_batch_is_answered_nothing_is_shown(tmp_path):
    """Each of fourteen in a hundred requests fails its batch; the others get the opposite by themselves."""
    path = made(tmp_path / "m.onnx", FAILING, when="And(single, single)", most=0.9)
    found = asked(path)
    assert found.differ in (Company.UNSHOWN, Company.ANSWERS)
    assert "answered as in their batches" not in found.to_text()


def random_values(positions):
    x = np.random.default_rng(1).uniform(-1, 1, 5120).astype(np.float32)
    return replace(read(positions), inputs={"x": x[positions]})


@pytest.mark.parametrize(
    ("beyond", "most", "differ"),
    [
        (0.99, 0.0, Company.UNSHOWN),
        (0.99, 0.05, Company.NOTHING),
        (2.0, 0.0, Company.NOTHING),
    ],
)
@pytest.mark.usefixtures("as_many_alone")
def test_where_failures_leave_more_to_escape_than_may_nothing_is_shown(
    tmp_path, beyond, most, differ
):
    """One in two hundred requests fails its batch and a third of it; none is answered otherwise."""
    path = made(tmp_path / "m.onnx", FAILING, when=NEVER, most=beyond)
    found = asked(path, random_values, most=most)
    assert (bool(found.failed), found.differ) == (beyond < 1, differ)
    assert (found.escaping > 0.003, found.requests > 60) == (True, True)


@pytest.mark.usefixtures("as_many_alone")
def test_for_requests_whose_batch_fails_others_are_drawn(tmp_path):
    path = made(tmp_path / "m.onnx", FAILING, when=NEVER, most=0.998)
    found = asked(path, random_values, count=20)
    assert len(found.failed) > 5
    assert found.differ is Company.NOTHING
    assert (found.requests > 998, found.escaping < 0.003) == (True, True)


def test_what_may_escape_is_within_the_margins():
    flips = Guardrail(name="flips", metric=Metric.DECISION_FLIP, margin=0.05)
    score = Guardrail(name="score", metric=Metric.SCORE_SHIFT, margin=0.04)
    fine = Guardrail(name="fine", metric=Metric.PARITY_MISMATCH, margin=1e-6)

    def share(*guardrails):
        return share_within_margins(replace(policy, guardrails=guardrails))

    policy = policy_from_yaml("{version: 1, preset: refactor}", "policy.yaml")
    assert share(flips) == 0.05
    assert share(flips, score) == 0.02
    assert share(flips, replace(score, gating=False)) == 0.05
    assert share(flips, fine) == 1e-6


@pytest.mark.parametrize("bare", [2, 100])
@pytest.mark.parametrize("when", ["And(bare, bare)", NEVER])
def test_a_request_without_rows_is_asked_alone_whether_it_is_answered(tmp_path, when, bare):
    found = asked(
        made(tmp_path / "m.onnx", REFUSING, when=when), lambda positions: read(positions, bare)
    )
    refused = when != NEVER
    assert (found.fails_alone, bool(found.failed)) == (refused, refused)
    assert found.differ is (Company.ANSWERS if refused else Company.NOTHING)


def test_a_schedule_of_requests_without_rows_is_asked_too(tmp_path):
    def bare(positions):
        return replace(read(positions), rows=positions * 0, inputs={"x": np.empty(0, np.float32)})

    found = asked(made(tmp_path / "m.onnx", REFUSING, when=NEVER), bare)
    assert (found.differ, found.requests > 0) == (Company.NOTHING, True)


def observed(*shape, outcome=Outcome.OK):
    return Observations(
        outcome=np.array([outcome], np.int8), outputs={"y": np.zeros(shape, np.float32)},
        features={}, trace_outputs={}, latency_s=np.zeros(1),
    )  # fmt: skip


def test_an_answer_to_no_rows_makes_no_other_invalid():
    found = joined([observed(0, 7), observed(1, 2), observed(2, 2)])
    assert found.outcome.tolist() == [Outcome.OK] * 3
    assert found.outputs["y"].shape == (3, 2)
    assert not found.forms


def test_a_batch_without_rows_holds_no_new_nan():
    requests = replace(read(np.arange(1)), rows=np.zeros(1, np.int64))
    failures = CandidateFailures()
    failures.update(PairBatch(requests=requests, baseline=observed(0, 3), candidate=observed(0, 3)))
    assert failures.count() == 0


def gated(tmp_path, new, traffic, **changes):
    policy = tmp_path / "policy.yaml"
    policy.write_text(json.dumps({**REFACTOR, **LENIENT, **changes}))
    result = run_gate(
        str(tiny_model(tmp_path / "old.onnx")), str(new), traffic=[traffic], policy=policy,
        out=tmp_path / "run", cache_dir=tmp_path / "cache", state_dir=tmp_path / "state",
    )  # fmt: skip
    return result, json.loads((tmp_path / "run" / "manifest.json").read_text())


def test_a_gate_replays_as_recorded_what_was_not_shown(tmp_path):
    new = made(tmp_path / "new.onnx", BY_CHANCE, when="And(single, single)", much="0.01")
    rule = {"output": "probability", "rule": "threshold", "value": 0.5}
    flips = [{"name": "flips", "metric": "decision_flip", "margin": 0.05}]
    result, manifest = gated(
        tmp_path, new, tiny_traffic(tmp_path / "traffic"),
        preset="none", decision=rule, guardrails=flips,
    )  # fmt: skip
    assert manifest["composition"] == "recorded"
    assert result.decision is Decision.ROLLBACK
    (found,) = [f for f in result.findings if f.kind.startswith("batch_")]
    assert (found.kind, found.where) == ("batch_not_compared", "candidate")


@pytest.mark.parametrize(
    ("when", "decision"), [("And(bare, bare)", Decision.ROLLBACK), (NEVER, Decision.PROMOTE)]
)
def test_a_candidate_that_refuses_requests_without_rows_is_not_promoted(tmp_path, when, decision):
    new = made(tmp_path / "new.onnx", REFUSING, when=when)
    traffic = tiny_traffic(tmp_path / "traffic", without_rows=range(0, 600, 25))
    result, manifest = gated(tmp_path, new, traffic)
    assert result.decision is decision
    assert manifest["composition"] == ("coalesced" if when == NEVER else "recorded")

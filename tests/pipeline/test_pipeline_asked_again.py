"""What the candidate fails on before or beside the replay is asked again, told, and never promoted."""

import json
import os
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import yaml
from gates import REFACTOR, tiny_model, tiny_traffic
from onnx import helper, parser, save_model
from test_pipeline_sample_failures import ANY, POISON, failing

from harness.core.observations import Cause, Observations, Outcome, PairBatch
from harness.core.policies import GraphPolicy, SandboxPolicy
from harness.core.traffic import RequestBatch
from harness.core.verdicts import Decision
from harness.diff.floor import Floor
from harness.pipeline import alone, asked_again, batch_mates, golden, judgement, prepare, probes
from harness.pipeline.asked_again import note_failures
from harness.pipeline.batching import largest_batch
from harness.pipeline.company import Company, company
from harness.pipeline.compare import compare_models
from harness.pipeline.gate import resume_gate, run_gate
from harness.pipeline.legs_of_run import keep_unanswered
from harness.pipeline.opening import open_legs
from harness.replay.latency import measure_latency
from harness.replay.legs import Leg
from harness.replay.order import GROWS_AFTER, draw_order, schedule
from harness.replay.unanswered import Beside, Ledger, Unanswered
from harness.sandbox.answers import BatchFault
from harness.sandbox.process import Sandbox
from harness.store.runs import RunFolder
from harness.store.sealing import seal
from harness.store.traffic import TrafficSource
from harness.store.windows import SealedWindow

SEED = 7
N = 3000
OVER = """
  length = Shape(x)
  most = Constant<value = int64[1] {100}>()
  many = Greater(length, most)
  asked = Cast<to = 7>(many)
  six = Constant<value = int64 {6}>()
  sixes = Mul(asked, six)
"""
"""Instead of POISON in any batch: in one of more than 100 rows."""
NO_NUMBER = """
<ir_version: 8, opset_import: ["" : 15]>
m (float[N] x) => (float[N] probability, int64[N] label) {
  four = Constant<value = float {4.0}>()
  left = Sub(four, x)
  root = Sqrt(left)
  zero = Sub(root, root)
  harmed = Add(x, zero)
  probability = Sigmoid(harmed)
  half = Constant<value = float {0.5}>()
  yes = GreaterOrEqual(probability, half)
  label = Cast<to = 7>(yes)
}
"""
"""The tiny model, whose probability is NaN where x > 4."""
NEVER = "sixes = Constant<value = int64 {0}>()"
SCORE = {
    "version": 1, "preset": "none", "graph": {"when": "never"}, "sandbox": {"require": "S0"},
    "windows": {"newest": {"days": 4000}, "min_requests": 100},
    "decision": {"output": "probability", "rule": "threshold", "value": 0.5},
    "guardrails": [{"name": "score", "metric": "score_shift", "margin": 0.05, "direction": "both"}],
}  # fmt: skip
"""Proven by the first batch, and silent about failures."""
LATENCY = {"name": "latency", "metric": "latency_ratio", "margin": 1.7}


def sealed(folder, values):
    """A window of these requests, whose storage order does not depend on their values."""
    source = TrafficSource.open([tiny_traffic(folder / "traffic", len(values), values=values)])
    seal(source, folder / "window", seed=1)
    return folder / "window"


@pytest.fixture(scope="module")
def order(tmp_path_factory):
    """Numbers of N recorded requests in the order that SEED draws."""
    window = SealedWindow.open(sealed(tmp_path_factory.mktemp("order"), np.zeros(N)))
    drawn = draw_order(np.ones(N, np.bool_), seed=SEED, window="newest", limit=N)
    return [int(str(i).removeprefix("t-")) for i in window.read(drawn).request_id]


@pytest.fixture
def gate(tmp_path, monkeypatch, order):
    """Gates whose draw is known: `poison` of the order fails."""
    monkeypatch.setattr(prepare.secrets, "randbits", lambda _: SEED)

    def run(policy, *, poison=(), old=None, new=None):
        values = np.linspace(-3, 3, N)
        values[[order[i] for i in poison]] = POISON
        file = tmp_path / "policy.yaml"
        file.write_text(yaml.safe_dump(policy))
        return run_gate(
            str(old or tiny_model(tmp_path / "old.onnx")),
            str(new or failing(tmp_path / "new.onnx", ANY)),
            traffic=[sealed(tmp_path, values)], policy=file,
            out=tmp_path / "run", cache_dir=tmp_path / "cache", state_dir=tmp_path / "state",
            as_of="2020-12-01T00:00:00Z",
        )  # fmt: skip

    return run


def kinds(result):
    return {f.kind for f in result.findings}


@pytest.mark.parametrize(
    ("extra", "poison", "by"),
    [
        ({"windows": SCORE["windows"] | {"planning": 500}}, 100, "planning set"),
        ({}, 700, "question what batches change"),
        (
            {"guardrails": [*SCORE["guardrails"], LATENCY], "latency": {"sample": N}},
            2500,
            "latency sample",
        ),
    ],
)
def test_what_fails_where_no_guardrail_looks_is_never_promoted(
    gate, monkeypatch, extra, poison, by
):
    monkeypatch.setattr(alone, "_SPREAD", 1)
    result = gate(SCORE | extra, poison=[poison])
    record = result.record
    assert (record.decision, record.reason) == (Decision.HOLD, "candidate_fails_in_sample")
    assert f"({by}: error)" in record.explanation
    (told,) = (f for f in result.findings if f.kind == "candidate_fails_in_sample")
    assert f"({by}: error)" in told.what
    (note,) = RunFolder.open(result.run).quarantined()
    assert (note.leg, note.kind) == ("candidate", "error")
    assert f"request {note.request_id} " in told.what


def no_number(path, cutoff, text=NO_NUMBER):
    model = parser.parse_model(text)
    helper.set_model_props(
        model, {"harness.features": "[]", "harness.training_cutoff": f"{cutoff}T00:00:00Z"}
    )
    save_model(model, str(path))
    return path


@pytest.mark.parametrize(
    ("same", "decision"),
    [(False, Decision.HOLD), pytest.param(True, Decision.PROMOTE, marks=pytest.mark.long)],
)
def test_what_is_no_number_beside_the_replay_is_held_against_the_baseline(
    gate, tmp_path, same, decision
):
    result = gate(
        SCORE, poison=[700], new=no_number(tmp_path / "new.onnx", "2020-01-02"),
        old=no_number(tmp_path / "old.onnx", "2020-01-01") if same else None,
    )  # fmt: skip
    assert result.record.decision is decision
    assert ("candidate_fails_in_sample" in kinds(result)) is not same


@pytest.mark.long
def test_what_only_a_batch_makes_no_number_is_told_where_each_request_is_replayed_by_itself(
    gate, tmp_path
):
    many = "count = Shape(x)\n first = Squeeze(count)\n rows = Cast<to = 1>(first)\n"
    many += "hundred = Constant<value = float {100.0}>()\n left = Sub(hundred, rows)"
    text = NO_NUMBER.replace("left = Sub(four, x)", many)
    result = gate(SCORE, new=no_number(tmp_path / "new.onnx", "2020-01-02", text))
    assert result.record.decision is Decision.PROMOTE
    assert {"batch_dependent", "fails_together"} <= kinds(result)
    assert "candidate_fails_in_sample" not in kinds(result)


@pytest.fixture
def beside(tmp_path):
    """Both versions, one beside the other; the second answers request 300 with NaN."""
    new = no_number(tmp_path / "new.onnx", "2020-01-02")
    with leg_on(tiny_model(tmp_path / "old.onnx")) as old, leg_on(new) as leg:
        leg.ledger.beside = Beside(ledger=old.ledger)
        yield old, leg


@pytest.mark.parametrize("asked", [True, False])
def test_an_answer_is_held_against_the_same_batch_of_the_baseline(beside, asked):
    old, leg = beside
    for batch in (read(np.arange(9)), read(np.arange(299, 301))):
        assert not asked or old.tried(batch) is not None
        assert leg.tried(batch) is not None
    assert [(e.seq, e.kind, e.surmised) for e in leg.ledger.entries] == [
        ((299, 300), Outcome.OK, not asked)
    ]


def test_what_the_baseline_answers_the_same_way_is_not_written_down(tmp_path):
    model = no_number(tmp_path / "m.onnx", "2020-01-01")
    with leg_on(model) as old, leg_on(model) as new:
        new.ledger.beside = Beside(ledger=old.ledger)
        for leg in (old, new):
            assert [len(a.outcome) for a in leg.tried_each([read(np.arange(299, 301))])] == [2]
    assert new.ledger.entries == []


def test_another_shape_than_the_baselines_is_written_down():
    old, new = Ledger(), Ledger()
    new.beside = Beside(ledger=old, names={"z": "y"})
    batch = read(np.arange(3))
    old.saw(batch, answers(1, 2, 3), by="anybody")
    new.saw(batch, replace(answers(), outputs={"z": np.zeros((3, 1), np.float32)}), by="anybody")
    new.saw(read(np.arange(2)), replace(answers(), outputs={"z": np.zeros(2)}), by="anybody")
    (entry,) = new.entries
    assert (len(entry.seq), entry.message) == (
        3, "y has rows of the shape (1,) where the baseline's are ()",
    )  # fmt: skip


def test_what_is_no_number_in_the_latency_sample_is_written_down(beside):
    old, leg = beside
    requests = read(np.arange(298, 302))
    openers = [one._processes._open for one in (old, leg)]
    batches = [(np.arange(4), requests)]
    assert len(list(measure_latency(*openers, batches, seed=1, ledger=leg.ledger))) == 1
    assert [(e.by, e.seq, e.surmised) for e in leg.ledger.entries] == [
        ("latency sample", (300,), False)
    ]


def test_legs_that_are_opened_later_are_kept_beside_the_others(tmp_path):
    model = tiny_model(tmp_path / "m.onnx")
    with RunFolder.create(tmp_path / "run") as run, leg_on(model) as leg, leg_on(model) as later:
        later.name = "candidate repetition"
        keep_unanswered(run, [leg])
        keep_unanswered(run, [later])
        leg.ledger.fails_together(read(np.arange(9)), "replay")
        os.kill(later.first.pid, 9)
        later.submit(read(np.arange(9)), trace=False)
        assert (later.collect().outcome == Outcome.OK).all()
        saved = run.read_json("unanswered.json")
    assert {name: (seen["flaky"], seen["together"]) for name, seen in saved.items()} == {
        "candidate": (0, ["9 requests from 0 on (replay)"]),
        "candidate repetition": (1, []),
    }


def test_what_the_replay_judged_is_not_told_twice(gate):
    result = gate(SCORE, poison=[10])
    assert (result.record.decision, result.record.reason) == (Decision.ROLLBACK, "candidate_fails")
    assert "candidate_fails_in_sample" not in kinds(result)


def test_what_the_baseline_does_not_answer_either_is_no_fault_of_the_candidate(gate, tmp_path):
    result = gate(SCORE, poison=[700], old=failing(tmp_path / "old.onnx", ANY))
    assert result.record.decision is Decision.PROMOTE
    saved = json.loads((result.run / "unanswered.json").read_text())
    assert saved["candidate"]["unanswered"]


def test_a_batch_that_fails_only_as_such_is_told(gate, tmp_path):
    result = gate(SCORE, poison=[700], new=failing(tmp_path / "new.onnx", OVER))
    assert result.record.decision is Decision.PROMOTE
    (told,) = (f for f in result.findings if f.kind == "fails_together")
    assert "in one batch" in told.what
    assert "candidate_fails_in_sample" not in kinds(result)


def test_a_comparison_in_which_batches_fail_as_such_is_not_comparable(tmp_path):
    values = np.where(np.arange(500) == 3, POISON, 0.5)
    found = compare_models(
        str(failing(tmp_path / "old.onnx", NEVER)), str(failing(tmp_path / "new.onnx", OVER)),
        inputs=[tiny_traffic(tmp_path / "traffic", 500, values=values)],
        cache_dir=tmp_path / "cache", allow_lower_isolation=True, looked_into=GraphPolicy(requests=0),
    )  # fmt: skip
    assert (found.equal, found.comparable) == (True, False)
    assert any(text.startswith("in one batch only: ") for text in found.not_compared)


def interruption(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "interrupted", [pytest.param("", marks=pytest.mark.long), "largest_batch", "take_latency"]
)
def test_a_process_that_died_once_is_not_forgotten(gate, tmp_path, monkeypatch, interrupted):
    def hurt(leg, *rest, **options):
        if leg.name == "candidate":
            os.kill(leg.first.pid, 9)
        return alone.run_alone(leg, *rest, **options)

    monkeypatch.setattr(batch_mates, "run_alone", hurt)
    same = tiny_model(tmp_path / "new.onnx", cutoff="2020-01-02T00:00:00Z")
    policy = REFACTOR | {"windows": SCORE["windows"], "sandbox": {"require": "S0"}}
    if interrupted:
        monkeypatch.setattr(judgement, interrupted, interruption)
        with pytest.raises(KeyboardInterrupt):
            gate(policy, new=same)
        monkeypatch.undo()
        result = resume_gate(tmp_path / "run")
    else:
        result = gate(policy, new=same)
    assert (result.record.decision, result.record.reason) == (Decision.HOLD, "flaky_candidate")
    assert result.record.explanation.startswith("1 batch ")


def read(positions):
    n = len(positions)
    return RequestBatch(
        seq=positions, request_id=positions.astype(str).astype(object),
        ts_ns=np.zeros(n, np.int64), rows=np.ones(n, np.int64),
        inputs={"x": np.where(positions == 300, POISON, 0.5).astype(np.float32)}, recorded={},
        answered=np.ones(n, np.bool_), context={},
    )  # fmt: skip


def leg_on(model, **traced):
    limits, name = SandboxPolicy(require="S0"), "candidate"
    return Leg(lambda: Sandbox.start(model, name=name, limits=limits, **traced), name=name)


@pytest.fixture
def poisoned(tmp_path):
    with leg_on(failing(tmp_path / "m.onnx", ANY)) as leg:
        yield leg


def asked_by(leg):
    return {entry.by for entry in leg.ledger.entries}


def test_the_question_what_batches_change_writes_down_what_fails(poisoned):
    assert company(poisoned, schedule([("newest", np.arange(1000))], 256), read) is Company.NOTHING
    assert asked_by(poisoned) == {"question what batches change"}


def test_the_batching_trial_writes_down_what_fails(poisoned, tmp_path):
    batches = schedule([("newest", np.arange(GROWS_AFTER + 9))], 1024)
    with RunFolder.create(tmp_path / "run") as run:
        found = largest_batch(run, [poisoned], batches, read, 1024)
    assert (found.requests, asked_by(poisoned)) == (1024, {"batching trial"})
    assert any(300 in entry.seq for entry in poisoned.ledger.entries)


def test_the_question_which_session_answers_writes_down_what_fails(tmp_path):
    model = failing(tmp_path / "m.onnx", ANY)
    batches = schedule([("newest", np.arange(32_000))], 1024)
    with leg_on(model, trace_model=model, trace_tensors=("probability",)) as leg:
        probes._asked(leg, batches, read, Floor(), 32_000)
        assert asked_by(leg) == {"question which session answers"}


def test_what_fails_in_flight_when_nobody_waits_any_more_is_written_down(poisoned):
    ones = [read(np.arange(i, i + 1)) for i in (1, 300, 2)]
    answers = poisoned.tried_each(ones)
    assert next(answers) is not None
    answers.close()
    assert [entry.seq for entry in poisoned.ledger.entries] == [(300,)]


def starving(monkeypatch, times):
    """Lets the host give no processor to single requests so many times, by the words of the sandbox."""
    left = [times]
    collect = Sandbox.collect

    def starved(self, *rest):
        rows = self._asked[0].rows
        found = collect(self, *rest)
        if not left[0] or rows != 1:
            return found
        left[0] -= 1
        self.close()
        return BatchFault(
            seq=found.seq, kind=Outcome.TIMEOUT, cause=Cause.HOST_STARVED, alive=False,
            message="no answer within the deadline (the host gave it no processor)",
        )  # fmt: skip

    monkeypatch.setattr(Sandbox, "collect", starved)


@pytest.mark.parametrize("times", [2, 3])
def test_what_the_host_starves_counts_for_and_against_nobody(tmp_path, monkeypatch, times):
    starving(monkeypatch, times)
    with leg_on(tiny_model(tmp_path / "m.onnx")) as leg:
        batches = schedule([("newest", np.arange(400, 600))], 256)
        found = alone.run_alone(leg, batches, read, np.random.default_rng(1))
        counters = leg.counters()
    assert (found.failed, found.fails_alone, found.differ) == ((), False, Company.NOTHING)
    assert (counters.host_starved, counters.flaky, leg.ledger.entries) == (times, 0, [])


def test_what_failed_is_kept_as_it_happens_and_gone_on_from(tmp_path):
    model = failing(tmp_path / "m.onnx", ANY)
    with RunFolder.create(tmp_path / "run") as run:
        with leg_on(model) as leg:
            keep_unanswered(run, [leg])
            os.kill(leg.first.pid, 9)
            assert leg.tried(read(np.arange(9))) is None
            assert leg.tried(read(np.arange(299, 301))) is None
        with leg_on(model) as again:
            keep_unanswered(run, [again])
            assert again.counters().flaky == 1
            assert again.ledger.entries == leg.ledger.entries
            assert again.tried(read(np.arange(299, 301))) is None
            assert len(again.ledger.entries) == 1


def observed(*outcomes):
    return Observations(
        outcome=np.array(outcomes, np.int8), outputs={}, features={}, trace_outputs={},
        latency_s=np.zeros(len(outcomes)),
    )  # fmt: skip


def answers(*values, outcome=Outcome.OK, trailing=()):
    y = np.array(values, np.float32).reshape(-1, *trailing)
    return replace(observed(*[outcome] * len(y)), outputs={"y": y})


@pytest.mark.parametrize(
    ("again", "expected"),
    [
        (observed(0, Outcome.CRASH, Outcome.CRASH), [(1, Outcome.CRASH)]),
        (answers(1, np.nan, 1), [(1, Outcome.OK)]),
        (answers(1, 1, 1, trailing=(1,)), [(0, Outcome.OK), (1, Outcome.OK)]),
    ],
)
def test_what_fails_when_it_is_repeated_is_written_down(again, expected):
    ledger, requests = Ledger(), read(np.arange(3))
    first = np.array([Outcome.OK, Outcome.OK, Outcome.CRASH])
    pair = PairBatch(requests=requests, baseline=answers(1, 2, 3), candidate=again)
    note_failures(ledger, pair, by="repetition", new=first == Outcome.OK)
    assert [(e.seq[0], e.kind) for e in ledger.entries] == expected


def failed_before(kind, **known):
    return Unanswered(
        by="anybody", seq=(0,), first="0", trace=False, kind=kind, cause=Cause.UNKNOWN, message="", **known
    )  # fmt: skip


@pytest.mark.parametrize(
    ("baseline", "candidate", "expected"),
    [
        (Outcome.NOT_RUN, Outcome.ERROR, ["error"]),
        (Outcome.NOT_RUN, Outcome.NOT_RUN, ["error"]),
        (Outcome.ERROR, Outcome.ERROR, []),
        (Outcome.OK, Outcome.OK, []),
    ],
)
def test_what_no_baseline_excuses_any_more_stays_a_failure(baseline, candidate, expected):
    pair = PairBatch(
        requests=read(np.arange(1)), baseline=observed(baseline), candidate=observed(candidate)
    )
    found = asked_again._failures(failed_before(Outcome.ERROR), pair, ())
    assert [f.kind for f in found] == expected


@pytest.mark.parametrize(
    ("candidate", "ended", "settled"),
    [
        (Outcome.NOT_RUN, "the candidate's leg has ended: it is slow", False),
        (Outcome.ERROR, "the candidate's leg has ended: it is slow", True),
    ],
)
def test_what_a_leg_that_ended_did_not_answer_is_not_said_to_fail_again(candidate, ended, settled):
    outcomes = observed(Outcome.OK, Outcome.OK), observed(Outcome.OK, candidate)
    pair = PairBatch(requests=read(np.arange(2)), baseline=outcomes[0], candidate=outcomes[1])
    shown = asked_again._failures(failed_before(Outcome.CRASH), pair, (), ended=ended)
    again = asked_again.AskedAgain(failed=tuple(shown))
    (told,), (count,) = again.findings(), again.counts()
    assert (count.count, count.left) == (1, not settled)
    assert (ended in told.what) is not settled
    assert ("what the baseline answers" in told.what) is settled


@pytest.mark.parametrize(
    ("surmised", "baseline", "candidate", "expected"),
    [
        (False, 1, 1, (["nan"], True)),
        (True, 1, np.nan, (["nan"], False)),
        (True, 1, 1, ([], True)),
        (True, np.nan, np.nan, ([], False)),
    ],
)
def test_an_answer_that_was_no_number_is_held_against_the_baselines(
    surmised, baseline, candidate, expected
):
    entry = failed_before(Outcome.OK, surmised=surmised)
    pair = PairBatch(
        requests=read(np.arange(1)), baseline=answers(baseline), candidate=answers(candidate)
    )
    found = asked_again._failures(entry, pair, ())
    assert ([f.kind for f in found], asked_again._says_something(entry, pair)) == expected


def test_what_the_host_starved_is_not_written_down():
    ledger = Ledger()
    ledger.add(read(np.arange(3)), Outcome.TIMEOUT, Cause.HOST_STARVED, "", by="anybody")
    assert ledger.entries == []


def test_a_process_that_died_once_on_golden_rows_is_not_promoted(gate, tmp_path, monkeypatch):
    new = tiny_model(tmp_path / "new.onnx", cutoff="2020-01-02T00:00:00Z")
    rows = tiny_traffic(tmp_path / "rows", 8)
    golden.make_golden(
        str(new), inputs=[rows], cache_dir=tmp_path / "cache", allow_lower_isolation=True
    )

    @contextmanager
    def hurt(*recipes):
        with open_legs(*recipes) as legs:
            os.kill(legs[0].first.pid, 9)
            yield legs

    monkeypatch.setattr(golden, "open_legs", hurt)
    result = gate(SCORE, new=new)
    assert (result.record.decision, result.record.reason) == (Decision.HOLD, "flaky_candidate")
    assert "candidate_flaky" in kinds(result)


@pytest.mark.parametrize(
    ("asked", "decision", "kind"),
    [(1, Decision.HOLD, "candidate_flaky"), (2, Decision.PROMOTE, "fails_together")],
)
def test_a_request_short_of_memory_by_itself_that_passes_now_is_flaky(
    gate, tmp_path, monkeypatch, asked, decision, kind
):
    """How many share a batch is the gate's choice; one by itself had nothing beside it."""

    def short(leg, *rest, **options):
        if leg.name == "candidate":
            leg.ledger.add(
                read(np.arange(asked)), Outcome.ERROR, Cause.MEMORY_LIMIT, "no memory",
                by="latency sample",
            )  # fmt: skip
        return alone.run_alone(leg, *rest, **options)

    monkeypatch.setattr(batch_mates, "run_alone", short)
    same = tiny_model(tmp_path / "new.onnx", cutoff="2020-01-02T00:00:00Z")
    result = gate(REFACTOR | {"windows": SCORE["windows"], "sandbox": {"require": "S0"}}, new=same)
    assert result.record.decision == decision
    assert kind in kinds(result)

"""Which session's answers a gate judges, and what guards them where it is not production's."""

import json
import signal
from collections import Counter

import numpy as np
import pytest
import yaml
from gates import AS_OF, MODELS, REFACTOR, RETRAIN, tiny_traffic

from harness.core.findings import Severity
from harness.core.verdicts import Decision
from harness.decide.policy import policy_from_yaml
from harness.diff.floor import Floor
from harness.pipeline import judgement, probes
from harness.pipeline import prepare as preparation
from harness.pipeline.gate import resume_gate, run_gate
from harness.pipeline.probes import GUARD_EVERY, Answering, answering_of_run, with_guards
from harness.replay.order import Batch, schedule
from harness.store.runs import RunFolder

SEED = 20130701
STRICT = {**RETRAIN, "windows": {**RETRAIN["windows"], "min_requests": 100_000}}
"""Never stops early."""
GELU = """
<ir_version: 8, opset_import: ["" : 15]>
gelu (float[N] x) => (float[N] probability, int64[N] label)
  <float k = {{1.4142135}}, float one = {{1.0}}, float half = {{0.5}}> {{
  doubled = Add(x, x)
  d = Div(doubled, k)
  e = Erf(d)
  a = Add(e, one)
  m = Mul(doubled, a)
  g = Mul(m, half)
  shifted = {shifted}
  probability = Sigmoid(shifted)
  yes = GreaterOrEqual(probability, half)
  label = Cast<to = 7>(yes)
}}
"""
"""Production computes it in one operator, whose last bits are others; with all its tensors read it cannot."""


@pytest.fixture
def gelu(tmp_path):
    def make(name, shifted="Identity(g)"):
        import onnx
        from onnx import parser

        model = parser.parse_model(GELU.format(shifted=shifted))
        about = {"harness.features": '["doubled"]', "training_cutoff": "2020-01-01T00:00:00Z"}
        onnx.helper.set_model_props(model, about)
        onnx.save_model(model, str(tmp_path / f"{name}.onnx"))
        return tmp_path / f"{name}.onnx"

    return make


def small(patch, least=1000):
    """Lets the small traffic be enough, in small batches of a known order."""
    patch.setattr(preparation.secrets, "randbits", lambda _: SEED)
    patch.setattr(preparation, "BATCH_REQUESTS", 128)
    patch.setattr(probes, "LEAST_REQUESTS", least)


@pytest.fixture(scope="module")
def flights(tmp_path_factory, some_flights, windows):
    """Gates v1 against v2 on all of the small traffic."""
    folder = tmp_path_factory.mktemp("probes")

    def gate(name, listener=lambda _: None, **sandbox):
        policy = folder / f"{name}.yaml"
        policy.write_text(yaml.safe_dump({**STRICT, "sandbox": sandbox}))
        with pytest.MonkeyPatch.context() as patch:
            small(patch)
            return run_gate(
                str(MODELS / "v1.onnx"), str(MODELS / "v2.onnx"), traffic=[some_flights],
                policy=policy, as_of=AS_OF, out=folder / name, cache_dir=windows,
                listener=listener, state_dir=folder / f"{name}-state",
            ).run  # fmt: skip

    return gate


@pytest.fixture(scope="module")
def alone(flights):
    return flights("alone")


def read(run, name):
    return json.loads((run / f"{name}.json").read_text())


def pairs(run):
    """Everything of each judged request but times and what production recorded."""
    folder = RunFolder.open(run)
    chunks = [folder.read_pairs(n) for n in folder.pairs_chunks()]
    left_out = ("baseline_latency_s", "candidate_latency_s", "unfaithful")
    return {
        name: np.concatenate([c[name] for c in chunks])
        for name in chunks[0]
        if name not in left_out
    }


def test_one_session_gives_the_answers_and_the_verdict_of_two(alone, flights):
    separate = flights("separate", probes="separate")
    mine, theirs = pairs(alone), pairs(separate)
    assert mine.keys() == theirs.keys()
    for name in mine:
        np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)
    for of_run, key in (("evidence", "evidence"), ("floor", "outputs"), ("floor", "features")):
        assert read(alone, of_run)[key] == read(separate, of_run)[key]
    assert read(alone, "intermediates")["features"] == read(separate, "intermediates")["features"]
    said = read(separate, "manifest")["probes"]
    assert (said["alone"], said["guard"]["baseline"]["alone"]) == (False, 0)
    assert "sandbox.probes" in said["why"]


def test_a_run_says_which_session_answered_and_how_much_was_guarded(alone):
    said, decision = read(alone, "manifest")["probes"], read(alone, "decision")
    assert said["alone"] is True
    for side in ("baseline", "candidate"):
        guard = said["guard"][side]
        assert guard["alone"] + guard["both"] == decision["n_requests"]
        assert decision["n_requests"] / GUARD_EVERY <= guard["both"] < decision["n_requests"] / 2
        assert guard["differing"] == 0
    seen = read(alone, "intermediates")
    assert seen["faithful"]["compared"] == said["guard"]["baseline"]["both"]
    (left,) = [text for text in decision["not_compared"] if "production's own session" in text]
    assert f"{said['guard']['baseline']['alone']:,} requests" in left
    page = (alone / "report.html").read_text()
    assert "Which session was judged" in page
    assert "answers came from the session that returns features" in page


def test_a_run_that_is_gone_on_with_keeps_its_session(alone, flights):
    asked = []

    def listener(event):
        if event.stage == "replay" and event.done >= 1500 and not asked:
            asked.append(event)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        flights("interrupted", listener)
    # Asked again, the run would be too short by now.
    run = resume_gate(alone.parent / "interrupted").run
    assert read(run, "manifest")["probes"] == read(alone, "manifest")["probes"]
    for name in ("evidence", "intermediates", "findings"):
        assert read(run, name) == read(alone, name)


@pytest.mark.parametrize("side", ["baseline", "candidate"])
def test_a_version_whose_bits_change_by_reading_is_answered_by_production(
    side, gelu, tmp_path, windows, write_policy, monkeypatch
):
    from gates import tiny_model

    small(monkeypatch, 100)
    fused, plain = gelu("fused"), tiny_model(tmp_path / "plain.onnx")
    old, new = (fused, plain) if side == "baseline" else (plain, fused)
    result = run_gate(
        str(old), str(new), traffic=[tiny_traffic(tmp_path / "t", values=spread(4000))],
        policy=write_policy(features_only()), out=tmp_path / "run", cache_dir=windows,
    )  # fmt: skip
    said = read(result.run, "manifest")["probes"]
    assert said["alone"] is False
    assert f"the {side} gave other bits" in said["why"]
    assert said["guard"][side]["differing"] > 0
    assert result.record.reason != "observer_effect"


@pytest.mark.parametrize("shifted", ["Identity(g)", "Neg(g)"])
def test_the_guard_ends_a_run_whose_first_requests_showed_nothing(
    shifted, gelu, tmp_path, windows, write_policy, monkeypatch
):
    """Harm that is proven on such answers is not believed either."""
    small(monkeypatch, 100)
    monkeypatch.setattr(
        judgement, "answering_of_run", lambda *_, **__: Answering(alone=True, why="nothing showed")
    )
    result = run_gate(
        str(gelu("old")), str(gelu("new", shifted)),
        traffic=[tiny_traffic(tmp_path / "t", values=spread(4000))],
        policy=write_policy(features_only()), out=tmp_path / "run", cache_dir=windows,
    )  # fmt: skip
    record = result.record
    assert (record.decision, record.reason) == (Decision.HOLD, "observer_effect")
    assert "probes: separate" in record.next
    assert record.n_requests <= 4 * 128
    found = [f for f in result.findings if f.kind == "observer_effect"]
    assert any("probes: separate" in f.remedy for f in found)
    assert all(f.severity is Severity.WARNING for f in found)


def spread(n):
    return np.random.default_rng(3).normal(size=n).astype(np.float32)


def features_only():
    """A policy that judges features and decisions, on the tiny traffic."""
    guardrails = [
        {"name": "features", "metric": "parity_mismatch", "scope": "features", "margin": 0.01},
        {"name": "flips", "metric": "decision_flip", "margin": 0.2},
    ]
    return {**REFACTOR, "preset": "none", "guardrails": guardrails,
            "windows": {"newest": {"days": 200}, "min_requests": 3500}}  # fmt: skip


POLICY = """
version: 1
preset: retrain
decision: {output: label, rule: none, score: probability}
"""


class StillLeg:
    """A leg that must not be asked anything."""

    singly = False


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (POLICY.replace("retrain", "refactor"), "differences of outputs"),
        (POLICY + "sandbox: {probes: separate}\n", "sandbox.probes asks"),
        (
            POLICY + "guardrails: [{name: same, metric: parity_mismatch, scope: outputs, margin: 0.1}]\n",
            "differences of outputs",
        ),
        (POLICY + "guardrails: [{name: noisy, metric: excess_flip, margin: 0.1}]\n", "differences of outputs"),
        (POLICY + "drop: [features]\n", "no guardrail is about features"),
    ],
)  # fmt: skip
def test_policies_under_which_production_gives_every_answer(tmp_path, policy, why):
    assert why in reason(tmp_path, policy)


def reason(tmp_path, policy, *, floor=Floor(probed_alike=True), trace=True, n=50_000):  # noqa: B008 - frozen
    batches = schedule([("newest", np.arange(n))], 1024)
    legs = [StillLeg(), StillLeg()]
    with RunFolder.create(tmp_path / "run") as run:
        given = policy_from_yaml(policy, "p")
        found = answering_of_run(run, given, floor, legs, batches, None, trace=trace)
        assert answering_of_run(run, given, floor, (), (), None, trace=trace) == found
    assert not found.alone
    return found.why


def test_nothing_read_short_runs_and_noisy_baselines_are_answered_by_production(tmp_path):
    assert "no features are read" in reason(tmp_path / "a", POLICY, trace=False)
    assert "too short" in reason(tmp_path / "b", POLICY, n=4096)
    assert "the baseline gave other bits" in reason(tmp_path / "c", POLICY, floor=Floor())


def test_one_batch_in_so_many_is_guarded_wherever_the_seed_puts_it():
    batches = schedule([("newest", np.arange(800_000)), ("matured", np.arange(90_000))], 1024)
    places: Counter[int] = Counter()
    for seed in range(60):
        marked = with_guards(batches, seed, alone=True)
        assert [replaced.index for replaced in marked] == [b.index for b in batches]
        late = marked[GUARD_EVERY:]
        for at in range(0, len(late) - GUARD_EVERY + 1, GUARD_EVERY):
            (guarded,) = [i for i, b in enumerate(late[at : at + GUARD_EVERY]) if not b.alone]
            places[guarded] += 1
        for window in ("newest", "matured"):
            assert not any(b.alone for b in [b for b in marked if b.window == window][:4])
        again = with_guards(batches, seed, alone=True)
        assert [b.alone for b in again] == [b.alone for b in marked]
    assert set(places) == set(range(GUARD_EVERY))
    assert max(places.values()) < 2 * min(places.values())


def test_a_short_last_group_is_guarded_too():
    batches = [Batch(index=i, window="w", order=np.arange(1)) for i in range(GUARD_EVERY * 3 + 1)]
    marked = with_guards(batches, SEED, alone=True)
    assert sum(not b.alone for b in marked[GUARD_EVERY * 3 :]) == 1


def test_batches_without_features_are_not_marked():
    batches = [Batch(index=i, window="w", order=np.arange(1), trace=i < 8) for i in range(40)]
    assert not any(b.alone for b in with_guards(batches, SEED, alone=True)[8:])
    assert not any(b.cut for b in with_guards(batches, SEED, alone=False)[8:])


def test_where_production_answers_all_but_the_guarded_batches_give_features_only():
    batches = schedule([("newest", np.arange(400_000))], 1024)
    one, both = (with_guards(batches, SEED, alone=alone) for alone in (True, False))
    assert [b.cut for b in both] == [b.alone for b in one]
    assert not any(b.alone for b in both)
    assert not any(b.cut for b in one)

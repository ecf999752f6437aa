"""A model whose answer depends on its batch is replayed request by request; others are not."""

import json
from dataclasses import replace

import numpy as np
import pytest
from gates import tiny_model, tiny_traffic
from onnx import TensorProto, helper, save_model

from harness.core.observations import Outcome
from harness.core.policies import GraphPolicy, SandboxPolicy
from harness.core.traffic import RequestBatch
from harness.core.verdicts import Decision
from harness.pipeline.alone import run_alone, unusual
from harness.pipeline.company import Company, company
from harness.pipeline.compare import compare_models
from harness.pipeline.floorpass import SINGLE_REQUESTS, measure_floor
from harness.pipeline.gate import run_gate
from harness.pipeline.opening import LegRecipe, open_legs
from harness.replay.composition import cuts
from harness.replay.order import Batch
from harness.replay.pairs import replay_pairs

LIMITS = SandboxPolicy(require="S0")
KIND = TensorProto.FLOAT


def model(path, *nodes):
    graph = helper.make_graph(
        [helper.make_node(op, given, made, **more) for op, given, made, more in nodes],
        "g",
        [helper.make_tensor_value_info("x", KIND, ["N", 2])],
        [helper.make_tensor_value_info("y", KIND, ["N", 2])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    made.ir_version = 8
    save_model(made, str(path))
    return path


def centred(path):
    """y = x − the batch's mean."""
    mean = ("ReduceMean", ["x"], ["m"], {"axes": [0], "keepdims": 1})
    return model(path, mean, ("Sub", ["x", "m"], ["y"], {}))


def nudged(path):
    """y = x × (1 + 3e-7 × the sine of the batch's mean): last digits change with the batch."""
    mean = ("ReduceMean", ["x"], ["m"], {"axes": [0], "keepdims": 1})
    return model(
        path, mean, ("Sin", ["m"], ["s"], {}),
        ("Constant", [], ["c"], {"value_float": 3e-7}), ("Mul", ["s", "c"], ["t"], {}),
        ("Mul", ["x", "t"], ["d"], {}), ("Add", ["x", "d"], ["y"], {}),
    )  # fmt: skip


def noisy(path):
    return model(path, ("RandomUniformLike", ["x"], ["r"], {}), ("Add", ["x", "r"], ["y"], {}))


def plain(path):
    return model(path, ("Neg", ["x"], ["y"], {}))


def read(positions):
    """Requests of one to three rows; the values say where they come from."""
    rows = 1 + positions % 3
    x = np.repeat(positions, rows).astype(np.float32)
    n = len(positions)
    return RequestBatch(
        seq=positions,
        request_id=np.array([f"r{i}" for i in positions], object),
        ts_ns=np.zeros(n, np.int64),
        rows=rows,
        inputs={"x": np.stack([x, x * x + np.arange(len(x)) % 7], axis=1).astype(np.float32)},
        recorded={},
        answered=np.ones(n, np.bool_),
        context={},
    )


def batches(n, size=600):
    return [
        Batch(index=i, window="newest", order=np.arange(start, min(start + size, n)))
        for i, start in enumerate(range(0, n, size))
    ]


def floor_of(path, n=1500):
    recipe = LegRecipe(role="baseline", model=path, limits=LIMITS, allow_weaker=True)
    with open_legs(recipe, recipe) as (first, second):
        floor = measure_floor(first, second, batches(n), read, trace=False, heard=lambda *_: None)
        return floor, (first.singly, second.singly)


def test_an_answer_that_depends_on_its_batch_is_seen(tmp_path):
    floor, singly = floor_of(centred(tmp_path / "m.onnx"))
    assert floor.batch_dependent
    assert singly == (True, True)
    # The floor is that of single requests, which differ by nothing.
    assert floor.silent
    assert floor.requests >= SINGLE_REQUESTS


def test_an_answer_that_does_not_is_replayed_in_batches(tmp_path):
    floor, singly = floor_of(plain(tmp_path / "m.onnx"))
    assert (floor.batch_dependent, singly) == (False, (False, False))
    assert floor.requests == 1500


def test_rounding_that_comes_with_the_batch_is_tolerated_in_batches(tmp_path):
    floor, singly = floor_of(nudged(tmp_path / "m.onnx"))
    assert singly == (False, False)
    assert floor.batch_rounding
    assert not floor.batch_dependent
    assert 0 < max(c.relative for c in floor.outputs) < 1e-6


def test_noise_that_is_not_the_batchs_keeps_its_floor(tmp_path):
    floor, singly = floor_of(noisy(tmp_path / "m.onnx"))
    assert (floor.batch_dependent, singly) == (False, (False, False))
    assert floor.requests == 1500
    assert floor.output_mismatch_share > 0.99


@pytest.mark.parametrize("singly", [False, True])
def test_requests_run_singly_get_the_answers_of_their_own_rows(tmp_path, singly):
    recipe = LegRecipe(
        role="candidate", model=centred(tmp_path / "m.onnx"), limits=LIMITS, allow_weaker=True
    )
    with open_legs(recipe, recipe) as (one, other):
        one.singly = other.singly = singly
        source = [(b, read(b.positions)) for b in batches(90, size=40)]
        pairs = [pair for _, pair in replay_pairs(one, other, source, trace=False)]
    for pair in pairs:
        assert pair.baseline.outcome.tolist() == [Outcome.OK] * len(pair)
        owner = pair.row_owner()
        sums = np.bincount(owner, pair.baseline.outputs["y"][:, 1])
        # Centred over each request's own rows, or over the whole batch.
        assert bool(np.abs(sums).max() < 1e-2) == singly
        assert np.array_equal(pair.baseline.outputs["y"], pair.candidate.outputs["y"])


def test_a_request_that_fails_singly_fails_alone(tmp_path):
    kind = TensorProto.INT64
    graph = helper.make_graph(
        [helper.make_node("Div", ["x", "d"], ["y"])],
        "g",
        [helper.make_tensor_value_info(n, kind, ["N"]) for n in "xd"],
        [helper.make_tensor_value_info("y", kind, ["N"])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    made.ir_version = 8
    save_model(made, str(tmp_path / "m.onnx"))
    requests = read(np.arange(6))
    n = int(requests.rows.sum())
    divisor = np.ones(n, np.int64)
    divisor[[0, n - 1]] = 0
    requests.inputs.clear()
    requests.inputs.update(x=np.arange(n), d=divisor)
    recipe = LegRecipe(
        role="candidate", model=tmp_path / "m.onnx", limits=LIMITS, allow_weaker=True
    )
    with open_legs(recipe, recipe) as (one, other):
        one.singly = other.singly = True
        batch = Batch(index=0, window="newest", order=requests.seq)
        ((_, pair),) = replay_pairs(one, other, [(batch, requests)], trace=False)
    assert pair.baseline.outcome.tolist() == [Outcome.ERROR, 0, 0, 0, 0, Outcome.ERROR]
    assert [i for i, _ in pair.baseline.messages] == [0, 5]
    assert pair.baseline.outputs["y"][1:3].tolist() == [1, 2]


MIXING, PLAIN = "Softmax <axis=0> ({x})", "Neg({x})"


@pytest.mark.parametrize(
    ("raised", "mixing"),
    [((MIXING, MIXING), "baseline"), ((PLAIN, MIXING), "candidate"), ((PLAIN, PLAIN), "")],
)
def test_a_gate_says_how_it_composed_its_batches(tmp_path, raised, mixing):
    composition = "recorded" if mixing else "coalesced"
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "version: 1\npreset: refactor\nwindows: {newest: {days: 4000}, min_requests: 100}\n"
        "decision: {output: probability, rule: threshold, value: 0.5}\nsandbox: {require: S0}\n"
    )
    old, new = (str(tiny_model(tmp_path / f"m{i}.onnx", raised=raised[i])) for i in range(2))
    result = run_gate(
        old, new, traffic=[tiny_traffic(tmp_path / "traffic")], policy=policy,
        out=tmp_path / "run", cache_dir=tmp_path / "cache", state_dir=tmp_path / "state",
    )  # fmt: skip
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["composition"] == composition
    assert len(manifest["batch_plan_sha256"]) == 64
    assert manifest["limits"]["memory_bytes"] == SandboxPolicy().memory_bytes
    options = manifest["isolation"]["versions"]["candidate"]["session_options"]
    assert "intra_op_num_threads=1" in options
    assert "session.set_denormal_as_zero=0" in options
    assert [f.where for f in result.findings if f.kind == "batch_dependent"] == [mixing] * bool(
        mixing
    )
    report = (tmp_path / "run" / "report.html").read_text()
    assert ("each request by itself" in report) == (composition == "recorded")


@pytest.mark.parametrize(
    ("made", "mixed"),
    [
        (centred, Company.ANSWERS),
        (nudged, Company.ROUNDING),
        (plain, Company.NOTHING),
        (noisy, Company.NOTHING),
    ],
    ids=lambda v: str(v)[:12],
)
def test_a_version_that_mixes_requests_is_told_from_a_noisy_one(tmp_path, made, mixed):
    recipe = LegRecipe(
        role="candidate", model=made(tmp_path / "m.onnx"), limits=LIMITS, allow_weaker=True
    )
    with open_legs(recipe) as (leg,):
        assert company(leg, batches(1500), read) is mixed


def test_a_batch_that_fails_hides_no_mixing_in_the_next(tmp_path):
    """y = x − the mean, of requests whose text is a number: the cast refuses the first one's."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["t"], ["n"], to=KIND),
            helper.make_node("ReduceMean", ["n"], ["m"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["n", "m"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("t", TensorProto.STRING, ["N"])],
        [helper.make_tensor_value_info("y", KIND, ["N"])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    made.ir_version = 8
    save_model(made, str(tmp_path / "m.onnx"))

    def texts(positions):
        words = ["no number" if p == 0 else str(p) for p in positions.tolist()]
        requests = read(positions)
        requests.inputs.clear()
        requests.inputs["t"] = np.array(words, object)
        return replace(requests, rows=np.ones(len(positions), np.int64))

    recipe = LegRecipe(
        role="candidate", model=tmp_path / "m.onnx", limits=LIMITS, allow_weaker=True
    )
    with open_legs(recipe) as (leg,):
        assert company(leg, batches(1500), texts) is Company.ANSWERS
        assert leg.counters().poison_count == 0
        assert not leg.take_quarantined()


@pytest.mark.parametrize("side", ["baseline", "candidate"])
def test_either_version_that_mixes_requests_is_replayed_request_by_request(tmp_path, side):
    models = {
        role: str(tiny_model(tmp_path / f"{role}.onnx", raised=formula))
        for role, formula in (("plain", "Neg({x})"), ("mixing", "Softmax <axis=0> ({x})"))
    }
    order = ("mixing", "plain") if side == "baseline" else ("plain", "mixing")
    result = compare_models(
        models[order[0]], models[order[1]], inputs=[tiny_traffic(tmp_path / "traffic")],
        cache_dir=tmp_path / "cache", allow_lower_isolation=True, looked_into=GraphPolicy(requests=0),
    )  # fmt: skip
    (found,) = [f for f in result.findings if f.kind == "batch_dependent"]
    assert found.where == side


NUDGED = """
<ir_version: 8, opset_import: ["" : 15]>
nudged (float[N] x) => (float[N] probability, int64[N] label) {
  m = ReduceMean<keepdims = 1>(x)
  s = Sin(m)
  c = Constant<value = float {3e-7}>()
  t = Mul(s, c)
  p = Sigmoid(x)
  d = Mul(p, t)
  probability = Add(p, d)
  half = Constant<value = float {0.5}>()
  yes = GreaterOrEqual(p, half)
  label = Cast<to = 7>(yes)
}
"""


def written(path):
    from onnx import parser

    save_model(parser.parse_model(NUDGED), str(path))
    return str(path)


def test_rounding_that_comes_with_the_batch_is_a_note_in_a_comparison(tmp_path):
    path = written(tmp_path / "m.onnx")
    result = compare_models(
        path, path, inputs=[tiny_traffic(tmp_path / "traffic")],
        cache_dir=tmp_path / "cache", allow_lower_isolation=True, looked_into=GraphPolicy(requests=0),
    )  # fmt: skip
    assert result.exit_code == 0
    noted = [(f.kind, f.where) for f in result.findings if f.kind.startswith("batch_")]
    assert noted == [("batch_rounding", "baseline"), ("batch_rounding", "candidate")]


@pytest.mark.parametrize(
    ("preset", "kind", "composition", "why"),
    [
        (
            "refactor", "batch_dependent", "recorded",
            "what the baseline answers to a request depends on its batch",
        ),
        (
            "retrain", "batch_rounding", "coalesced",
            "no answer was seen to depend on the batch of its request, but for rounding (baseline, candidate)",
        ),
    ],
)  # fmt: skip
def test_only_a_refactor_is_replayed_singly_for_the_sake_of_last_digits(
    tmp_path, preset, kind, composition, why
):
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        f"version: 1\npreset: {preset}\nwindows: {{newest: {{days: 4000}}, min_requests: 100}}\n"
        "decision: {output: probability, rule: threshold, value: 0.5}\nsandbox: {require: S0}\n"
    )
    path = written(tmp_path / "m.onnx")
    result = run_gate(
        path, path, traffic=[tiny_traffic(tmp_path / "traffic", 1100)], policy=policy,
        out=tmp_path / "run", cache_dir=tmp_path / "cache", state_dir=tmp_path / "state",
    )  # fmt: skip
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["composition"] == composition
    assert {f.kind for f in result.findings if f.kind.startswith("batch_")} == {kind}
    assert manifest["composition_why"] == why


@pytest.mark.parametrize("n", [1, 2, 3, 88, 256, 1024])
def test_the_second_leg_cuts_batches_of_every_size(n):
    pieces = cuts(n)
    assert pieces[0][0] == 0
    assert [b for _, b in pieces[:-1]] == [a for a, _ in pieces[1:]]
    assert pieces[-1][1] == n
    assert len(pieces) > 1 or n == 1


def switching(path, k):
    """y = x, or x × k where no row of the batch holds a NaN: then another branch is taken."""
    from onnx import parser

    then = "then_branch = c () => (float[N, 2] a) { z = Constant<value = float {0}>() a = Where(nan, z, x) }"
    other = f"else_branch = d () => (float[N, 2] b) {{ k = Constant<value = float {{{k}}}>() b = Mul(x, k) }}"
    text = (
        '<ir_version: 8, opset_import: ["" : 15]> g (float[N, 2] x) => (float[N, 2] y) {'
        " nan = IsNaN(x) n = Cast<to = 1>(nan) most = ReduceMax<keepdims = 0>(n) any = Cast<to = 9>(most)"
        f" y = If(any) <{then}, {other}> }}"
    )
    save_model(parser.parse_model(text), str(path))
    return path


def with_some_nan(positions):
    """One row a request; a fifth of them hold a NaN."""
    requests = read(positions)
    x = np.stack([positions % 97, positions % 89], axis=1).astype(np.float32)
    x[positions % 5 == 0, 1] = np.nan
    requests.inputs["x"] = x
    return replace(requests, rows=np.ones(len(positions), np.int64))


@pytest.mark.usefixtures("as_many_alone")
@pytest.mark.parametrize(("k", "differ"), [(1.0, Company.NOTHING), (2.0, Company.ANSWERS)])
def test_a_branch_that_every_batch_takes_and_most_requests_do_not_is_seen(tmp_path, k, differ):
    recipe = LegRecipe(
        role="candidate", model=switching(tmp_path / "m.onnx", k), limits=LIMITS, allow_weaker=True
    )
    with open_legs(recipe) as (leg,):
        assert company(leg, batches(1500), with_some_nan) is Company.NOTHING
        found = run_alone(leg, batches(1500), with_some_nan, np.random.default_rng(1))
    assert (found.differ, found.requests) == (differ, 984)


def test_a_gate_judges_what_requests_get_alone(tmp_path):
    old, new = (str(switching(tmp_path / f"m{k}.onnx", k)) for k in (1, 2))
    np.savez(tmp_path / "t.npz", x=with_some_nan(np.arange(600)).inputs["x"])
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "version: 1\npreset: refactor\ndrop: [features]\nsandbox: {require: S0}\ngraph: {when: never}\n"
    )
    result = run_gate(
        old, new, traffic=[tmp_path / "t.npz"], policy=policy,
        out=tmp_path / "run", cache_dir=tmp_path / "cache", state_dir=tmp_path / "state",
    )  # fmt: skip
    assert result.decision is Decision.ROLLBACK
    assert "requests run alone" in (tmp_path / "run" / "report.html").read_text()
    compared = compare_models(
        old, new, inputs=[tmp_path / "t.npz"],
        cache_dir=tmp_path / "cache", allow_lower_isolation=True, looked_into=GraphPolicy(requests=0),
    )  # fmt: skip
    assert compared.exit_code == 1
    assert "answered otherwise than in their batches" in compared.to_text()


@pytest.mark.usefixtures("as_many_alone")
def test_the_sample_is_spread_over_the_whole_schedule_and_finds_the_few_unusual(tmp_path):
    asked = []

    def noted(positions):
        asked.extend(positions.tolist())
        requests = with_some_nan(positions)
        x = np.ones_like(requests.inputs["x"])
        x[positions % 300 == 7, 0] = np.inf
        requests.inputs["x"] = x
        return requests

    recipe = LegRecipe(
        role="candidate", model=plain(tmp_path / "m.onnx"), limits=LIMITS, allow_weaker=True
    )
    with open_legs(recipe) as (leg,):
        found = run_alone(leg, batches(30_000), noted, np.random.default_rng(1))
    assert (min(asked), max(asked)) == (0, 29_999)
    assert found.requests == 1024
    assert found.escaping == pytest.approx(0.0029, abs=1e-4)
    odd = unusual(noted(np.arange(600)))
    assert np.flatnonzero(odd).tolist() == [7, 307]


@pytest.mark.usefixtures("as_many_alone")
def test_a_request_that_only_its_batch_answers_gets_another_answer_alone(tmp_path):
    """Adds zero made of the second row: a request of one row fails by itself."""
    path = model(
        tmp_path / "m.onnx",
        ("Constant", [], ["at"], {"value_ints": [1]}),
        ("Gather", ["x", "at"], ["second"], {"axis": 0}),
        ("Mul", ["second", "second"], ["s"], {}),
        ("Sub", ["s", "s"], ["zero"], {}),
        ("Add", ["x", "zero"], ["y"], {}),
    )
    recipe = LegRecipe(role="candidate", model=path, limits=LIMITS, allow_weaker=True)

    def ones(positions):
        requests = with_some_nan(positions)
        requests.inputs["x"] = np.ones_like(requests.inputs["x"])
        return requests

    with open_legs(recipe) as (leg,):
        assert company(leg, batches(1500), ones) is Company.NOTHING
        found = run_alone(leg, batches(1500), ones, np.random.default_rng(1))
    assert found.differ is Company.ANSWERS

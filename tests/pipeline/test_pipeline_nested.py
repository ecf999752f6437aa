"""Models that return sequences and optionals: each request by itself, compared whole."""

import json

import numpy as np
import onnx
import pytest
from gates import PLAIN, tiny_traffic
from onnx import TensorProto, helper, numpy_helper

from harness.core.errors import GateError
from harness.core.policies import GraphPolicy, SandboxPolicy
from harness.core.traffic import RequestBatch
from harness.core.verdicts import Decision
from harness.pipeline.compare import compare_models
from harness.pipeline.gate import run_gate
from harness.pipeline.opening import LegRecipe, open_legs
from harness.replay.asked import asked_by

FLOAT = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
SEQUENCE = helper.make_sequence_type_proto(FLOAT)
OPTIONAL = helper.make_optional_type_proto(FLOAT)
N = 24


def node(operator, inputs, outputs, **attributes):
    return helper.make_node(operator, inputs, outputs, **attributes)


def model(path, *nodes, kind=SEQUENCE, scale=2.0, takes=None):
    """y = scale·x, and s, made of m = scale·x by these nodes."""
    given = takes or helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])
    graph = helper.make_graph(
        [node("Mul", ["x", "k"], ["m"]), *nodes, node("Identity", ["m"], ["y"])], "g", [given],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"]),
            helper.make_value_info("s", kind),
        ],
        [numpy_helper.from_array(np.float32([scale]), "k")],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    made.ir_version = 8
    path.write_bytes(made.SerializeToString())
    return str(path)


PAIR = node("SequenceConstruct", ["m", "m"], ["s"])


def positives(last=0.0):
    """s holds m, and m again where the request's sum is above a bound."""
    more = helper.make_graph(
        [node("SequenceConstruct", ["m", "m"], ["two"])], "t", [],
        [helper.make_value_info("two", SEQUENCE)],
    )  # fmt: skip
    less = helper.make_graph(
        [node("SequenceConstruct", ["m"], ["one"])], "e", [],
        [helper.make_value_info("one", SEQUENCE)],
    )  # fmt: skip
    return (
        node("ReduceSum", ["x"], ["r"], keepdims=0),
        node("Constant", [], ["bound"], value_float=last),
        node("Greater", ["r", "bound"], ["c"]),
        node("If", ["c"], ["s"], then_branch=more, else_branch=less),
    )


@pytest.fixture
def x():
    return np.random.default_rng(3).normal(size=N).astype(np.float32)


@pytest.fixture
def inputs(tmp_path, x):
    np.savez(tmp_path / "x.npz", x=x)
    return [tmp_path / "x.npz"]


def compared(tmp_path, inputs, old, new, *, graphs=False):
    return compare_models(
        old, new, inputs=inputs, cache_dir=tmp_path / "cache", allow_lower_isolation=True,
        looked_into=GraphPolicy(requests=256 * graphs),
    )  # fmt: skip


def about(result, name):
    return next(r for r in result.intermediates["outputs"] if r["name"] == name)


def test_a_sequence_is_compared_value_by_value(tmp_path, inputs):
    old = model(tmp_path / "old.onnx", PAIR)
    assert compared(tmp_path, inputs, old, old).exit_code == 0
    result = compared(
        tmp_path, inputs, old, model(tmp_path / "new.onnx", PAIR, scale=3.0), graphs=True
    )
    found = about(result, "s")
    assert result.exit_code == 1
    assert (found["relation"], found["value"]) == ("scaled", pytest.approx(1.5))
    assert (found["requests"], found["mismatched_requests"], found["rows"]) == (N, N, 2 * N)
    assert not any("sequence" in said or "output s" in said for said in result.not_compared)


def test_another_length_differs_and_is_told(tmp_path, inputs, x):
    old = model(tmp_path / "old.onnx", *positives())
    new = model(tmp_path / "new.onnx", *positives(last=0.5))
    result = compared(tmp_path, inputs, old, new)
    found = about(result, "s")
    assert found["mismatched_requests"] == int(((x > 0) & (x <= 0.5)).sum()) > 0
    assert found["text"] == "it was a sequence of 2 tensors and is a sequence of 1 tensor"
    assert about(result, "y")["verdict"] == "equal"


def test_an_optional_that_is_absent_on_one_side_differs(tmp_path, inputs):
    there = model(tmp_path / "a.onnx", node("Optional", ["m"], ["s"]), kind=OPTIONAL)
    absent = model(tmp_path / "b.onnx", node("Optional", [], ["s"], type=FLOAT), kind=OPTIONAL)
    found = about(compared(tmp_path, inputs, there, absent), "s")
    assert (found["text"], found["mismatched_requests"]) == ("it was a tensor and is absent", N)


def test_the_graph_says_where_sequences_part(tmp_path, inputs):
    steps = [node("SequenceConstruct", ["m", "m"], ["q"]), node("Identity", ["q"], ["s"])]
    other = [node("SequenceConstruct", ["m", "m", "m"], ["q"]), node("Identity", ["q"], ["s"])]
    old, new = model(tmp_path / "a.onnx", *steps), model(tmp_path / "b.onnx", *other)
    report = compared(tmp_path, inputs, old, new, graphs=True).graph.report
    assert [d.divergence.baseline for d in report.divergences] == ["q"]
    assert report.compared == len(report.states)


def test_a_sequence_is_no_effect_of_reading_features(tmp_path, inputs):
    path = model(tmp_path / "a.onnx", PAIR)
    made = onnx.load(path)
    onnx.helper.set_model_props(made, {"harness.features": json.dumps(["m"])})
    onnx.save(made, path)
    result = compared(tmp_path, inputs, path, path)
    assert "observer_effect" not in {f.kind for f in result.findings}
    assert (
        "24 of 24 requests answered alike while features are read, but for s (" in result.to_text()
    )
    said = [t for t in result.not_compared if "whether reading features changes s" in t]
    assert [t.partition(":")[0] for t in said] == ["baseline", "candidate"]


def batch(x):
    n = len(x)
    return RequestBatch(
        seq=np.arange(n), request_id=np.array([f"r{i}" for i in range(n)], object),
        ts_ns=np.zeros(n, np.int64), rows=np.full(n, 2), inputs={"x": np.repeat(x, 2)}, recorded={},
        answered=np.zeros(n, np.bool_), context={},
    )  # fmt: skip


def test_each_request_runs_by_itself_and_keeps_its_own_sequence(tmp_path, x):
    model(tmp_path / "m.onnx", PAIR)
    limits = SandboxPolicy(require="S0")
    recipe = LegRecipe(role="baseline", model=tmp_path / "m.onnx", limits=limits)
    with open_legs(recipe) as (leg,):
        assert (leg.whole, leg.singly) == (True, True)
        leg.singly = False
        assert leg.singly
        with pytest.raises(GateError, match="sequences"):
            leg.submit(batch(x), trace=False)
        asked = asked_by(leg)
        asked.submit(batch(x), trace=False)
        found = asked.collect()
    assert found.outputs["s"].shape == (2 * N,)
    for request, value in enumerate(x):
        cells = found.outputs["s"][2 * request : 2 * request + 2]
        assert [c.leaves[1].tolist() for c in cells] == [[2 * value] * 2] * 2


POLICY = """
version: 1
preset: refactor
sandbox: {require: S0}
windows: {newest: {days: 3650}, min_requests: 100}
guardrails:
  - {name: same, metric: parity_mismatch, scope: outputs, margin: 0.05}
"""


INNER = "  - {name: inner, metric: parity_mismatch, scope: features, margin: 0.05}\n"


@pytest.mark.parametrize(("scale", "verdict"), [(2.0, "PASS"), (3.0, "FAIL")])
def test_a_gate_judges_sequences(tmp_path, scale, verdict):
    values = np.random.default_rng(5).normal(size=400).astype(np.float32)
    tiny_traffic(tmp_path / "traffic", values=values)
    (tmp_path / "policy.yaml").write_text(POLICY)
    old = model(tmp_path / "old.onnx", PAIR)
    run_gate(
        old, model(tmp_path / "new.onnx", PAIR, scale=scale),
        traffic=[tmp_path / "traffic"], policy=tmp_path / "policy.yaml", out=tmp_path / "run",
        cache_dir=tmp_path / "cache",
    )  # fmt: skip
    manifest, decision = (
        json.loads((tmp_path / "run" / f"{name}.json").read_text())
        for name in ("manifest", "decision")
    )
    assert manifest["composition"] == "recorded"
    assert {g["name"]: g["verdict"] for g in decision["guardrails"]}["same"] == verdict


def test_a_sequence_as_input_is_refused_with_what_to_do(tmp_path, inputs, harness):
    takes = helper.make_value_info("x", SEQUENCE)
    nodes = [node("SequenceAt", ["x", "i"], ["y"])]
    graph = helper.make_graph(
        nodes, "g", [takes], [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])],
        [numpy_helper.from_array(np.int64(0), "i")],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    made.ir_version = 8
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    ran = harness(*PLAIN, tmp_path / "m.onnx", tmp_path / "m.onnx", "-i", inputs[0])
    assert ran.code == 2
    assert "input 'x' is seq(tensor(float)), which no recorded request can carry" in ran.err
    assert "plain tensors as inputs" in ran.err


def test_a_feature_that_is_a_sequence_is_equal_to_itself_as_the_graphs_show(tmp_path, inputs):
    path = model(tmp_path / "m.onnx", PAIR, node("SequenceConstruct", ["m", "m"], ["q"]))
    made = onnx.load(path)
    helper.set_model_props(made, {"harness.features": '["m", "q"]'})
    onnx.save(made, path)
    result = compared(tmp_path, inputs, path, path, graphs=True)
    assert result.exit_code == 0
    assert "features: 2 of 2 tensors equal; 0 requests differ" in result.to_text()
    assert "q is equal in the graphs, in all 24 requests" in result.to_text()
    assert not [text for text in result.not_compared if "q" in text.split()]
    assert "every feature that counts" not in result.to_html()


WIDE = (
    node("Abs", ["x"], ["size"]),
    node("ReduceMax", ["size"], ["most"], keepdims=1),
    node("Ceil", ["most"], ["up"]),
    node("Cast", ["up"], ["count"], to=TensorProto.INT64),
    node("Concat", ["one", "count"], ["counts"], axis=0),
    node("Unsqueeze", ["m", "one"], ["column"]),
    node("Tile", ["column", "counts"], ["tiled"]),
)
"""`tiled` is as wide as the largest value of a request."""


@pytest.mark.parametrize(("largest", "code"), [(3.0, 0), (30.0, 2)])
def test_a_feature_of_several_shapes_is_said_not_to_be_compared(tmp_path, largest, code):
    path = model(tmp_path / "m.onnx", PAIR, *WIDE)
    made = onnx.load(path)
    made.graph.initializer.append(numpy_helper.from_array(np.int64([1]), "one"))
    helper.set_model_props(made, {"harness.features": '["m", "tiled"]'})
    onnx.save(made, path)
    inputs = tmp_path / "in.npz"
    np.savez(inputs, x=np.float32([2.5] * 10 + [largest] * 10))
    result = compared(tmp_path, [inputs], path, path)
    text = "feature tiled: in both versions its shape differs among the requests of a batch (or rows that nobody answered would take too much memory)"
    assert (result.exit_code, text in result.not_compared) == (code, code == 2)


def test_a_gate_about_features_holds_where_one_is_a_sequence(tmp_path):
    sequence, paths = node("SequenceConstruct", ["m", "m"], ["q"]), []
    # Two graphs, of which nothing proves that they compute the same sequence.
    for name, scale in (("old", 2.0), ("new", 2.0000002)):
        paths.append(model(tmp_path / f"{name}.onnx", PAIR, sequence, scale=scale))
        made = onnx.load(paths[-1])
        helper.set_model_props(made, {"harness.features": '["m", "q"]'})
        onnx.save(made, paths[-1])
    tiny_traffic(tmp_path / "traffic", values=np.linspace(-3, 3, 200))
    (tmp_path / "policy.yaml").write_text(POLICY + INNER)
    record = run_gate(
        *paths, traffic=[tmp_path / "traffic"], policy=tmp_path / "policy.yaml",
        out=tmp_path / "run", cache_dir=tmp_path / "cache",
    ).record  # fmt: skip
    assert (record.decision, record.reason) == (Decision.HOLD, "features_not_compared")
    assert "baseline tensor q: is a seq(tensor(float))" in record.not_compared
    found = json.loads((tmp_path / "run" / "intermediates.json").read_text())
    assert (found["compared"]["feature_requests"], found["compared"]["whole_feature_requests"]) == (
        200,
        0,
    )
    verdicts = {f["name"]: (f["verdict"], f["requests"]) for f in found["features"]}
    assert verdicts == {"m": ("equal", 200), "q": ("not_compared", 0)}

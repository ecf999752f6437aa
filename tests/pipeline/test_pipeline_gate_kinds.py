"""Gates of versions with unusual outputs, features or requests: compared as `compare` does, or no promotion."""

import json

import numpy as np
import onnx
import pytest
from gates import tiny_traffic

from harness.core.verdicts import Decision
from harness.pipeline.gate import run_gate

POLICY = """
version: 1
preset: refactor
sandbox: {require: S0}
windows: {newest: {days: 3650}, min_requests: 100}
drop: [outputs, features]
guardrails:
  - {name: same, metric: parity_mismatch, scope: outputs, margin: 0.05}
"""
INNER = "  - {name: inner, metric: parity_mismatch, scope: features, margin: 0.05}\n"
TABLE = """
<ir_version: 8, opset_import: ["" : 15]>
m (float[N] x) => (float[N] y, float[3] t) {{
  q = Identity(x)
  y = Neg(q)
  t = Constant<value = float[3] {{1.0, 2.0, {k}}}>()
}}
"""
SINGLE = """
<ir_version: 8, opset_import: ["" : 15]>
m (float[N] x) => (float[N] y) {{
  s = Constant<value = int64[1] {{1}}>()
  f = Reshape(x, s)
  k = Constant<value = float {{{k}}}>()
  y = Mul(f, k)
}}
"""


PARTS = """
<ir_version: 8, opset_import: ["" : 15]>
m (float[N] x) => (float[N] y) {{
  k = Constant<value = float {{{k}}}>()
  l = Constant<value = float {{{m}}}>()
  {first} = Mul(x, k)
  b = Mul(x, l)
  f = SequenceConstruct({first}, b)
  i = Constant<value = int64 {{1}}>()
  c = SequenceAt(f, i)
  d = Sub(c, b)
  y = Add(x, d)
}}
"""
"""f is a sequence, and y does not depend on it."""
CALLED = """
<ir_version: 8, opset_import: ["" : 18, "in" : 1]>
m (float[N] x) => (float[N] y) {{
  k = in.OUTER(x)
  f = SequenceConstruct(k, x)
  i = Constant<value = int64 {{1}}>()
  y = SequenceAt(f, i)
}}
<domain: "in", opset_import: ["" : 18]> INNER (q) => (z) {{ z = {op}(q) }}
<domain: "in", opset_import: ["" : 18, "in" : 1]> OUTER (q) => (z) {{ z = in.INNER(q) }}
"""
"""The same, by a function that calls another."""


@pytest.fixture
def gated(tmp_path):
    """A gate of two models, given as text, on recorded requests of one value; its folder is `run`."""

    def gate(old, new, features=(), more="", n=200, without_rows=()):
        for name, text in (("old", old), ("new", new)):
            model = onnx.parser.parse_model(text)
            if features:
                onnx.helper.set_model_props(model, {"harness.features": json.dumps(features)})
            onnx.save(model, tmp_path / f"{name}.onnx")
        tiny_traffic(tmp_path / "traffic", values=np.linspace(-3, 3, n), without_rows=without_rows)
        (tmp_path / "policy.yaml").write_text(POLICY + (INNER if features else "") + more)
        return run_gate(
            str(tmp_path / "old.onnx"), str(tmp_path / "new.onnx"), traffic=[tmp_path / "traffic"],
            policy=tmp_path / "policy.yaml", out=tmp_path / "run", cache_dir=tmp_path / "cache",
        )  # fmt: skip

    return gate


def read(tmp_path, name):
    return json.loads((tmp_path / "run" / f"{name}.json").read_text())


@pytest.mark.parametrize(
    ("k", "decision", "unlike"),
    [(3.0, Decision.PROMOTE, []), (4.0, Decision.ROLLBACK, ["t[2]"])],
)
def test_a_table_is_judged_beside_ordinary_outputs(tmp_path, gated, k, decision, unlike):
    result = gated(TABLE.format(k=3.0), TABLE.format(k=k), ["q"])
    assert result.decision is decision
    found = read(tmp_path, "intermediates")
    columns = {c["name"]: c["mismatched_requests"] for c in found["outputs"]}
    assert columns == {n: 200 * (n in unlike) for n in ("y", "t[0]", "t[1]", "t[2]")}
    assert not found["not_compared"]


@pytest.mark.parametrize(("k", "decision"), [(1.0, Decision.PROMOTE), (2.0, Decision.ROLLBACK)])
def test_versions_that_answer_no_batch_are_judged_request_by_request(tmp_path, gated, k, decision):
    result = gated(SINGLE.format(k=1.0), SINGLE.format(k=k))
    assert result.decision is decision
    assert read(tmp_path, "manifest")["composition"] == "recorded"
    assert any("every request was replayed by itself" in f.what for f in result.findings)


def test_a_sequence_that_identical_nodes_compute_is_an_equal_feature(tmp_path, gated):
    result = gated(*(PARTS.format(k=2.0, m=3.0, first=name) for name in "az"), ["f"])
    assert result.decision is Decision.PROMOTE
    found = read(tmp_path, "intermediates")
    assert [(f["name"], f["verdict"]) for f in found["features"]] == [("f", "equal")]
    assert not found["not_compared"]
    (told,) = [f.what for f in result.findings if f.kind == "feature_equal"]
    assert "f is computed by identical nodes in both versions" in told


@pytest.mark.parametrize(
    ("op", "decision"), [("Relu", Decision.PROMOTE), ("Softplus", Decision.HOLD)]
)
def test_functions_that_functions_call_are_part_of_identical_nodes(gated, op, decision):
    result = gated(CALLED.format(op="Relu"), CALLED.format(op=op), ["f"])
    assert result.decision is decision


def test_a_feature_that_is_an_input_is_equal_whatever_computes_the_rest(tmp_path, gated):
    result = gated(TABLE.format(k=3.0), TABLE.format(k=3.0000002), ["x"])
    assert result.decision is Decision.PROMOTE
    (told,) = [f.what for f in result.findings if f.kind == "feature_equal"]
    assert told == "x is an input: both versions are given the same values"


@pytest.mark.parametrize(
    ("k", "m", "more"), [(2.0, 3.0, "graph: {when: never}\n"), (2.0, 4.0, ""), (3.0, 2.0, "")]
)
def test_one_that_nothing_proves_equal_holds(gated, k, m, more):
    # Constants that changed places are the same numbers in the same arrangement, and another sequence.
    old, new = PARTS.format(k=2.0, m=3.0, first="a"), PARTS.format(k=k, m=m, first="a")
    result = gated(old, new, ["f"], more)
    assert (result.decision, result.record.reason) == (Decision.HOLD, "features_not_compared")
    assert "baseline tensor f: is a seq(tensor(float))" in result.record.not_compared


HIDDEN = """
<ir_version: 8, opset_import: ["" : 15]>
m (float[N] x) => (float[N] y, float[{length}] t) {{
  q = Identity(x)
  y = Neg(q)
  k = Constant<value = float[4] {{1.0, 2.0, 3.0, 9.0}}>()
  shape = Shape(x)
  zero = Constant<value = int64[1] {{0}}>()
  none = Mul(shape, zero)
  three = Constant<value = int64[1] {{3}}>()
  end = Add(none, three)
  t = Slice(k, zero, end)
}}
"""
"""As TABLE of k = 3, of any declared length."""


@pytest.mark.parametrize(
    ("old", "new"),
    [(TABLE.format(k=3.0), HIDDEN.format(length=n)) for n in ("K", "4")]
    + [(HIDDEN.format(length="K"), TABLE.format(k=3.0))],
)
def test_the_length_that_one_version_declares_is_known_of_the_other(tmp_path, gated, old, new):
    assert gated(old, new).decision is Decision.PROMOTE
    columns = {c["name"]: c["requests"] for c in read(tmp_path, "intermediates")["outputs"]}
    assert columns == dict.fromkeys(("y", "t[0]", "t[1]", "t[2]"), 200)


def test_a_table_that_neither_declares_is_not_compared_and_holds(gated):
    result = gated(HIDDEN.format(length="K"), HIDDEN.format(length="M"))
    assert (result.decision, result.record.reason) == (Decision.HOLD, "baseline_fails")


@pytest.mark.parametrize(("k", "decision"), [(2.0, Decision.PROMOTE), (3.0, Decision.ROLLBACK)])
def test_a_rank_that_only_the_candidate_declares_is_no_other_signature(
    tmp_path, gated, k, decision
):
    old = """
    <ir_version: 8, opset_import: ["" : 15]>
    m (float[] x) => (float[] y) { k = Constant<value = float {2.0}>()  y = Mul(x, k) }
    """
    new = old.replace("[]", "[N]").replace("2.0", str(k))
    assert gated(old, new).decision is decision
    assert any(
        "input x FP32[any rank] is x FP32[?]" in text
        for text in read(tmp_path, "intermediates")["not_compared"]
    )

"""What a comparison could not see is never parity, and what is said of it is true."""

import json

import numpy as np
import onnx
import pytest

from harness.core.errors import SignatureError, UsageError
from harness.core.policies import GraphPolicy
from harness.pipeline.compare import compare_models
from harness.pipeline.renames import mapping_from_options

NONE = GraphPolicy(requests=0)
HEAD = '<ir_version: 8, opset_import: ["" : 15]>\n'
SEQUENCE = """
m (float[N,4] x) => (bool[N,8] y) {{
  k = Constant<value = float {{{k}}}>()
  z = Constant<value = float {{0.0}}>()
  a = Mul(x, k)
  f = SequenceConstruct(a, x)
  g = ConcatFromSequence<axis = 1>(f)
  y = Greater(g, z)
}}
"""
RENAMED = """
m (float[N,4] x) => (bool[N,8] y) {{
  factor = Constant<value = float {{{k}}}>()
  zero = Constant<value = float {{0.0}}>()
  scaled = Mul(x, factor)
  parts = SequenceConstruct(scaled, x)
  whole = ConcatFromSequence<axis = 1>(parts)
  y = Greater(whole, zero)
}}
"""
PLAIN = """
m (float[{rows},4] x) => (float[{rows},4] y) {{
  k = Constant<value = float {{{k}}}>()
  y = Mul(x, k)
}}
"""
RANDOM = """
m (float[N,4] x) => (float[N,4] y) {{
  k = Constant<value = float {{{k}}}>()
  a = Mul(x, k)
  r = RandomUniformLike(x)
  y = Add(a, r)
}}
"""
TWO = """
m (float[N,4] x) => (float[N,4] p, float[N,4] q) {{
  k = Constant<value = float {{{k}}}>()
  p = Mul(x, k)
  q = Neg(x)
}}
"""


@pytest.fixture
def compared(tmp_path, windows):
    """Compares two drawn models on sixty requests of one row."""

    def compare(old, new, features=(), renamed=None, opset=15, **options):
        paths = []
        for name, text, declared in (("old", old, features), ("new", new, renamed or features)):
            head = HEAD.replace("15", str(opset)) if name == "new" else HEAD
            model = onnx.parser.parse_model(head + text)
            if declared:
                onnx.helper.set_model_props(model, {"harness.features": json.dumps(declared)})
            paths.append(str(tmp_path / f"{name}.onnx"))
            onnx.save(model, paths[-1])
        x = np.random.default_rng(3).normal(size=(60, 4)).astype(np.float32)
        np.savez(tmp_path / "in.npz", x=x)
        return compare_models(*paths, inputs=[tmp_path / "in.npz"], cache_dir=windows, **options)

    return compare


def test_a_feature_that_is_a_sequence_differs_in_the_graphs(compared):
    result = compared(SEQUENCE.format(k=1.0), SEQUENCE.format(k=2.0), ["f"])
    assert result.exit_code == 1
    assert "f differs, as 60 requests in the graphs show" in result.to_text()


def test_a_feature_that_is_a_sequence_is_equal_where_the_graphs_saw_every_request(compared):
    result = compared(SEQUENCE.format(k=1.0), SEQUENCE.format(k=1.0), ["f"])
    assert result.exit_code == 0
    assert "f is equal in the graphs, in all 60 requests" in result.to_text()
    assert_counted(result)


def assert_counted(result):
    """A feature that the graphs show equal is counted as such, and nothing says that it was not compared."""
    text = result.to_text()
    assert "features: 1 of 1 tensors equal; 0 requests differ" in text
    assert "not compared: baseline tensor" not in text
    assert "no feature inside the models was compared" not in text
    assert not [f for f in result.findings if f.kind == "features_not_compared"]
    assert not [t for t in result.not_compared if t.startswith("feature f")]


def test_a_sequence_of_the_same_file_is_proven_by_its_nodes_where_the_graphs_saw_some_requests(
    compared,
):
    one = SEQUENCE.format(k=1.0)
    result = compared(one, one, ["f"], looked_into=GraphPolicy(requests=20))
    assert result.exit_code == 0
    assert "f is computed by identical nodes in both versions" in result.to_text()
    assert_counted(result)


def test_a_renamed_and_mapped_sequence_is_proven_by_its_nodes(compared):
    result = compared(
        SEQUENCE.format(k=1.0), RENAMED.format(k=1.0), ["f"], ["parts"],
        looked_into=GraphPolicy(requests=20), mapping=("tensors:f=parts",),
    )  # fmt: skip
    assert result.exit_code == 0
    assert "f is computed by identical nodes in both versions" in result.to_text()
    assert_counted(result)


def test_a_renamed_sequence_of_another_opset_stays_unproven(compared):
    result = compared(
        SEQUENCE.format(k=1.0), RENAMED.format(k=1.0), ["f"], ["parts"], opset=16,
        looked_into=GraphPolicy(requests=20), mapping=("tensors:f=parts",),
    )  # fmt: skip
    assert result.exit_code == 2


def test_a_random_operator_anywhere_leaves_a_sequence_of_the_same_file_unproven(compared):
    one = SEQUENCE.format(k=1.0).replace("f = Seq", "r = RandomUniformLike(x)\n  f = Seq")
    assert compared(one, one, ["f"], looked_into=GraphPolicy(requests=20)).exit_code == 2


@pytest.mark.parametrize(("requests", "why"), [(0, "not compared"), (20, "not compared in the")])
def test_a_declared_feature_that_nothing_compared_is_no_parity(compared, requests, why):
    old = SEQUENCE.format(k=1.0)
    new = old.replace("g = Con", "h = Neg(a)\n  g = Con")
    result = compared(old, new, ["f"], looked_into=GraphPolicy(requests=requests))
    assert result.exit_code == 2
    assert [t for t in result.not_compared if t.startswith("feature f: ") and why in t]
    (lost,) = [f for f in result.findings if f.kind == "features_not_compared"]
    assert "harness.features" not in lost.remedy


@pytest.mark.parametrize("old", [PLAIN.format(rows="N", k=1.0), RANDOM.format(k=1.0)])
def test_after_a_random_operator_no_request_is_called_compared(compared, old):
    text = compared(old, RANDOM.format(k=2.0)).to_text()
    assert text.startswith("NOT COMPARABLE")
    assert "0 of 60 requests compared" in text
    assert "a single row" not in text
    assert "agree all the same" not in text


def test_graphs_that_part_before_a_random_output_do_not_say_that_it_agrees(compared):
    result = compared(RANDOM.format(k=1.0), RANDOM.format(k=2.0))
    assert "outputs that were not compared is not known" in result.to_text()
    assert "not all compared" in result.to_html()


def test_a_model_of_fixed_batches_answers_requests_of_its_rows(compared):
    result = compared(PLAIN.format(rows=1, k=1.0), PLAIN.format(rows="N", k=2.0), looked_into=NONE)
    assert (result.exit_code, result.compared) == (1, 60)


def test_the_mapping_that_is_suggested_can_be_used(compared):
    same = TWO.format(k=1.0)
    with pytest.raises(SignatureError) as refused:
        compared(same, same, mapping=["outputs:q=p"])
    remedy = refused.value.remedy
    assert "outputs: {q: p, p: q}" in remedy
    shown = [line.split() for line in remedy.splitlines() if line.startswith("  output ")]
    assert [(words[1], words[4]) for words in shown] == [("p", "q"), ("q", "p")]


@pytest.mark.parametrize("options", [("p=q", "p=p"), ("p=p", "q=p"), ("p=q", "p=q")])
def test_a_name_that_is_mapped_twice_is_refused(options):
    with pytest.raises(UsageError, match="is mapped twice"):
        mapping_from_options([f"outputs:{option}" for option in options])

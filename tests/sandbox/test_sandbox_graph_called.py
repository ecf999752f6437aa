"""A node that calls a function of its model is described by all that runs then."""

import onnx
import pytest

from harness.sandbox.graph_called import CalledFunctions
from harness.sandbox.graph_description import described_graph
from harness.sandbox.graph_numbers import arrangement
from harness.sandbox.graph_random import RandomNodes

CALLED = """
<ir_version: 8, opset_import: ["" : 18, "in" : 1]>
g (float[N] x) => (float[N] y) {{ {main} }}
<domain: "in", opset_import: ["" : 18]> LAST (q) => (z) {{ z = {op}(q) }}
<domain: "in", opset_import: ["" : 18, "in" : 1]> NEXT (q) => (z) {{ z = in.LAST(q) }}
<domain: "in", opset_import: ["" : 18, "in" : 1]> FIRST (q) => (z) {{ z = in.NEXT(q) }}
<domain: "in", opset_import: ["" : 18, "in" : 1]> BRANCHED (q) => (z) {{
  c = Constant<value = bool {{1}}>()
  z = If(c) <then_branch = t () => (u) {{ u = in.LAST(q) }}, else_branch = e () => (v) {{ v = Identity(q) }}>
}}
"""
IN_IF = """c = Constant<value = bool {1}>()
y = If(c) <then_branch = t () => (u) { u = in.FIRST(x) }, else_branch = e () => (v) { v = Identity(x) }>"""
MADE = """
<ir_version: 8, opset_import: ["" : 13]>
g (float[N, 6] x) => (float[N, 6] y) {{
  c = Constant<value = bool {{1}}>()
  y = If(c) <then_branch = t () => (u) {{ {split} u = Concat<axis = 1>(a, a) }}, else_branch = e () => (v) {{ v = Identity(x) }}>
}}
"""


READ = """
<ir_version: 8, opset_import: ["" : 13]>
g (float[N] x) => (float[N] y) {{
  c = Constant<value = bool {{1}}>()
  p = Relu(x)
  q = Abs(x)
  y = If(c) <
    then_branch = t () => (u) {{
      d = If(c) <then_branch = t1 () => (r) {{ r = Neg(p) }}, else_branch = e1 () => (s) {{ s = Neg(q) }}>
      u = Add({then}, d)
    }},
    else_branch = e () => (v) {{ v = Identity({other}) }}>
}}
"""


def arranged(text):
    return arrangement(described_graph(onnx.parser.parse_model(text), {}))


@pytest.mark.parametrize(
    "main",
    ["y = in.LAST(x)", "y = in.NEXT(x)", "y = in.FIRST(x)", "y = in.BRANCHED(x)", IN_IF],
    ids=["itself", "below", "far below", "in a branch of it", "called in a branch"],
)
def test_what_a_function_calls_is_part_of_what_it_is(main):
    ours, same, other = (CALLED.format(main=main, op=op) for op in ("Relu", "Relu", "Abs"))
    assert arranged(ours) == arranged(same)
    assert arranged(ours) != arranged(other)


def test_a_function_that_is_not_called_is_no_part_of_it():
    assert arranged(CALLED.format(main="y = Neg(x)", op="Relu")) == arranged(
        CALLED.format(main="y = Neg(x)", op="Abs")
    )


def test_functions_that_call_each_other_have_an_end():
    model = onnx.parser.parse_model(CALLED.format(main="y = in.FIRST(x)", op="Relu"))
    model.functions[0].node[0].CopyFrom(onnx.helper.make_node("FIRST", ["q"], ["z"], domain="in"))
    assert arrangement(described_graph(model, {}))
    assert RandomNodes(model).operators() == []


def test_a_constant_of_a_function_that_lies_in_a_file_counts_by_its_bytes():
    model = onnx.parser.parse_model(CALLED.format(main="y = in.FIRST(x)", op="Relu"))
    tensor = onnx.numpy_helper.from_array(onnx.numpy_helper.np.ones(4, "f4"))
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    constant = onnx.helper.make_node("Constant", [], ["w"], value=tensor)
    model.functions[0].node.insert(0, constant)
    ours, theirs = (
        arrangement(described_graph(model, {"w.bin": b})) for b in (b"1" * 16, b"2" * 16)
    )
    assert ours != theirs


def test_how_many_outputs_an_operator_in_a_branch_has_is_told():
    two, three = "a, b = Split<axis = 1>(x)", "a, b, c = Split<axis = 1>(x)"
    assert arranged(MADE.format(split=two)) != arranged(MADE.format(split=three))


@pytest.mark.parametrize("changed", [{"then": "q"}, {"other": "q"}])
def test_which_outer_tensor_each_body_reads_is_told(changed):
    plain = {"then": "p", "other": "p"}
    assert arranged(READ.format(**plain)) != arranged(READ.format(**plain | changed))
    renamed = READ.format(**plain).replace(" p ", " pp ").replace("(p", "(pp")
    assert arranged(READ.format(**plain)) == arranged(renamed)


def test_what_a_function_keeps_elsewhere_is_told_piece_by_piece():
    model = onnx.parser.parse_model(CALLED.format(main="y = in.LAST(x)", op="Relu"))
    kept = [onnx.TensorProto(name=name) for name in ("first", "second")]
    for tensor in kept:
        tensor.external_data.add(key="location", value="weights")
        held = onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)
        model.functions[0].node.append(held)
    pieces = {"first": b"12", "second": b"3"}, {"first": b"1", "second": b"23"}
    told = [
        CalledFunctions(model, lambda tensor, of=of: of[tensor.name]).digest(model.graph.node[0])
        for of in (pieces[0], pieces[0], pieces[1])
    ]
    assert told[0] == told[1] != told[2]

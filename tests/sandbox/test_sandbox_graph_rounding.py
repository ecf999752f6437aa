"""How far rounding moves a tensor, told from the graph."""

import pytest
from onnx import parser

from harness.sandbox.graph_rounding import roundings

HEAD = '<ir_version: 9, opset_import: ["" : 15, "ai.onnx.ml" : 3, "own" : 1]>\n'
F = "(float[N,200] x) => (float[N,3] y)"
D = "(double[N,200] x) => (double[N,3] y)"
INT = "(int64[N,200] x) => (float[N,3] y)"


def rounded(signature, *lines, functions="", constants=""):
    body = "\n".join(lines)
    text = f"{HEAD}g {signature} {constants} {{\n{body}\n}}\n{functions}"
    return roundings(parser.parse_model(text))


def weights(rows, kind="float"):
    return f"<{kind}[{rows},3] w = {{{', '.join(['1'] * (3 * rows))}}}>"


@pytest.mark.parametrize(
    ("signature", "lines"),
    [
        (F, ["y = Identity(x)"]),
        (F, ["g = Relu(x)", "y = Transpose(g)"]),
        (F, ['y = ai.onnx.ml.LabelEncoder<keys_floats = [1.0], values_floats = [2.0]>(x)']),
        (INT, ["s = Add(x, x)", "y = Cast<to = 1>(s)"]),
        (F, ["y = Cast<to = 11>(x)"]),
    ],
)  # fmt: skip
def test_what_is_only_moved_is_exact(signature, lines):
    assert set(rounded(signature, *lines).values()) == {0.0}


def test_longer_sums_round_more_and_layers_add_up():
    found = {n: rounded(F, "y = MatMul(x, w)", constants=weights(n))["y"] for n in (2, 20, 200)}
    assert 0 < found[2] < 1e-6 < found[20] < found[200] <= 1e-5
    twice = rounded(F, "h = MatMul(x, w)", "y = MatMul(h, w)", constants=weights(20))
    assert found[20] == twice["h"] < twice["y"] < 2 * found[20]


def test_an_exponential_makes_more_of_it():
    found = rounded(F, "h = MatMul(x, w)", "y = Softmax(h)", constants=weights(20))
    assert found["y"] > 2 * found["h"]


def test_float16_inside_is_float16s_rounding_whatever_comes_out():
    found = rounded(F, "h = Cast<to = 10>(x)", "s = Add(h, h)", "y = Cast<to = 1>(s)")
    assert found["x"] == 0
    assert 5e-4 < found["h"] < found["s"] == found["y"] < 1e-2


def test_float64_rounds_far_less_and_keeps_what_float32_did_before():
    assert 0 < rounded(D, "y = ReduceSum(x)")["y"] < 1e-12
    assert rounded(F, "s = ReduceSum(x)", "y = Cast<to = 11>(s)")["y"] > 5e-7


def test_what_cannot_be_looked_through_is_not_told_nor_what_comes_of_it():
    functions = '<domain: "own", opset_import: ["" : 15]>\nsum (a) => (b) { b = ReduceSum(a) }'
    found = rounded(F, "s = own.sum(x)", "y = Identity(s)", functions=functions)
    assert set(found) == {"x"}

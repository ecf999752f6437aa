"""Which tensors nothing rounds, told from the graph."""

import pytest
from onnx import parser

from harness.sandbox.graph_rounding import roundings

HEAD = '<ir_version: 9, opset_import: ["" : 15, "ai.onnx.ml" : 3, "own" : 1]>\n'
F = "(float[N,200] x) => (float[N,3] y)"
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


@pytest.mark.parametrize(
    ("lines", "constants"),
    [
        (["h = MatMul(x, w)", "y = Relu(h)"], weights(20)),
        (["h = Cast<to = 10>(x)", "y = Cast<to = 1>(h)"], ""),
        (["s = ReduceSum(x)", "y = Cast<to = 11>(s)"], ""),
        (["s = Exp(x)", "y = Concat<axis = 1>(x, s)"], ""),
    ],
)
def test_of_what_was_rounded_anywhere_nothing_is_told(lines, constants):
    assert set(rounded(F, *lines, constants=constants)) == {"x"}


def test_what_cannot_be_looked_through_is_not_told_nor_what_comes_of_it():
    functions = '<domain: "own", opset_import: ["" : 15]>\nsum (a) => (b) { b = ReduceSum(a) }'
    found = rounded(F, "s = own.sum(x)", "y = Identity(s)", functions=functions)
    assert set(found) == {"x"}

"""Which tensors nothing rounds, told from the graph."""

import pytest
from onnx import parser

from harness.sandbox.graph_rounding import exact_tensors, handed_on, smooth_tensors

HEAD = '<ir_version: 9, opset_import: ["" : 15, "ai.onnx.ml" : 3, "own" : 1]>\n'
F = "(float[N,200] x) => (float[N,3] y)"
INT = "(int64[N,200] x) => (float[N,3] y)"


def rounded(signature, *lines, functions="", constants=""):
    body = "\n".join(lines)
    text = f"{HEAD}g {signature} {constants} {{\n{body}\n}}\n{functions}"
    return exact_tensors(parser.parse_model(text))


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
    assert "y" in rounded(signature, *lines)


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


def handed(signature, *lines, constants=""):
    text = f"{HEAD}g {signature} {constants} {{\n" + "\n".join(lines) + "\n}"
    return set(handed_on(parser.parse_model(text))) - {"x"}


FILL = "<float[1] c = {0.5}, int64[1] i = {0}>"


@pytest.mark.parametrize(
    "lines",
    [
        ["y = Identity(x)"],
        ["y = Gather<axis = 1>(x, i)"],
        ["q = IsNaN(x)", "z = Where(q, x, x)", "y = Concat<axis = 1>(z, x)"],
        ["y = Cast<to = 11>(x)"],
        ["y = Reshape(x, i)"],
    ],
)
def test_what_the_inputs_hold_is_handed_on(lines):
    assert "y" in handed(F, *lines, constants=FILL)


@pytest.mark.parametrize(
    "lines",
    [
        ["q = IsNaN(x)", "y = Where(q, c, x)"],
        ["k = Constant<value_float = 0.5>()", "y = Max(x, k)"],
        ["y = ai.onnx.ml.LabelEncoder<keys_floats = [1.0], values_floats = [2.0]>(x)"],
        ["y = ai.onnx.ml.Imputer<imputed_value_floats = [2.0]>(x)"],
        ["h = Cast<to = 10>(x)", "y = Cast<to = 1>(h)"],
        ["y = Mul(x, x)"],
    ],
)
def test_what_constants_or_rounding_take_part_in_is_not(lines):
    assert "y" not in handed(F, *lines, constants=FILL)


def test_a_vector_of_float64_made_float32_is_not_handed_on():
    double = "(double[N,200] x) => (float[N,200] y)"
    made = "y = ai.onnx.ml.FeatureVectorizer<inputdimensions = [200]>(x)"
    assert "y" not in handed(double, made)


def smooth(*lines, functions=""):
    text = f"{HEAD}g {F} {weights(200)} {{\n" + "\n".join(lines) + f"\n}}\n{functions}"
    return smooth_tensors(parser.parse_model(text))


@pytest.mark.parametrize(
    "lines",
    [
        ["m = MatMul(x, w)", "y = Softmax(m)"],
        ["m = MatMul(x, w)", "h = Cast<to = 10>(m)", "r = Relu(h)", "y = Cast<to = 1>(r)"],
        ["zero = Constant<value = float {0.0}>()", "c = Greater(x, zero)", "f = Cast<to = 1>(c)", "y = MatMul(f, w)"],
        ["f = Floor(x)", "y = MatMul(f, w)"],
    ],
)  # fmt: skip
def test_what_follows_sums_without_a_step_is_smooth(lines):
    assert "y" in smooth(*lines)


@pytest.mark.parametrize(
    "lines",
    [
        ["m = MatMul(x, w)", "y = Floor(m)"],
        ["m = MatMul(x, w)", "r = Round(m)", "y = Sigmoid(r)"],
        ["m = MatMul(x, w)", "c = Greater(m, m)", "y = Cast<to = 1>(c)"],
        ["m = MatMul(x, w)", "c = Greater(m, m)", "y = Where(c, m, m)"],
        ["m = MatMul(x, w)", "i = Cast<to = 7>(m)", "y = Cast<to = 1>(i)"],
        ["m = MatMul(x, w)", "i = ArgMax<axis = 1>(m)", "y = Cast<to = 1>(i)"],
        ["m = MatMul(x, w)", "y = own.unknown(m)"],
    ],
)  # fmt: skip
def test_what_comes_of_a_step_of_sums_is_not(lines):
    found = smooth(*lines)
    assert "m" in found
    assert "y" not in found

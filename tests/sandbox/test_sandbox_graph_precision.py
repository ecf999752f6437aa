"""Which float64 tensors have float32's digits only, told from the graph."""

import pytest
from onnx import parser

from harness.sandbox.graph_precision import doubles_from_singles

HEAD = '<ir_version: 9, opset_import: ["" : 15, "ai.onnx.ml" : 3, "own" : 1]>\n'


def coarse(signature, *lines, functions=""):
    body = "\n".join(lines)
    return set(
        doubles_from_singles(parser.parse_model(f"{HEAD}g {signature} {{\n{body}\n}}\n{functions}"))
    )


D, F = "(double[N,3] x) => (double[N] y)", "(float[N,3] x) => (double[N] y)"


@pytest.mark.parametrize(
    ("signature", "lines", "found"),
    [
        (D, ["y = ReduceSum(x)"], ""),
        (F, ["s = ReduceSum(x)", "y = Cast<to = 11>(s)"], "y"),
        # Values that merely come as float32 lose nothing on the way.
        (F, ["d = Cast<to = 11>(x)", "y = ReduceSum(d)"], ""),
        (F, ["a = Abs(x)", "d = Cast<to = 11>(a)", "y = ReduceSum(d)"], ""),
        (D, ["f = Cast<to = 1>(x)", "d = Cast<to = 11>(f)", "y = ReduceSum(d)"], "d y"),
        (F, ["s = ReduceSum(x)", "d = Cast<to = 11>(s)", "y = Add(d, d)"], "d y"),
        # A whole number is the same number in any type.
        (F, ["s = ReduceSum(x)", "i = Cast<to = 7>(s)", "y = Cast<to = 11>(i)"], ""),
        (F, ["s = ai.onnx.ml.Normalizer<norm = \"L2\">(x)", "y = Cast<to = 11>(s)"], "y"),
        (F, ["s = own.Unheard(x)", "t = own.Unheard(s)", "y = Cast<to = 11>(t)"], "y"),
    ],
    ids=str,
)  # fmt: skip
def test_float32_arithmetic_is_followed(signature, lines, found):
    assert coarse(signature, *lines) == set(found.split())


def test_a_function_of_the_model_is_looked_into():
    functions = '<domain: "own", opset_import: ["" : 15]>\nsum (a) => (b) { b = ReduceSum(a) }'
    lines = ["s = own.sum(x)", "y = Cast<to = 11>(s)"]
    assert coarse(F, *lines, functions=functions) == {"y"}
    assert coarse(D, "y = own.sum(x)", functions=functions) == set()


def test_a_branch_is_looked_into():
    branches = (
        "c = Constant<value = bool {1}>()",
        (
            "y = If(c)<then_branch = t () => (double[N] a) { s = ReduceSum(x) a = Cast<to = 11>(s) },"
            " else_branch = e () => (double[N] b) { d = Cast<to = 11>(x) b = ReduceSum(d) }>"
        ),
    )
    assert coarse(F, *branches) == {"y"}
    assert coarse(D, *branches) == set()


@pytest.mark.parametrize("first", ["Cast<to = 11>(a)", "Identity(a)"])
def test_a_chain_of_functions_longer_than_the_stack_is_walked(first):
    heads = '<domain: "own", opset_import: ["" : 15, "own" : 1]>\n'
    links = [first, *(f"own.f{i}(a)" for i in range(1199))]
    functions = "\n".join(
        f"{heads}f{i} (a) => (b) {{ b = {link} }}" for i, link in enumerate(links)
    )
    lines = ["s = ReduceSum(x)", "y = own.f1199(s)"]
    assert coarse(F, *lines, functions=functions) == ({"y"} if "Cast" in first else set())


def test_functions_that_call_one_twice_are_walked_once_each():
    heads = '<domain: "own", opset_import: ["" : 15, "own" : 1]>\n'
    first = f"{heads}f0 (a) => (b) {{ b = Cast<to = 11>(a) }}"
    twice = (
        f"{heads}f{i} (a) => (b) {{ c = own.f{i - 1}(a)\n d = own.f{i - 1}(a)\n b = Add(c, d) }}"
        for i in range(1, 40)
    )
    functions = "\n".join((first, *twice))
    assert coarse(F, "s = ReduceSum(x)", "y = own.f39(s)", functions=functions) == {"y"}

"""Which nodes are random, where functions call functions."""

import pytest
from onnx import parser

from harness.sandbox.graph_random import RandomNodes

DEEP = 1200


def random_of(*functions, calls):
    head = '<ir_version: 9, opset_import: ["" : 15, "own" : 1]>\n'
    domain = '<domain: "own", opset_import: ["" : 15, "own" : 1]>\n'
    text = "\n".join(f"{domain}{name} (a) => (b) {{ {body} }}" for name, body in functions)
    return RandomNodes(
        parser.parse_model(f"{head}g (float[N] x) => (float[N] y) {{ y = own.{calls}(x) }}\n{text}")
    ).tensors()


@pytest.mark.parametrize(
    ("first", "found"),
    [
        ("b = Identity(a)", []),
        ("b = RandomUniformLike(a)", [["y", "RandomUniformLike → y"]]),
    ],
)
def test_a_chain_of_functions_longer_than_the_stack_is_looked_through(first, found):
    links = [("f0", first), *((f"f{i}", f"b = own.f{i - 1}(a)") for i in range(1, DEEP))]
    assert random_of(*links, calls=f"f{DEEP - 1}") == found


def test_functions_that_call_each_other_end():
    loud = "c = own.f(a) b = RandomUniformLike(c)"
    assert random_of(("f", "b = own.g(a)"), ("g", loud), calls="f") == [
        ["y", "RandomUniformLike → y"]
    ]

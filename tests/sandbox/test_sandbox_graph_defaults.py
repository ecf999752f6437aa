"""A default that is spelled out is no difference; one that another version of an operator has is."""

import onnx
import pytest

from harness.sandbox.graph_description import described_graph
from harness.sandbox.graph_numbers import arrangement

PLAIN = """
<ir_version: 8, opset_import: ["" : {opset}, "own" : 1]>
g (float[N, M] x, float[M, M] w) => (float[N, M] y) {{ {main} }}
"""
IN_IF = """c = Constant<value = bool {{1}}>()
y = If(c) <then_branch = t () => (u) {{ u = {main} }}, else_branch = e () => (v) {{ v = Identity(x) }}>"""


def told(main: str, opset: int = 13) -> dict:
    """What is told of the last operator's attributes."""
    graph = described_graph(onnx.parser.parse_model(PLAIN.format(opset=opset, main=main)), {})
    return {name: (text, exact) for name, text, exact, _ in graph["nodes"][-1][5]}


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("Gemm(x, w)", "Gemm<alpha = 1.0, beta = 1.0, transA = 0, transB = 0>(x, w)"),
        ("Gemm<transB = 1>(x, w)", "Gemm<alpha = 1.0, beta = 1.0, transB = 1>(x, w)"),
        ("Softmax(x)", "Softmax<axis = -1>(x)"),
        ("DepthToSpace<blocksize = 2>(x)", 'DepthToSpace<blocksize = 2, mode = "DCR">(x)'),
    ],
)
def test_a_default_that_is_spelled_out_is_told_as_one_that_is_left_out(short, long):
    assert told(f"y = {short}") == told(f"y = {long}")
    for form in (short, long):
        assert told(IN_IF.format(main=form)) == told(IN_IF.format(main=short))
    texts = [PLAIN.format(opset=13, main=f"y = {form}") for form in (short, long)]
    plain, spelled = (arrangement(described_graph(onnx.parser.parse_model(t), {})) for t in texts)
    assert plain == spelled


def test_what_is_no_default_is_told():
    assert told("y = Gemm(x, w)")["alpha"][0] == "1"
    assert told("y = Gemm<alpha = 0.5>(x, w)")["alpha"][0] == "0.5"
    assert told("y = Gemm<transA = 1>(x, w)") != told("y = Gemm<transB = 1>(x, w)")
    assert told("y = LeakyRelu<alpha = -0.01>(x)") != told("y = LeakyRelu(x)")
    bodies = [IN_IF.format(main=f"Gemm{given}(x, w)") for given in ("", "<alpha = 0.5>")]
    assert told(bodies[0]) != told(bodies[1])


def test_other_versions_of_an_operator_have_other_defaults():
    assert told("y = Softmax(x)", 12) == told("y = Softmax<axis = 1>(x)", 12)
    assert told("y = Softmax(x)", 12) != told("y = Softmax(x)", 13)
    assert told("y = Softmax(x)", 13) == told("y = Softmax<axis = -1>(x)", 13)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
def test_what_an_axis_means_in_another_version_is_told(op):
    for main in ("y = {}", IN_IF.replace("{main}", "{}")):
        old, new = (told(main.format(f"{op}<axis = 1>(x)"), opset) for opset in (12, 13))
        assert old != new
        # All axes from the last one on are the last one.
        old, new = (told(main.format(f"{op}<axis = -1>(x)"), opset) for opset in (12, 13))
        assert old == new
        assert told(main.format(f"{op}<axis = 1>(x)"), 13) == told(
            main.format(f"{op}<axis = 1>(x)"), 18
        )
    texts = [told(f"y = {op}(x)", opset)["meaning of axis"][0] for opset in (12, 13)]
    assert [text.partition(",")[0] for text in texts] == ["it and all after it", "it alone"]


def test_an_attribute_that_became_an_input_with_another_default_is_told():
    old, spelled = told("y = DFT(x)", 17), told("y = DFT<axis = 1>(x)", 17)
    assert old == spelled
    assert (old["axis"][0], told("y = DFT(x)", 20)["axis"][0]) == ("1", "-2")
    assert "axis" not in told("y = DFT(x, , w)", 20)
    assert told("y = DFT<axis = -2>(x)", 17) == told("y = DFT(x)", 20)


def test_an_attribute_that_another_version_adds_or_drops_at_its_default_is_no_difference():
    assert told("y = Reshape(x, w)", 13) == told("y = Reshape<allowzero = 0>(x, w)", 14)
    assert told("y = Add(x, x)", 6) == told("y = Add<broadcast = 0>(x, x)", 6)
    assert told("y = Add(x, x)", 6) == told("y = Add(x, x)", 13)
    assert told("y = Add<broadcast = 1>(x, x)", 6) != told("y = Add(x, x)", 6)


def test_a_default_that_means_something_new_is_told_only_where_the_version_has_it():
    mode = "coordinate_transformation_mode"
    assert mode not in told("y = Resize(x, w)", 10)
    short, long = (
        told("y = Resize(x, w, w)", 11),
        told(f'y = Resize<{mode} = "half_pixel">(x, w, w)', 11),
    )
    assert short == long
    assert short[mode][0] == "half_pixel"


def test_operators_that_onnx_does_not_know_stay_as_they_are():
    assert told("y = own.Gemm(x, w)") == {}
    assert set(told("y = own.Gemm<alpha = 1.0>(x, w)")) == {"alpha"}
    assert told("y = Gemm(x, w)", 999) == {}


def test_versions_of_what_no_operator_comes_from_do_not_count():
    imports = {
        "few": '"" : 18, "ai.onnx.ml" : 1',
        "more": '"" : 18, "ai.onnx.ml" : 1, "com.microsoft" : 1',
        "newer": '"" : 18, "ai.onnx.ml" : 2, "com.microsoft" : 1',
    }
    text = "<ir_version: 8, opset_import: [{imports}]> g (float[N] x) => (float[N] y) {{ y = {op}(x) }}"
    for op, alike in (("Relu", True), ("ai.onnx.ml.Binarizer", False)):
        models = [onnx.parser.parse_model(text.format(imports=i, op=op)) for i in imports.values()]
        few, more, newer = (arrangement(described_graph(m, {})) for m in models)
        assert few == more
        assert (few == newer) is alike


def test_domains_of_operators_in_bodies_and_functions_count():
    imports = '<ir_version: 8, opset_import: ["" : 18, "own" : 1, "ai.onnx.ml" : {version}]>\n'
    main = "g (float[N, M] x, float[M, M] w) => (float[N, M] y) {{ {main} }}\n"
    function = '<domain: "own", opset_import: ["ai.onnx.ml" : 1]> f (a) => (b) { b = ai.onnx.ml.Binarizer(a) }'
    body = main.format(main=IN_IF.format(main="ai.onnx.ml.Binarizer(x)"))
    call = main.format(main="y = own.f(x)") + function
    for text in (body, call):
        models = [onnx.parser.parse_model(imports.format(version=v) + text) for v in (1, 2)]
        told = [described_graph(model, {}) for model in models]
        assert [
            ["ai.onnx.ml", str(v)] in graph["opsets"] for v, graph in zip((1, 2), told, strict=True)
        ] == [True, True]
        assert arrangement(told[0]) != arrangement(told[1])


@pytest.mark.parametrize("main", ["y = Gemm(x, w)", IN_IF.format(main="Gemm(x, w)")])
def test_a_call_of_a_function_that_goes_by_an_operators_name_has_none_of_its_defaults(main):
    def called(*given: onnx.AttributeProto) -> list:
        model = onnx.parser.parse_model(PLAIN.format(opset=13, main=main))
        inner = model.graph.node[-1]
        inner = inner.attribute[0].g.node[0] if inner.op_type == "If" else inner
        inner.attribute.extend(given)
        add = onnx.helper.make_node("Add", ["a", "b"], ["c"])
        opsets = [onnx.helper.make_opsetid("", 13)]
        model.functions.append(
            onnx.helper.make_function("", "Gemm", ["a", "b"], ["c"], [add], opsets)
        )
        return described_graph(model, {})["nodes"][-1][5]

    assert called() != called(onnx.helper.make_attribute("alpha", 1.0))
    if main == "y = Gemm(x, w)":
        assert [name for name, *_ in called()] == ["function"]


def test_where_the_version_is_not_one_nothing_is_told():
    model = onnx.parser.parse_model(PLAIN.format(opset=12, main="y = Softmax(x)"))
    assert described_graph(model, {})["nodes"][-1][5]
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx", 13))
    assert described_graph(model, {})["nodes"][-1][5] == []


def test_a_version_that_takes_an_operator_away_has_no_defaults_of_it():
    assert set(told("y = Upsample(x, w)", 9)) == {"mode"}
    assert told("y = Upsample(x, w)", 10) == {}


@pytest.mark.parametrize(
    ("opset", "main", "since"),
    [
        (12, "y = Softmax(x)", "11"),
        (13, "y = Softmax(x)", "13"),
        (17, "y = Softmax(x)", "13"),
        (17, "y = Exp(x)", "13"),
        (17, "y = own.Exp(x)", ""),
        (10_000, "y = Exp(x)", ""),
        # What a body computes goes by its operators, too.
        (17, IN_IF.format(main="Exp(x)"), ""),
    ],
)
def test_since_when_an_operator_is_defined_as_it_is_here_is_told(opset, main, since):
    model = onnx.parser.parse_model(PLAIN.format(opset=opset, main=main))
    assert described_graph(model, {})["nodes"][-1][6] == since


def test_a_call_of_a_function_is_defined_by_no_version():
    model = onnx.parser.parse_model(PLAIN.format(opset=17, main="y = Exp(x)"))
    body = onnx.helper.make_node("Neg", ["a"], ["b"])
    opsets = [onnx.helper.make_opsetid("", 13)]
    model.functions.append(onnx.helper.make_function("", "Exp", ["a"], ["b"], [body], opsets))
    assert described_graph(model, {})["nodes"][-1][6] == ""

"""Whole nets and fitted pipelines: equal to their re-export, one altered node located in it."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, version_converter
from skl2onnx import to_onnx
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

from harness.bench.operator_pairs import Pairs
from harness.core.tensors import Array, Tensors
from harness.diff.changes import ChangeKind

pytestmark = pytest.mark.filterwarnings("ignore:Attribute `prob[AB]_`:FutureWarning")  # skl2onnx's
FLOAT = TensorProto.FLOAT
ROWS, STEPS, WIDTH = 5, 4, 6


def node(op: str, inputs: list[str], *outputs: str, **attributes) -> NodeProto:
    return helper.make_node(op, inputs, list(outputs), **attributes)


def net(
    nodes: list[NodeProto], feeds: Tensors, outputs: list[str], weights: Mapping[str, Array]
) -> ModelProto:
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info(n, FLOAT, list(a.shape)) for n, a in feeds.items()],
        [helper.make_tensor_value_info(n, FLOAT, None) for n in outputs],
        [numpy_helper.from_array(np.asarray(w), n) for n, w in weights.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    made.ir_version = 8
    return made


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def convolutions() -> tuple[ModelProto, Tensors]:
    feeds = {"x": normal(0, ROWS, 3, 8, 8)}
    nodes = [
        node("Conv", ["x", "kernel", "bias"], "seen", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["seen", "gain", "shift", "mean", "spread"], "normed"),
        node("Relu", ["normed"], "lit"),
        node("MaxPool", ["lit"], "pooled", kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", ["pooled"], "means"),
        node("Flatten", ["means"], "flat"),
        node("Gemm", ["flat", "w", "b"], "y", transB=1),
    ]
    weights = {
        "kernel": normal(1, 4, 3, 3, 3), "bias": normal(2, 4), "gain": normal(3, 4),
        "shift": normal(4, 4), "mean": normal(5, 4), "spread": np.abs(normal(6, 4)) + 1,
        "w": normal(7, 2, 4), "b": normal(8, 2),
    }  # fmt: skip
    return net(nodes, feeds, ["y"], weights), feeds


def attention() -> tuple[ModelProto, Tensors]:
    feeds = {"x": normal(0, ROWS, STEPS, WIDTH)}
    nodes = [
        *(node("MatMul", ["x", f"w{part}"], part) for part in "qkv"),
        node("Transpose", ["k"], "turned", perm=[0, 2, 1]),
        node("MatMul", ["q", "turned"], "scores"),
        node("Div", ["scores", "root"], "scaled"),
        node("Softmax", ["scaled"], "heeded", axis=-1),
        node("MatMul", ["heeded", "v"], "mixed"),
        node("Add", ["mixed", "x"], "y"),
    ]
    weights = {f"w{part}": normal(i, WIDTH, WIDTH) for i, part in enumerate("qkv")}
    return net(nodes, feeds, ["y"], {**weights, "root": np.float32(WIDTH**0.5)}), feeds


def recurrent() -> tuple[ModelProto, Tensors]:
    """An LSTM and a GRU whose states are inputs and outputs."""
    feeds = {"x": normal(0, STEPS, ROWS, WIDTH)}
    feeds |= {name: normal(i, 1, ROWS, WIDTH) for i, name in enumerate(("h", "c", "g"))}
    nodes = [
        node("LSTM", ["x", "w", "r", "", "", "h", "c"], "all", "h_next", "c_next", hidden_size=WIDTH),
        node("Squeeze", ["all", "one"], "steps"),
        node("GRU", ["steps", "gw", "gr", "", "", "g"], "", "g_next", hidden_size=WIDTH),
        node("Tanh", ["g_next"], "y"),
    ]  # fmt: skip
    weights = {
        "w": normal(1, 1, 4 * WIDTH, WIDTH), "r": normal(2, 1, 4 * WIDTH, WIDTH),
        "gw": normal(3, 1, 3 * WIDTH, WIDTH), "gr": normal(4, 1, 3 * WIDTH, WIDTH),
        "one": np.array([1], np.int64),
    }  # fmt: skip
    return net(nodes, feeds, ["y", "h_next", "c_next", "g_next"], weights), feeds


NETS = {"convolutions": convolutions, "attention": attention, "recurrent": recurrent}


def reexported(model: ModelProto) -> ModelProto:
    """Every inner tensor under another name, weights as Constant nodes, a later opset."""
    later = version_converter.convert_version(model, 17)
    graph = later.graph
    kept = {v.name for v in (*graph.input, *graph.output)} | {""}
    constants = [
        node("Constant", [], t.name, value=numpy_helper.from_array(numpy_helper.to_array(t)))
        for t in graph.initializer
    ]
    del graph.initializer[:]
    nodes = [*constants, *graph.node]
    for each in nodes:
        each.input[:] = [i if i in kept else f"net/{i}/out" for i in each.input]
        each.output[:] = [o if o in kept else f"net/{o}/out" for o in each.output]
        each.name = ""
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return later


def altered_weights(model: ModelProto, name: str) -> ModelProto:
    other = ModelProto()
    other.CopyFrom(model)
    weights = next(t for t in other.graph.initializer if t.name == name)
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * 3 + 1, name))
    return other


def altered_operator(model: ModelProto, output: str, op: str) -> ModelProto:
    other = ModelProto()
    other.CopyFrom(model)
    next(n for n in other.graph.node if output in n.output).op_type = op
    return other


@pytest.fixture
def firsts(tmp_path) -> Callable[[ModelProto, ModelProto, Tensors], list[str]]:
    """Tensors where two models part first."""

    def found(old: ModelProto, new: ModelProto, feeds: Tensors) -> list[str]:
        report = Pairs(tmp_path).compared(old, new, feeds)
        assert report.not_compared == ()
        return [d.divergence.baseline for d in report.divergences]

    return found


@pytest.mark.parametrize("name", NETS)
def test_a_net_is_equal_to_its_re_export_in_every_tensor(tmp_path, name):
    model, feeds = NETS[name]()
    report = Pairs(tmp_path).compared(model, reexported(model), feeds)
    assert report.divergences == ()
    assert report.equal == len(report.states)
    assert report.equal >= len([n for n in model.graph.node if any(n.output)])


@pytest.mark.parametrize(
    ("name", "weights", "made"),
    [
        ("convolutions", "kernel", {"seen"}),
        ("convolutions", "mean", {"normed"}),
        ("convolutions", "w", {"y"}),
        ("attention", "wk", {"k"}),
        ("attention", "root", {"scaled"}),
        ("recurrent", "r", {"all", "h_next", "c_next"}),
        ("recurrent", "gw", {"g_next"}),
    ],
)
def test_other_weights_in_a_re_exported_net_are_located(firsts, name, weights, made):
    model, feeds = NETS[name]()
    assert set(firsts(model, reexported(altered_weights(model, weights)), feeds)) == made


@pytest.mark.parametrize(
    ("name", "made", "op"),
    [
        ("convolutions", "lit", "Sigmoid"),
        ("convolutions", "means", "GlobalMaxPool"),
        ("attention", "heeded", "LogSoftmax"),
        ("attention", "y", "Mul"),
        ("recurrent", "y", "Sin"),
    ],
)
def test_another_operator_in_a_re_exported_net_is_located(tmp_path, name, made, op):
    model, feeds = NETS[name]()
    other = reexported(altered_operator(model, made, op))
    found = Pairs(tmp_path).compared(model, other, feeds)
    (first,) = found.divergences
    was = next(n.op_type for n in model.graph.node if made in n.output)
    # Under another name and from another operator a tensor may have no partner; then the region has it.
    changes = [(c.kind, c.baseline, c.candidate) for c in first.divergence.changes]
    assert changes == [(ChangeKind.OPERATOR, was, op)]
    assert f"{was} → {made}" in first.divergence.operators[0]


def looped(shift: float) -> ModelProto:
    """y = tanh of x, doubled and shifted three times in the body of a Loop."""
    body = helper.make_graph(
        [node("Identity", ["go"], "on"), node("Add", ["was", "was"], "twice"), node("Add", ["twice", "shift"], "now")],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("was", FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("now", FLOAT, None),
        ],
        [numpy_helper.from_array(np.float32(shift), "shift")],
    )  # fmt: skip
    nodes = [node("Loop", ["turns", "", "x"], "rolled", body=body), node("Tanh", ["rolled"], "y")]
    return net(nodes, {"x": normal(0, ROWS, WIDTH)}, ["y"], {"turns": np.int64(3)})


def scanned(shift: float) -> ModelProto:
    """Running sums of x in the body of a Scan, each shifted."""
    body = helper.make_graph(
        [node("Add", ["was", "row"], "sum"), node("Add", ["sum", "shift"], "now"), node("Identity", ["now"], "seen")],
        "body",
        [helper.make_tensor_value_info(n, FLOAT, [WIDTH]) for n in ("was", "row")],
        [helper.make_tensor_value_info(n, FLOAT, [WIDTH]) for n in ("now", "seen")],
        [numpy_helper.from_array(np.float32(shift), "shift")],
    )  # fmt: skip
    nodes = [
        node("Scan", ["start", "x"], "last", "rolled", body=body, num_scan_inputs=1),
        node("Tanh", ["rolled"], "y"),
    ]
    return net(
        nodes, {"x": normal(0, ROWS, WIDTH)}, ["y", "last"], {"start": np.zeros(WIDTH, np.float32)}
    )


@pytest.mark.parametrize(("model", "made"), [(looped, {"rolled"}), (scanned, {"last", "rolled"})])
def test_what_a_body_makes_is_compared_and_the_body_is_said_not_to_be(tmp_path, model, made):
    feeds = {"x": normal(0, ROWS, WIDTH)}
    pairs = Pairs(tmp_path)
    same, other = (pairs.compared(model(0.1), model(s), feeds) for s in (0.1, 0.4))
    assert (same.divergences, same.equal) == ((), len(made) + 1)
    assert {d.divergence.baseline for d in other.divergences} == made
    for report in (same, other):
        assert [said.split(": ", 1)[1] for said in report.not_compared] == [
            "its body was not looked into, only its outputs"
        ] * 2


WORDS = ("late", "early", "storm", "fog", "clear", "wind")


def drawn_rows(count: int) -> tuple[Array, Array, Array, Array]:
    """Numbers, words, short texts and what is to be learnt."""
    rng = np.random.default_rng(3)
    numbers = rng.normal(size=(count, 3)).astype(np.float32)
    words = rng.choice(WORDS, (count, 1)).astype(object)
    texts = np.array([[" ".join(rng.choice(WORDS, 4))] for _ in range(count)], dtype=object)
    answer = ((numbers[:, 0] + (words[:, 0] == "fog") + rng.normal(size=count) / 4) > 0).astype(int)
    return numbers, words, texts, answer


def table(last: object) -> Callable[..., ModelProto]:
    """A scaler and a one-hot before an estimator, by two exports."""
    numbers, words, _, answer = drawn_rows(120)
    rows = np.hstack([numbers.astype(object), words])
    columns = ColumnTransformer(
        [
            ("numbers", StandardScaler(), [0, 1, 2]),
            ("words", OneHotEncoder(sparse_output=False), [3]),
        ]
    )
    fitted = make_pipeline(columns, last).fit(rows, answer)
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    kinds = [(f"c{i}", FloatTensorType([None, 1])) for i in range(3)]
    kinds.append(("c3", StringTensorType([None, 1])))
    return lambda **options: to_onnx(
        fitted, initial_types=kinds, options={"zipmap": False}, **options
    )


def text() -> Callable[..., ModelProto]:
    """Words counted and weighted before a linear model, by two exports."""
    from skl2onnx.common.data_types import StringTensorType

    _, _, texts, answer = drawn_rows(120)
    fitted = make_pipeline(TfidfVectorizer(lowercase=False), LogisticRegression()).fit(
        texts[:, 0], answer
    )
    kinds = [("texts", StringTensorType([None, 1]))]
    return lambda **options: to_onnx(
        fitted, initial_types=kinds, options={"zipmap": False}, **options
    )


PIPELINES = {
    "trees": lambda: table(GradientBoostingClassifier(n_estimators=8, random_state=0)),
    "vectors": lambda: table(SVC(random_state=0)),
    "text": text,
}


def fed(name: str) -> Tensors:
    numbers, words, texts, _ = drawn_rows(40)
    if name == "text":
        return {"texts": texts}
    return {**{f"c{i}": numbers[:, i : i + 1] for i in range(3)}, "c3": words}


@pytest.mark.slow
@pytest.mark.parametrize("name", PIPELINES)
def test_a_fitted_pipeline_is_equal_to_its_other_export(tmp_path, name):
    export = PIPELINES[name]()
    old = export(target_opset={"": 13, "ai.onnx.ml": 2}, naming="a_")
    new = export(target_opset={"": 17, "ai.onnx.ml": 3}, naming="other_")
    report = Pairs(tmp_path).compared(old, new, fed(name))
    assert report.divergences == ()
    assert not report.outputs_differ
    assert report.equal == report.compared
    assert report.compared >= 0.9 * len(report.states)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "op", "attribute"),
    [
        ("trees", "Scaler", "scale"),
        ("vectors", "Scaler", "offset"),
        ("trees", "OneHotEncoder", "cats_strings"),
        ("vectors", "SVMClassifier", "coefficients"),
        ("text", "TfIdfVectorizer", "ngram_indexes"),
        ("text", "LinearClassifier", "coefficients"),
    ],
)
def test_an_altered_node_of_the_other_export_is_located(firsts, name, op, attribute):
    export = PIPELINES[name]()
    old = export(target_opset={"": 13, "ai.onnx.ml": 2}, naming="a_")
    new = export(target_opset={"": 17, "ai.onnx.ml": 3}, naming="other_")
    changed = next(
        a for n in new.graph.node if n.op_type == op for a in n.attribute if a.name == attribute
    )
    if changed.floats:
        changed.floats[:] = [f * 1.5 + 0.5 for f in changed.floats]
    elif changed.strings:
        changed.strings[:] = list(changed.strings)[::-1]
    else:
        changed.ints[:] = list(changed.ints)[::-1]
    made = {o for n in old.graph.node if n.op_type == op for o in n.output}
    found = firsts(old, new, fed(name))
    assert found
    assert set(found) <= made

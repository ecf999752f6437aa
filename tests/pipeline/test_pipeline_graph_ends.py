"""Outputs that are copies, constants or of low precision, and requests that carry whole tensors."""

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from harness.bench.operator_pairs import Pairs
from harness.diff.changes import ChangeKind
from harness.diff.graph_findings import findings_from_graph
from harness.diff.graph_report import GraphReport, TensorVerdict
from harness.pipeline.graph_opening import Sandboxed

FLOAT = TensorProto.FLOAT
FEEDS = {"x": np.arange(6, dtype=np.float32).reshape(2, 3) - 2}


def model(nodes: list[NodeProto], kind: int = FLOAT, **constants: list[float]) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, None)],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(np.array(v, np.float32), k) for k, v in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
    made.ir_version = 9
    return made


def node(op: str, inputs: list[str], output: str, **attributes) -> NodeProto:
    return helper.make_node(op, inputs, [output], **attributes)


@pytest.fixture
def compared(tmp_path):
    return lambda old, new: Pairs(tmp_path).compared(old, new, FEEDS)


def firsts(report: GraphReport) -> list[str]:
    return [d.divergence.baseline for d in report.divergences]


def test_an_output_that_was_a_copy_and_is_none_any_more_diverges(compared):
    doubled = node("Add", ["x", "x"], "t")
    report = compared(
        model([doubled, node("Identity", ["t"], "y")]), model([doubled, node("Neg", ["t"], "y")])
    )
    assert report.outputs_differ
    assert firsts(report) == ["y"]
    (change,) = report.divergences[0].divergence.changes
    assert (change.kind, change.baseline, change.candidate) == (
        ChangeKind.OPERATOR,
        "Identity",
        "Neg",
    )
    assert report.divergences[0].divergence.last_equal == ("t",)


def test_an_output_that_has_become_a_copy_diverges(compared):
    doubled = node("Add", ["x", "x"], "t")
    report = compared(
        model([doubled, node("Neg", ["t"], "y")]), model([doubled, node("Identity", ["t"], "y")])
    )
    assert firsts(report) == ["y"]
    assert report.divergences[0].divergence.last_equal == ("t",)


def test_an_input_handed_through_is_compared(compared):
    through = model([node("Identity", ["x"], "y")])
    assert [s.verdict for s in compared(through, through).states] == [TensorVerdict.EQUAL]
    assert firsts(compared(through, model([node("Neg", ["x"], "y")]))) == ["y"]


def test_an_output_that_is_a_constant_is_compared(compared):
    def held(value: float) -> ModelProto:
        return model([node("Constant", [], "y", value_float=value), node("Neg", ["x"], "z")])

    report = compared(held(1.0), held(2.0))
    assert firsts(report) == ["y"]
    (change,) = report.divergences[0].divergence.changes
    assert (change.node, change.candidate) == ("Constant → y", "2")
    assert compared(held(1.0), held(1.0)).equal == 2


def test_an_output_of_low_precision_is_compared_as_float32(compared):
    def low(scale: float) -> ModelProto:
        cast = node("Cast", ["t"], "y", to=TensorProto.BFLOAT16)
        return model([node("Mul", ["x", "c"], "t"), cast], TensorProto.BFLOAT16, c=scale)

    assert compared(low(2.0), low(2.0)).equal == 2
    assert compared(low(2.0), low(3.0)).outputs_differ


def test_a_single_request_is_traced_with_all_of_its_tensors(compared):
    total = model([node("ReduceSum", ["x"], "y", keepdims=0)])
    other = model([node("ReduceMean", ["x"], "y", keepdims=0)])
    assert firsts(compared(total, other)) == ["y"]


def test_the_worst_rows_of_requests_with_inputs_that_have_no_rows_are_shown(tmp_path):
    def scaled(op: str) -> ModelProto:
        made = model([node(op, ["x", "by"], "y")])
        made.graph.input.append(helper.make_tensor_value_info("by", FLOAT, []))
        return made

    feeds = {"x": FEEDS["x"][:1], "by": np.array(2, np.float32)}
    report = Pairs(tmp_path).compared(scaled("Mul"), scaled("Sub"), feeds)
    assert firsts(report) == ["y"]
    assert dict(report.divergences[0].worst[0].inputs)["by"] == "2"


def chosen(bound: float) -> ModelProto:
    """y = −x where the sum of x is beyond a bound, else |x| with 1 added."""
    end = [helper.make_tensor_value_info("out", FLOAT, None)]
    then = helper.make_graph([node("Neg", ["x"], "out")], "t", [], end)
    add = [node("Abs", ["x"], "size"), node("Add", ["size", "one"], "out")]
    branches = {"then_branch": then, "else_branch": helper.make_graph(add, "e", [], end)}
    nodes = [
        node("ReduceSum", ["x"], "sum", keepdims=0),
        node("Greater", ["sum", "bound"], "beyond"),
        node("If", ["beyond"], "picked", **branches),
        node("Tanh", ["picked"], "y"),
    ]
    return model(nodes, bound=bound, one=1.0)


def test_a_condition_that_differs_is_the_only_first_divergence_not_what_the_branches_make(compared):
    assert firsts(compared(chosen(-9.0), chosen(9.0))) == ["beyond"]


def test_a_condition_whose_branch_is_laid_open_is_not_called_fed(compared):
    report = compared(chosen(-9.0), chosen(9.0))
    (finding,) = findings_from_graph(report, answers_differ=True)
    assert "not proven by patching: it chooses which branch runs" in finding.what
    assert report.proofs == ()


def test_a_branch_that_makes_a_sequence_is_looked_into_where_sequences_cannot_be_copied(compared):
    def of(op: str) -> ModelProto:
        sequence = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, None))
        end = [helper.make_value_info("out", sequence)]
        branch = [node(op, ["x"], "made"), node("SequenceConstruct", ["made", "x"], "out")]
        branches = {f"{b}_branch": helper.make_graph(branch, b, [], end) for b in ("then", "else")}
        nodes = [
            node("ReduceMax", ["x"], "most", keepdims=0),
            node("Cast", ["most"], "any", to=TensorProto.BOOL),
            node("If", ["any"], "both", **branches),
            node("ConcatFromSequence", ["both"], "y", axis=0),
        ]
        made = model(nodes)
        made.opset_import[0].version = 13
        made.ir_version = 7
        return made

    assert firsts(compared(of("Neg"), of("Neg"))) == []
    assert firsts(compared(of("Neg"), of("Abs"))) == ["both.then.made"]


def listed(pair: list[str], *, words: bool = False) -> ModelProto:
    """Two tensors in a sequence, and a difference that their order decides."""
    kind = {"to": TensorProto.STRING} if words else {"to": FLOAT}
    steps = [
        node("Abs", ["x"], "a"),
        node("Neg", ["x"], "b"),
        node("Cast", ["a"], "c", **kind),
        node("Cast", ["b"], "d", **kind),
        node("SequenceConstruct", pair, "both"),
        node("SequenceAt", ["both", "first"], "one"),
        node("Cast", ["one"], "back", to=FLOAT),
        node("Add", ["back", "x"], "y"),
    ]
    made = model(steps)
    made.graph.initializer.append(numpy_helper.from_array(np.int64(0), "first"))
    return made


@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize("sandboxed", [False, True])
def test_a_sequence_on_the_frontier_is_proven_by_patching(tmp_path, words, sandboxed):
    opener = Sandboxed() if sandboxed else None
    old, new = listed(["c", "d"], words=words), listed(["d", "c"], words=words)
    report = Pairs(tmp_path, opener).compared(old, new, FEEDS)
    assert firsts(report) == ["both"]
    (proof,) = report.proofs
    assert (proof.tensors, proof.before > 0, proof.after) == (("both",), True, 0)
    assert not any("patching" in text for text in report.not_compared)


def test_a_sequence_that_has_become_empty_is_proven_too(compared):
    def of(*erased: str) -> ModelProto:
        """y = x plus the number of parts."""
        made = model([
            node("SequenceConstruct", ["x"], "s0"),
            node("SequenceErase" if erased else "SequenceInsert", ["s0", *(erased or ("x",))], "s1"),
            node("SequenceLength", ["s1"], "n"),
            node("Cast", ["n"], "f", to=FLOAT),
            node("Add", ["f", "x"], "y"),
        ])  # fmt: skip
        made.graph.initializer.append(numpy_helper.from_array(np.int64(0), "first"))
        return made

    for old, new in ((of(), of("first")), (of("first"), of())):
        report = compared(old, new)
        assert firsts(report) == ["s1"]
        (proof,) = report.proofs
        assert proof.before > 0
        assert proof.after == 0


def test_of_two_equal_constants_the_altered_one_is_the_first_to_part(compared):
    def shrunk(bias: float) -> ModelProto:
        return model([
            node("Constant", [], "l", value_float=1.5),
            node("CastLike", ["l", "x"], "limit"),
            node("Constant", [], "b", value_float=bias),
            node("CastLike", ["b", "x"], "bias"),
            node("Neg", ["limit"], "below"),
            node("Less", ["x", "below"], "low"),
            node("Add", ["x", "bias"], "more"),
            node("Sub", ["x", "bias"], "less"),
            node("Less", ["limit", "x"], "high"),
            node("Where", ["high", "less", "x"], "upper"),
            node("Where", ["low", "more", "upper"], "y"),
        ])  # fmt: skip

    assert firsts(compared(shrunk(1.5), shrunk(3.4))) == ["bias"]
    assert firsts(compared(shrunk(3.4), shrunk(1.5))) == ["bias"]


@pytest.mark.parametrize("copied", [0, 1])
@pytest.mark.parametrize("wrong", ["V", "W", "both"])
def test_a_last_copy_that_one_version_lacks_is_no_difference(compared, copied, wrong):
    rng = np.random.default_rng(3)
    held = {name: rng.normal(size=(3, 3)).tolist() for name in ("W", "V")}

    def version(copy: bool, **constants: list) -> ModelProto:
        end = [node("Identity", ["u"], "y")] if copy else []
        return model(
            [node("MatMul", ["x", "W"], "g"), node("Tanh", ["g"], "t"),
             node("MatMul", ["t", "V"], "u" if copy else "y"), *end],
            **(held | constants),
        )  # fmt: skip

    names = ["W", "V"] if wrong == "both" else [wrong]
    other = {name: (np.array(held[name]) * 1.1).tolist() for name in names}
    report = compared(version(copied == 0), version(copied == 1, **other))
    first = "u" if copied == 0 else "y"
    assert firsts(report) == ["g" if "W" in names else first]
    (found,) = report.divergences
    assert [change.kind for change in found.divergence.changes] == [ChangeKind.WEIGHTS]
    assert report.later == ()
    if wrong != "both":
        assert found.is_output or [proof.restored for proof in report.proofs] == [True]


@pytest.mark.parametrize("rewired", [0, 1, None])
def test_a_first_difference_reaches_what_either_version_computes_from_it(compared, rewired):
    def version(side: int) -> ModelProto:
        beside = "f" if side == rewired else "x"
        made = model(
            [node("Mul", ["x", "k"], "f"), node("Sin", ["f"], "z"), node("Sub", ["x", "c"], "g"),
             node("Tanh", [beside], "t"), node("Add", ["g", "t"], "y")],
            k=[2.0 + side] * 3, c=[3.0 + side],
        )  # fmt: skip
        made.graph.output.append(helper.make_tensor_value_info("z", FLOAT, None))
        return made

    report = compared(version(0), version(1))
    reached = {found.divergence.baseline: found.reaches for found in report.divergences}
    assert reached["f"] == (("z",) if rewired is None else ("y", "z"))
    assert reached["g"] == ("y",)

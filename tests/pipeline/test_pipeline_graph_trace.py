from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper, load_model, numpy_helper, save_model

from harness.core.findings import Severity
from harness.core.policies import SandboxPolicy
from harness.core.traffic import RequestBatch
from harness.diff.changes import Cause
from harness.diff.graph_findings import findings_from_graph
from harness.diff.graph_report import GraphReport
from harness.diff.signature import SignatureMatch
from harness.pipeline.graph_opening import GraphPassError, Version
from harness.pipeline.graph_proof import MOST_PATCHED
from harness.pipeline.graph_trace import GraphPass, trace_graphs

LIMITS = SandboxPolicy()
FLOAT = TensorProto.FLOAT
N, K = 24, 4


def node(op: str, inputs: list[str], output: str, **attributes) -> NodeProto:
    return helper.make_node(op, inputs, [output], **attributes)


def model(
    path: Path, nodes: list[NodeProto], constants: dict[str, object], kind: int = FLOAT
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, ["N", K])],
        [helper.make_tensor_value_info("y", kind, None)],
        [
            numpy_helper.from_array(
                np.asarray(v) if not isinstance(v, float | list) else np.asarray(v, np.float32), k
            )
            for k, v in constants.items()
        ],
    )
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid("ai.onnx.ml", 3)]
    made = helper.make_model(graph, opset_imports=opsets)
    made.ir_version = 8
    save_model(made, str(path))
    return path


def batches(seed: int = 0) -> list[RequestBatch]:
    rng = np.random.default_rng(seed)
    found = []
    for start in (0, N):
        ids = np.array([f"r{i}" for i in range(start, start + N)], dtype=object)
        found.append(
            RequestBatch(
                seq=np.arange(start, start + N),
                request_id=ids,
                ts_ns=np.zeros(N, np.int64),
                rows=np.ones(N, np.int64),
                inputs={"x": rng.normal(size=(N, K)).astype(np.float32)},
                recorded={},
                answered=np.zeros(N, np.bool_),
                context={},
            )
        )
    return found


def traced(tmp_path: Path, old: Path, new: Path, **options) -> GraphReport:
    versions = [
        Version(role=role, model=path, external=(), limits=LIMITS, input_names=(("x", "x"),))
        for role, path in (("baseline", old), ("candidate", new))
    ]
    match = SignatureMatch(inputs=(("x", "x"),), outputs=(("y", "y"),))
    wanted = GraphPass(baseline=versions[0], candidate=versions[1], match=match, **options)
    return trace_graphs(wanted, batches(), tmp_path / "scratch", lambda *_: None)


def steps(
    path: Path, *, scale: float = 2.0, op: str = "Add", shift: float = 1.0, last: str = "Tanh"
) -> Path:
    """scaled = x · scale; moved = scaled op shift; y = last(moved)."""
    return model(
        path,
        [
            node("Mul", ["x", "scale"], "scaled"),
            node(op, ["scaled", "shift"], "moved"),
            node(last, ["moved"], "y"),
        ],
        {"scale": scale, "shift": shift},
    )


def test_a_version_is_equal_to_itself_in_every_tensor(tmp_path):
    path = steps(tmp_path / "a.onnx")
    report = traced(tmp_path, path, path)
    assert report.requests == 2 * N
    assert (report.compared, report.equal) == (3, 3)
    assert report.divergences == ()
    assert findings_from_graph(report, answers_differ=False) == []


def test_the_changed_constant_is_the_first_divergence_and_the_whole_cause(tmp_path):
    old = steps(tmp_path / "a.onnx")
    new = steps(tmp_path / "b.onnx", scale=3.0)
    report = traced(tmp_path, old, new)
    (first,) = report.divergences
    assert first.divergence.baseline == "scaled"
    assert first.divergence.cause is Cause.WEIGHTS
    assert [(c.name, c.baseline, c.candidate) for c in first.divergence.changes] == [
        ("scale", "float[] [2]", "float[] [3]")
    ]
    (proof,) = report.proofs
    assert (proof.output, proof.before, proof.after) == ("y", 2 * N, 0)
    assert proof.restored
    assert first.requests[:2] == ("r0", "r1")


def test_the_changed_operator_is_named_and_proven(tmp_path):
    report = traced(tmp_path, steps(tmp_path / "a.onnx"), steps(tmp_path / "b.onnx", op="Sub"))
    (first,) = report.divergences
    assert first.divergence.baseline == "moved"
    assert first.divergence.last_equal == ("scaled",)
    assert first.divergence.cause is Cause.GRAPH
    (finding,) = findings_from_graph(report, answers_differ=True)
    assert finding.severity is Severity.WARNING
    assert "Add → moved is made by Sub" in finding.what
    assert "this is the whole cause" in finding.what


def test_a_second_cause_after_the_first_is_told(tmp_path):
    old = steps(tmp_path / "a.onnx")
    new = steps(tmp_path / "b.onnx", scale=3.0, last="Sigmoid")
    report = traced(tmp_path, old, new)
    assert [d.divergence.baseline for d in report.divergences] == ["scaled"]
    assert not report.proofs[0].restored
    first, later = findings_from_graph(report, answers_differ=True)
    assert "differs, too" in first.what
    assert later.where == "y"
    assert later.what.endswith("Tanh → y is made by Sigmoid")


def two_columns(path: Path, left: float, right: float) -> Path:
    return model(
        path,
        [
            node("Mul", ["x", "left"], "l"),
            node("Add", ["x", "right"], "r"),
            node("Max", ["l", "r"], "y"),
        ],
        {"left": left, "right": right},
    )


def test_two_causes_are_proven_together_and_each_alone(tmp_path):
    old = two_columns(tmp_path / "a.onnx", 2.0, 0.5)
    new = two_columns(tmp_path / "b.onnx", 3.0, 0.7)
    report = traced(tmp_path, old, new)
    assert [d.divergence.baseline for d in report.divergences] == ["l", "r"]
    assert report.proofs[0].restored
    assert [d.proofs[0].restored for d in report.divergences] == [False, False]


def told(report: GraphReport) -> list[str]:
    return [f.what for f in findings_from_graph(report, answers_differ=True)]


def test_of_two_causes_each_finding_tells_the_proof_of_both_and_its_own(tmp_path):
    old = two_columns(tmp_path / "a.onnx", 2.0, 0.5)
    report = traced(tmp_path, old, two_columns(tmp_path / "b.onnx", 3.0, 0.7))
    first, second = told(report)
    assert "fed in there and at r together, y is equal in all 48 rows: together these are" in first
    assert "fed together with l, y is equal" in second
    assert f"fed there alone, {report.divergences[1].proofs[0].after} of 48 differing" in second
    assert f"fed there alone, {report.divergences[0].proofs[0].after} of 48 differing" in first
    assert not [what for what in (first, second) if "what comes after differs" in what]


def many(path: Path, factors: list[float]) -> Path:
    """y = Σ xᵢ, xᵢ = x · factorᵢ."""
    names = [f"m{i}" for i in range(len(factors))]
    muls = [node("Mul", ["x", f"c{i}"], name) for i, name in enumerate(names)]
    return model(
        path,
        [*muls, node("Sum", names, "y")],
        {f"c{i}": factor for i, factor in enumerate(factors)},
    )


def test_none_of_five_causes_is_called_the_whole_one(tmp_path):
    factors = [1.0, 2.0, 3.0, 4.0, 5.0]
    old = many(tmp_path / "a.onnx", factors)
    report = traced(tmp_path, old, many(tmp_path / "b.onnx", [f + 0.5 for f in factors]))
    said = told(report)
    assert len(said) == 5
    whole = "together these are the whole cause (which of them matter was not tried"
    assert [whole in s for s in said] == [True, False, False, False, False]
    short = "fed together with m0 and the others told there, y is equal"
    assert all(short in s for s in said[1:])
    assert not any("this is the whole cause" in s for s in said)


def test_causes_beyond_those_that_are_fed_are_called_unfed(tmp_path):
    factors = [float(i) for i in range(1, MOST_PATCHED + 3)]
    old = many(tmp_path / "a.onnx", factors)
    said = told(traced(tmp_path, old, many(tmp_path / "b.onnx", [f + 0.5 for f in factors])))
    assert all("2 other first differences were not fed" in s for s in said[:MOST_PATCHED])
    assert all("only the first 16 first differences were fed" in s for s in said[MOST_PATCHED:])
    assert not any("what comes after differs" in s for s in said)


def test_an_output_that_is_the_first_to_differ_has_nothing_after_it(tmp_path):
    old = steps(tmp_path / "a.onnx", last="Tanh")
    report = traced(tmp_path, old, steps(tmp_path / "b.onnx", last="Sigmoid"))
    (what,) = told(report)
    assert "it is an output itself, so nothing comes after it" in what
    assert report.proofs == ()


def test_a_change_within_the_tolerance_is_the_cause_of_what_it_grows_to(tmp_path):
    def far(path: Path, offset: float) -> Path:
        # 1e-7 in 1e6 is within the tolerance; 1e6 less, it is everything.
        return model(
            path,
            [
                node("Cast", ["x"], "wide", to=TensorProto.DOUBLE),
                node("Add", ["wide", "offset"], "moved"),
                node("Sub", ["moved", "far"], "y"),
            ],
            {"offset": np.array(offset), "far": np.array(1e6)},
            TensorProto.DOUBLE,
        )

    old = far(tmp_path / "a.onnx", 1e6)
    report = traced(tmp_path, old, far(tmp_path / "b.onnx", 1e6 + 1e-7))
    (first,) = report.divergences
    assert (first.divergence.baseline, first.divergence.last_equal) == ("y", ("moved",))
    assert first.divergence.cause is Cause.WEIGHTS
    assert [c.name for c in first.divergence.changes] == ["offset"]


def test_what_does_not_fit_into_memory_is_sketched_first_and_looked_at_whole_then(tmp_path):
    old = steps(tmp_path / "a.onnx")
    new = steps(tmp_path / "b.onnx", op="Sub")
    report = traced(tmp_path, old, new, memory_bytes=64)
    assert report.sketched
    (first,) = report.divergences
    assert first.divergence.baseline == "moved"
    (state,) = (s for s in report.states if s.baseline == "moved")
    assert (state.rows, state.differing) == (2 * N, 2 * N)
    assert report.proofs[0].restored


def branching(path: Path, factor: float) -> Path:
    def branch(value: float) -> object:
        out = helper.make_tensor_value_info("o", FLOAT, None)
        constant = numpy_helper.from_array(np.array(value, np.float32), "c")
        inner = [node("Mul", ["x", "c"], "m"), node("Neg", ["m"], "o")]
        return helper.make_graph(inner, "b", [], [out], [constant])

    return model(
        path,
        [
            node("ReduceMax", ["x"], "top", keepdims=0),
            node("Greater", ["top", "low"], "yes"),
            node("If", ["yes"], "y", then_branch=branch(factor), else_branch=branch(9.0)),
        ],
        {"low": -100.0},
    )


def test_the_branch_that_is_taken_is_looked_into(tmp_path):
    report = traced(
        tmp_path, branching(tmp_path / "a.onnx", 2.0), branching(tmp_path / "b.onnx", 3.0)
    )
    assert [d.divergence.baseline for d in report.divergences] == ["y.then.m"]
    assert report.proofs[0].restored


def test_a_branch_that_is_not_taken_may_differ(tmp_path):
    old = model(
        tmp_path / "a.onnx", [node("Mul", ["x", "c"], "m"), node("Neg", ["m"], "y")], {"c": 2.0}
    )
    report = traced(tmp_path, old, branching(tmp_path / "b.onnx", 2.0))
    assert report.divergences == ()
    assert not report.outputs_differ


def test_noise_of_the_baseline_itself_is_called_that(tmp_path):
    def noisy(path: Path, scale: float) -> Path:
        return model(
            path,
            [
                node("RandomNormalLike", ["x"], "noise", scale=scale),
                node("Add", ["x", "noise"], "y"),
            ],
            {},
        )

    report = traced(tmp_path, noisy(tmp_path / "a.onnx", 1.0), noisy(tmp_path / "b.onnx", 100.0))
    causes = {d.divergence.cause for d in report.divergences}
    assert causes <= {Cause.NONDETERMINISTIC}
    (state,) = (s for s in report.states if s.baseline == "noise")
    assert state.floor > 0.1


def test_permuted_columns_are_named_and_harmless_when_the_answers_agree(tmp_path):
    def mixed(path: Path, order: list[int]) -> Path:
        weights = np.arange(1, K + 1, dtype=np.float32).reshape(K, 1)
        return model(
            path,
            [
                node("Gather", ["x", "order"], "picked", axis=1),
                node("MatMul", ["picked", "w"], "y"),
            ],
            {"order": np.array(order, np.int64), "w": weights[order]},
        )

    old = mixed(tmp_path / "a.onnx", [0, 1, 2, 3])
    new = mixed(tmp_path / "b.onnx", [2, 0, 1, 3])
    report = traced(tmp_path, old, new)
    (first,) = report.divergences
    assert first.divergence.baseline == "picked"
    assert "another order: 2, 0, 1, 3" in first.relation
    (finding,) = findings_from_graph(report, answers_differ=False)
    assert finding.severity is Severity.INFO
    assert "the outputs agree all the same" in finding.what


@pytest.mark.parametrize(
    ("classes", "relation"),
    [("abC", ""), ("bac", "the candidate holds the baseline's columns in another order: 1, 0, 2")],
)
def test_another_name_of_a_class_is_no_other_order_of_columns(tmp_path, classes, relation):
    def zipped(path: Path, names: str) -> Path:
        weights = np.arange(K * len(names), dtype=np.float32).reshape(K, len(names))
        made = load_model(model(path, [node("MatMul", ["x", "w"], "y")], {"w": weights}))
        made.graph.node[0].output[0] = "p"
        made.graph.node.append(
            node("ZipMap", ["p"], "y", domain="ai.onnx.ml", classlabels_strings=list(names))
        )
        scores = helper.make_map_type_proto(
            TensorProto.STRING, helper.make_tensor_type_proto(FLOAT, None)
        )
        made.graph.output[0].CopyFrom(
            helper.make_value_info("y", helper.make_sequence_type_proto(scores))
        )
        save_model(made, str(path))
        return path

    old, new = zipped(tmp_path / "a.onnx", "abc"), zipped(tmp_path / "b.onnx", classes)
    (first,) = traced(tmp_path, old, new).divergences
    assert (first.divergence.baseline, first.relation) == ("y", relation)


def test_a_difference_that_only_the_optimiser_makes_is_told(tmp_path):
    path = steps(tmp_path / "a.onnx")
    report = traced(tmp_path, path, path)
    (finding,) = findings_from_graph(report, answers_differ=True)
    assert finding.kind == "optimiser_or_runtime"


def test_versions_that_cannot_be_traced_say_why(tmp_path):
    def divided(path: Path) -> Path:
        return model(
            path,
            [
                node("Cast", ["x"], "i", to=TensorProto.INT32),
                node("Div", ["low", "minus"], "d"),
                node("Add", ["i", "d"], "s"),
                node("Cast", ["s"], "y", to=FLOAT),
            ],
            {"low": np.array([-(2**31)], np.int32), "minus": np.array([-1], np.int32)},
        )

    with pytest.raises(GraphPassError, match="killed by SIGFPE"):
        traced(tmp_path, steps(tmp_path / "a.onnx"), divided(tmp_path / "b.onnx"))

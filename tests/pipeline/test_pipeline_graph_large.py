"""Graphs with more tensors than a copy can return: some are looked at, and then those about a difference."""

import itertools
from pathlib import Path

import pytest
from onnx import helper
from test_pipeline_graph_trace import model, node, steps, traced

from harness.diff.graph_report import TensorVerdict
from harness.pipeline.graph_choice import evenly
from harness.pipeline.graph_opening import GraphPassError

LENGTH, ALTERED = 40, 33


def chain(path: Path, altered: float = 1.0) -> Path:
    """t0 = x + c0, t1 = tanh(t0), t2 = t1 + c2 …; one constant may be another."""
    nodes, constants, before = [], {}, "x"
    for i in range(LENGTH):
        name = "y" if i == LENGTH - 1 else f"t{i}"
        if i % 2:
            constants[f"c{i}"] = altered if i == ALTERED else 1.0
            nodes.append(node("Add", [before, f"c{i}"], name))
        else:
            nodes.append(node("Tanh", [before], name))
        before = name
    return model(path, nodes, constants)


@pytest.mark.parametrize(
    "options",
    [
        {"most_whole": 5},
        {"memory_bytes": 1, "most_sketched": 3},
        # As the first, with more steps.
        pytest.param({"most_whole": 1}, marks=pytest.mark.long),
    ],
    ids=["whole", "sketches", "one"],
)
def test_the_first_difference_of_a_large_graph_is_found_between_the_tensors_chosen(
    tmp_path, options
):
    old, new = chain(tmp_path / "a.onnx"), chain(tmp_path / "b.onnx", 1.5)
    report = traced(tmp_path, old, new, **options)
    (first,) = report.divergences
    assert first.divergence.baseline == f"t{ALTERED}"
    assert first.divergence.last_equal == (f"t{ALTERED - 1}",)
    assert [(c.name, c.candidate) for c in first.divergence.changes] == [
        (f"c{ALTERED}", "float[] [1.5]")
    ]
    assert report.proofs[0].restored


def test_what_was_not_looked_at_is_counted_and_never_equal(tmp_path):
    path = chain(tmp_path / "a.onnx")
    report = traced(tmp_path, path, path, most_whole=5)
    assert (report.compared, report.equal) == (5, 5)
    unseen = [s for s in report.states if s.verdict is TensorVerdict.NOT_COMPARED]
    assert len(unseen) == LENGTH - 5
    assert unseen[0].why == "was not looked at: the graph is large"
    assert report.not_compared[0].startswith(f"{LENGTH - 5} of {LENGTH} tensors inside the graphs")


def test_a_graph_that_is_not_large_is_looked_at_whole(tmp_path):
    path = chain(tmp_path / "a.onnx")
    report = traced(tmp_path, path, path, most_whole=LENGTH)
    assert report.compared == LENGTH
    assert report.not_compared == ()


def test_a_branch_is_still_checked_where_its_condition_was_not_chosen(tmp_path):
    def branch(op: str, out: str):
        value = helper.make_tensor_value_info(out, 1, None)
        return helper.make_graph([node(op, ["x"], out)], "b", [], [value])

    def branching(path: Path) -> Path:
        return model(
            path,
            [
                node("ReduceSum", ["x"], "sum", keepdims=0),
                node("Greater", ["sum", "zero"], "positive"),
                node(
                    "If", ["positive"], "y",
                    then_branch=branch("Tanh", "a"), else_branch=branch("Sigmoid", "b"),
                ),
            ],
            {"zero": 0.0},
        )  # fmt: skip

    path = branching(tmp_path / "a.onnx")
    whole = traced(tmp_path, path, path)
    some = traced(tmp_path, path, path, most_whole=1)
    assert some.requests == whole.requests < 48
    assert any("other branches" in said for said in some.not_compared)


def test_a_look_that_takes_too_long_ends_with_what_to_do(tmp_path):
    path = steps(tmp_path / "a.onnx")
    with pytest.raises(GraphPassError, match=r"more than 0\.001 s .*--graph-deadline"):
        traced(tmp_path, path, path, deadline_s=0.001)


def test_a_choice_is_spread_over_everything_and_holds_the_last():
    names = [str(i) for i in range(1000)]
    found = evenly(names, 10)
    assert (len(found), found[-1]) == (10, "999")
    places = [int(n) for n in found]
    gaps = [b - a for a, b in itertools.pairwise(places)]
    assert set(gaps) == {100}
    assert evenly(names, 1000) == names

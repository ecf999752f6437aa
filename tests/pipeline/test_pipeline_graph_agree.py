"""Outputs that differ without graph optimisation alone: what the graphs say is then no cause of anything."""

import numpy as np
import pytest
from onnx import ModelProto
from test_pipeline_graph_fused import Net, compared

from harness.core.findings import Finding, Severity
from harness.diff.graph_findings import findings_from_graph
from harness.pipeline.graph_pass import GraphLook

WIDTH = 6
VALUES = np.random.default_rng(1).uniform(-1, 1, (64, WIDTH)).astype(np.float32)


def net(factor: float, *, split: bool = False) -> ModelProto:
    made = Net()
    at = made.add("Mul", ["x", np.float32(factor)], "m")
    if split:
        at = made.add("Div", [made.add("Mul", [at, np.float32(3)], "more"), np.float32(3)], "less")
    made.add("Tanh", [at], "y")
    return made.model([None, WIDTH])


def told(new: ModelProto, *, unseen: tuple[str, ...] = ()) -> list[Finding]:
    report = compared(net(1.0), new, VALUES)
    assert report.differing_outputs == ("y",)
    return GraphLook(report=report).findings(answers_differ=False, unseen=unseen)


@pytest.mark.parametrize("new", [net(1.00001), net(1.00001, split=True)])
def test_equal_answers_have_no_cause_and_nothing_mends_them(new):
    agree, *others = told(new)
    assert (agree.kind, agree.severity) == ("outputs_agree", Severity.INFO)
    assert "equal as production computes them" in agree.what
    assert "nothing told of the graphs is the cause of another answer" in agree.what
    assert "y differs by up to 6.1e-06 of the scale" in agree.what
    assert others
    for found in others:
        assert "the outputs agree all the same" in found.what
        assert not {"cause", "mend", "fed"} & set(found.what.replace(":", "").split())
        assert "Compare the step" not in found.remedy


def test_large_differences_without_optimisation_are_a_warning():
    assert told(net(2.0))[0].severity is Severity.WARNING


def test_an_output_that_the_graphs_alone_show_differs_by_what_they_tell():
    (found,) = told(net(1.00001), unseen=("y",))
    assert found.what.startswith("the graphs part at m")
    assert found.what.endswith("this is the whole cause")


def test_answers_that_differ_have_their_cause():
    (found,) = findings_from_graph(compared(net(1.0), net(1.00001), VALUES), answers_differ=True)
    assert found.what.endswith("this is the whole cause")

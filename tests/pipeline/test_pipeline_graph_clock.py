"""The time that a look into the graphs may take."""

from types import SimpleNamespace

import pytest
from test_pipeline_graph_trace import LIMITS, batches, steps

from harness.diff.signature import SignatureMatch
from harness.pipeline import graph_opening
from harness.pipeline.graph_opening import GraphPassError, TimeLimit, Version
from harness.pipeline.graph_trace import GraphPass, trace_graphs


def test_a_step_that_does_not_fit_what_is_left_is_not_begun(monkeypatch):
    # A machine that is busy elsewhere would use up what is left.
    now = [100.0]
    monkeypatch.setattr(graph_opening, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    found = TimeLimit(0.5).each(range(3))
    assert next(found) == 0
    now[0] += 0.3
    with pytest.raises(GraphPassError, match=r"it would take more than 0\.5 s .*--graph-deadline"):
        next(found)
    assert list(TimeLimit(60).each(range(3))) == [0, 1, 2]


def test_a_second_look_goes_on_with_the_time_of_the_first(tmp_path):
    path = steps(tmp_path / "a.onnx")
    old, new = (
        Version(role=role, model=path, external=(), limits=LIMITS, input_names=(("x", "x"),))
        for role in ("baseline", "candidate")
    )
    match = SignatureMatch(inputs=(("x", "x"),), outputs=(("y", "y"),))
    wanted = GraphPass(baseline=old, candidate=new, match=match)
    spent = TimeLimit(0.0)
    with pytest.raises(GraphPassError, match=r"it took more than 0 s"):
        trace_graphs(wanted, batches(), tmp_path / "scratch", lambda *_: None, spent)

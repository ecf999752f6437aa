"""A difference that sinks under the tolerance and rises above it again is told where it begins, and no second time."""

import numpy as np
import pytest
from onnx import ModelProto
from test_pipeline_graph_fused import Net, compared, firsts

from harness.diff.graph_findings import findings_from_graph
from harness.diff.graph_report import GraphReport

WIDTH, PLACES = 6, 20
VALUES = np.random.default_rng(1).uniform(-1, 1, (64, WIDTH)).astype(np.float32)


def net(
    *, factor: float = 1.0, raised: float = 1000.0, lowered: float = 1000.0, slope: float = 0.5
) -> ModelProto:
    """A factor, then again and again a large number that is added and taken off again; the last with these numbers."""
    made = Net()
    at = made.add("Mul", ["x", np.float32(factor)], "first")
    for place in range(PLACES):
        last = place == PLACES - 1
        up, down = (raised, lowered) if last else (1000.0, 1000.0)
        made.add("Add", [at, np.float32(up)], f"up{place}")
        bent = made.add("LeakyRelu", [f"up{place}"], f"bent{place}", alpha=slope if last else 0.5)
        at = made.add("Sub", [bent, np.float32(down)], f"down{place}")
    made.add("Tanh", [at], "y")
    return made.model([None, WIDTH])


def told(report: GraphReport) -> list[tuple[str, str]]:
    """(where, what) of every finding."""
    return [(f.where, f.what) for f in findings_from_graph(report, answers_differ=True)]


def test_places_where_a_difference_rises_again_are_one_line():
    report = compared(net(), net(factor=1.0003), VALUES)
    assert firsts(report) == [("first", "first")]
    assert report.risen == tuple(f"down{place}" for place in range(PLACES))
    assert [proof.restored for proof in report.proofs] == [True]
    (_, cause), (where, again) = told(report)
    assert cause.endswith("this is the whole cause")
    assert where == "down0"
    assert again.startswith(
        "at 20 further places (first down0, last down19) a difference that sank"
    )
    one = compared(net(), net(factor=1.0003, lowered=1000.01), VALUES)
    assert len(one.risen) == PLACES - 1


@pytest.mark.parametrize(
    ("altered", "constant"),
    [
        ({"lowered": 1000.01}, "down19"),
        ({"raised": 1000.0005}, "up19"),
        ({"slope": 0.25}, "bent19"),
    ],
)
def test_a_place_with_a_difference_of_its_own_stays_a_first_one(altered, constant):
    report = compared(net(), net(factor=1.0003, **altered), VALUES)
    assert firsts(report) == [("first", "first"), ("down19", "down19")]
    assert report.risen == tuple(f"down{place}" for place in range(PLACES - 1))
    (change,) = report.divergences[1].divergence.changes
    assert change.node.endswith(f"→ {constant}")
    assert [proof.restored for proof in report.proofs] == [True]


def test_one_altered_place_alone_is_told_as_before():
    report = compared(net(), net(raised=1000.0005), VALUES)
    assert firsts(report) == [("down19", "down19")]
    assert report.risen == ()

"""How a divergence of two graphs is told."""

from dataclasses import replace

import pytest

from harness.core.graphs import Node
from harness.diff.alignment import aligned_nodes
from harness.diff.changes import Cause, Change, ChangeKind, Divergence, replaced_operators
from harness.diff.graph_findings import findings_from_graph, told
from harness.diff.graph_report import (
    FirstDivergence,
    GraphReport,
    PatchProof,
    TensorState,
    TensorVerdict,
)

ROWS = 50


def proof(*tensors, output="y", before=ROWS, after=0):
    return PatchProof(tensors=tensors, output=output, rows=ROWS, before=before, after=after)


def first(name, *proofs, cause=Cause.GRAPH, changes=(), relation=""):
    return FirstDivergence(
        divergence=Divergence(
            baseline=name, candidate=name, last_equal=("x",), operators=((), ()),
            changes=tuple(changes), cause=cause,
        ),
        relation=relation, requests=(), proofs=proofs,
    )  # fmt: skip


def findings(*firsts, proofs=()):
    states = tuple(
        TensorState(
            baseline=f.divergence.baseline, candidate=f.divergence.candidate, operator="Mul",
            tier="identical", verdict=TensorVerdict.DIFFERS, rows=ROWS, differing=ROWS,
        )
        for f in firsts
    )  # fmt: skip
    report = GraphReport(
        requests=ROWS, coverage="", compared=len(firsts), equal=0, tiers={}, sketched=False,
        states=states, candidate_only=(), divergences=firsts, proofs=tuple(proofs),
        outputs_differ=True, not_compared=(),
    )  # fmt: skip
    return findings_from_graph(report, answers_differ=True)


def said(*firsts, proofs=()):
    return [f.what for f in findings(*firsts, proofs=proofs)]


TOGETHER = "with the baseline's values fed in there and at b together"


def test_a_proof_of_several_is_told_once_and_each_says_what_it_does_alone():
    one, other = said(
        first("a", proof("a", after=20)), first("b", proof("b", after=51)), proofs=[proof("a", "b")]
    )
    assert f"{TOGETHER}, y is equal in all 50 rows" in one
    assert "(fed there alone, 20 of 50 differing rows still differ)" in one
    assert "together" in other
    assert "fed in there and at" not in other
    assert "fed together with a and the others told there, y is equal" in other


def test_no_more_rows_than_there_are_still_differ():
    (_, other) = said(
        first("a", proof("a", before=40, after=20)),
        first("b", proof("b", before=40, after=50)),
        proofs=[proof("a", "b", before=40)],
    )
    assert "(fed there alone, 50 rows differ instead of 40)" in other
    (alone,) = said(first("a"), proofs=[proof("a", before=40, after=50)])
    assert "50 rows of y differ instead of 40" in alone


def test_the_same_proof_for_a_second_output_is_told_shortly():
    (one, _) = said(
        first("a"), first("b"), proofs=[proof("a", "b"), proof("a", "b", output="z", after=3)]
    )
    assert one.count(TOGETHER) == 1
    assert "fed in the same way, 3 instead of 50 rows of z differ" in one


def weights(node, before="float[4] [1, 2, 3, 4]"):
    return Change(
        kind=ChangeKind.WEIGHTS, node=node, name="w", baseline=before, candidate="float[4] …"
    )


@pytest.mark.parametrize(
    ("change", "relation", "plain"),
    [
        (weights("MatMul → h"), "", False),
        (weights("MatMul → h"), "candidate = 2 × baseline", True),
        (weights("GreaterOrEqual → yes"), "", True),
        (weights("Mul → km", "float[1] [1.6]"), "", True),
    ],
)
def test_a_threshold_or_a_unit_is_no_retrain(change, relation, plain):
    (found,) = findings(first("a", cause=Cause.WEIGHTS, changes=[change], relation=relation))
    assert ("threshold" in found.remedy) is plain
    assert "Expected after a retrain" not in found.remedy


def nodes(*operators):
    return [
        Node(name="", op=op, inputs=("x",), outputs=(f"{op.lower()}{i}",), captures=(), attributes=())
        for i, op in enumerate(operators)
    ]  # fmt: skip


def test_operators_in_the_place_of_others_replace_them():
    found = aligned_nodes(nodes("Sigmoid", "Add"), nodes("Exp", "Div", "Add"))
    assert (found.removed, found.added) == ([], [])
    (both,) = found.replaced
    change = replaced_operators(*both)
    divergence = replace(first("a").divergence, changes=(change,))
    assert told(divergence) == "Sigmoid → sigmoid0 is replaced by Exp → exp0, Div → div1"


def test_operators_between_others_are_new():
    found = aligned_nodes(nodes("Mul", "Add"), nodes("Mul", "Neg", "Add"))
    assert (found.replaced, found.removed, [n.op for n in found.added]) == ([], [], ["Neg"])

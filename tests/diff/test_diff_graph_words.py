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


def findings(*firsts, proofs=(), rearranged=False, differ=True, **measured):
    states = tuple(
        TensorState(
            baseline=f.divergence.baseline, candidate=f.divergence.candidate, operator="Mul",
            tier="identical", verdict=TensorVerdict.DIFFERS, rows=ROWS, differing=ROWS, **measured,
        )
        for f in firsts
    )  # fmt: skip
    report = GraphReport(
        requests=ROWS, coverage="", compared=len(firsts), equal=0, tiers={}, sketched=False,
        states=states, candidate_only=(), divergences=firsts, proofs=tuple(proofs),
        outputs_differ=differ, not_compared=(), rearranged=rearranged,
    )  # fmt: skip
    return findings_from_graph(report, answers_differ=differ)


def said(*firsts, **rest):
    return [f.what for f in findings(*firsts, **rest)]


def test_batches_are_not_told_as_rows():
    batches = {"by_batch": True, "output": "y", "rows": 2, "before": 2}
    whole, part = (PatchProof(tensors=("a",), after=after, **batches) for after in (0, 1))
    (mended,) = said(first("a", whole), proofs=[whole], by_batch=True)
    assert "50 of 50 batches differ (of 50 requests in all; which of them, its first axis" in mended
    assert "y is equal in all 2 batches" in mended
    (left,) = said(first("a", part), proofs=[part], by_batch=True)
    assert "1 instead of 2 batches of y differ" in left
    assert " rows" not in mended + left


TOGETHER = "with the baseline's values fed in there and at b together"


def test_a_proof_of_several_is_told_once_and_each_says_what_it_does_alone():
    one, other = said(
        first("a", proof("a", after=20)), first("b", proof("b", after=51)), proofs=[proof("a", "b")]
    )
    assert f"{TOGETHER}, y is equal in all 50 rows" in one
    assert "(fed there alone, 20 of 50 differing rows still differ)" in one
    assert "together" in other
    assert "fed in there and at" not in other
    assert "fed together with a, y is equal" in other


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


SAME = "both versions hold the same numbers"
PICKED = Change(kind=ChangeKind.ADDED, node="Gather → p", name="", baseline="", candidate="Gather")


@pytest.mark.parametrize(
    ("measured", "why"),
    [
        ({"by_order": True, "ordered": 0.01, "relative": 0.02}, "rounding may be all of it"),
        ({"ordered": 0.01, "relative": 0.2}, "more than rounding explains"),
        ({"relative": 0.2}, "was not measured"),
    ],
)
def test_numbers_in_another_arrangement_are_not_told_as_other_numbers(measured, why):
    found = first("a", changes=[weights("MatMul → h"), PICKED])
    (text,) = said(found, proofs=[proof("a")], rearranged=True, **measured)
    assert f"{SAME} in another arrangement (w of MatMul → h, Gather → p is new)" in text
    assert why in text
    assert "float[4]" not in text
    assert ("this is the whole cause" in text) is ("more" in why)


def test_numbers_that_only_changed_places_are_told_so():
    found = first("a", cause=Cause.WEIGHTS, changes=[weights("MatMul → h")])
    (text,) = said(found, proofs=[proof("a")], rearranged=True, by_order=True, ordered=0.01)
    assert f"{SAME} in other places, and no operator here picks them in another order" in text


def test_numbers_that_changed_places_and_are_taken_there_are_no_fault():
    moved = first("a", cause=Cause.WEIGHTS, changes=[weights("MatMul → h")], relation="order 1, 0")
    (found,) = findings(moved, rearranged=True, differ=False, ordered=0.01, relative=0.2)
    assert f"{SAME} in other places (w of" in found.what
    assert found.remedy.startswith("Nothing to do: the outputs agree")


def test_other_numbers_stay_the_cause():
    found = first("a", changes=[weights("MatMul → h"), PICKED])
    (text,) = said(found, proofs=[proof("a")], by_order=True, ordered=0.01)
    assert SAME not in text
    assert "weights w of MatMul → h: float[4] [1, 2, 3, 4]" in text
    assert "this is the whole cause" in text


def test_what_differs_before_equal_tensors_is_not_the_whole_cause_of_another_order():
    found = first("a", changes=[weights("MatMul → h"), PICKED])
    found = replace(found, divergence=replace(found.divergence, farther=True))
    (text,) = said(found, proofs=[proof("a")], rearranged=True, ordered=0.01, relative=0.2)
    assert "(before that, where it stays within the tolerance: w of" in text
    assert "y is equal in all 50 rows: nothing after it differs" in text


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

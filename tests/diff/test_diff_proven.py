"""Which place of the graphs is proven to be the whole cause, and when none is."""

import pytest

from harness.diff.changes import Cause, Change, ChangeKind, Divergence
from harness.diff.graph_report import (
    FirstDivergence,
    GraphReport,
    PatchProof,
    TensorState,
    TensorVerdict,
)
from harness.diff.proven import proven_cause

FILL = Change(
    kind=ChangeKind.WEIGHTS, node="Imputer → v", name="fills", baseline="[3]", candidate="[0]"
)


def proof(*tensors, output="y", after=0):
    return PatchProof(tensors=tensors, output=output, rows=9, before=9, after=after)


def first(name, *proofs, is_output=False, changes=(FILL,), cause=Cause.WEIGHTS, reaches=("y", "z")):
    region = Divergence(
        baseline=name, candidate=name, last_equal=("x",), operators=((), ()), changes=changes,
        cause=cause,
    )  # fmt: skip
    return FirstDivergence(
        divergence=region, relation="", requests=(), proofs=proofs, is_output=is_output,
        reaches=reaches,
    )  # fmt: skip


def cause(*firsts, proofs=(), rearranged=False, after=(), **asked):
    states = tuple(
        TensorState(
            baseline=f.divergence.baseline, candidate=f.divergence.candidate, operator="Mul",
            tier="identical", verdict=TensorVerdict.DIFFERS, rows=9, differing=9,
        )
        for f in firsts
    )  # fmt: skip
    report = GraphReport(
        requests=9, coverage="", compared=1, equal=0, tiers={}, sketched=False, states=(*states, *after),
        candidate_only=(), divergences=firsts, proofs=tuple(proofs), outputs_differ=True,
        not_compared=(), rearranged=rearranged,
    )  # fmt: skip
    return proven_cause(report, **asked)


WHAT = "weights fills of Imputer → v: [3] → [0]"
AT = "with the baseline's values fed in at"
FED = "with the baseline's values fed in there"


def test_one_place_that_mends_all_outputs():
    found = cause(first("v"), proofs=[proof("v"), proof("v", output="z")])
    assert found == f"v: {WHAT}; {FED}, y and z are equal"


def test_one_of_several_that_does_it_alone():
    firsts = first("v", proof("v")), first("w", proof("w", after=9))
    assert cause(*firsts, proofs=[proof("v", "w")]) == f"v: {WHAT}; {FED}, y is equal"


def test_several_that_do_it_together():
    firsts = first("v", proof("v", after=2)), first("w", proof("w", after=9))
    found = cause(*firsts, proofs=[proof("v", "w")])
    assert found == f"v and w: {WHAT}; {WHAT}; {FED} together, y is equal"


def test_an_output_that_is_a_first_difference_itself():
    assert cause(first("y", is_output=True)) == f"y: {WHAT}"
    found = cause(first("v"), first("y", is_output=True), proofs=[proof("v", output="z")])
    assert found == f"v and y: {WHAT}; {WHAT}; {AT} v, z is equal"
    several = first("v"), first("w"), first("y", is_output=True)
    found = cause(*several, proofs=[proof("v", "w", output="z")])
    three = f"{WHAT}; {WHAT}; {WHAT}"
    assert found == f"v, w and y: {three}; {AT} v and w together, z is equal"


def test_a_place_that_mends_alone_beside_an_output_that_is_a_first_difference_itself():
    several = first("v", proof("v", output="z")), first("w"), first("y", is_output=True)
    found = cause(*several, proofs=[proof("v", "w", output="z"), proof("v", "w", after=9)])
    assert found == f"v and y: {WHAT}; {WHAT}; {AT} v, z is equal"


def test_what_leads_to_no_differing_output_is_no_cause():
    beside = first("f", reaches=())
    end = first("y", is_output=True)
    assert cause(beside, end, proofs=[proof("f", after=9)]) == f"y: {WHAT}"
    several = beside, first("g"), first("e")
    found = cause(*several, proofs=[proof("f", "g", "e")])
    assert found == f"g and e: {WHAT}; {WHAT}; {FED} together, y is equal"
    elsewhere = first("f", reaches=("y",))
    found = cause(elsewhere, first("g"), end, proofs=[proof("f", "g", output="z")])
    assert found == f"g and y: {WHAT}; {WHAT}; {AT} g, z is equal"
    assert cause(beside, end, proofs=[proof("f", output="z")]) == ""


def test_what_is_meant_to_change_neither_is_a_cause_nor_needs_one():
    end, inner = first("v", is_output=True, reaches=("v",)), first("g", reaches=("y",))
    proofs = [proof("g", output="v", after=9), proof("g")]
    assert cause(end, inner, proofs=proofs, expected=["v"]) == f"g: {WHAT}; {FED}, y is equal"
    late = first("u", reaches=("v",))
    found = cause(inner, late, proofs=[proof("g", "u"), proof("g", "u", output="v", after=1)],
                  expected=["v"])  # fmt: skip
    assert found == f"g: {WHAT}; {FED}, y is equal"
    assert cause(end, expected=["v"]) == ""


def test_what_nothing_was_fed_of_may_be_another_cause():
    end, other = first("y", is_output=True), first("v", reaches=("z",))
    assert cause(other, end) == ""
    assert cause(other, end, expected=["z"]) == f"y: {WHAT}"
    assert cause(other, end, proofs=[proof("v", output="z")]) != ""


def test_a_feature_that_needs_a_cause_is_one_or_computed_from_one():
    after = [TensorState(
        baseline="f", candidate="f", operator="Mul", tier="declared", reads=("x", "g"),
        verdict=TensorVerdict.DIFFERS,
    )]  # fmt: skip
    said = f"g: {WHAT}; {FED}, y is equal"
    for behind in ([], ["g"], ["f"], ["f", "g"]):
        assert cause(first("g"), proofs=[proof("g")], after=after, behind=behind) == said
    for behind in (["x"], ["f", "e"]):
        assert cause(first("g"), proofs=[proof("g")], after=after, behind=behind) == ""
    other = first("x", reaches=())
    assert cause(first("g"), other, proofs=[proof("g")], after=after, behind=["g"]) == said
    assert cause(first("g"), other, proofs=[proof("g")], after=after, behind=["f"]) == ""


@pytest.mark.parametrize(
    ("firsts", "rest"),
    [
        ([first("v")], {"proofs": [proof("v", after=1)]}),
        ([first("v")], {"proofs": [proof("v"), proof("v", output="z", after=1)]}),
        ([first("v")], {"proofs": [proof("v")], "rearranged": True}),
        ([first("v", cause=Cause.NONDETERMINISTIC)], {"proofs": [proof("v")]}),
        ([first("y", is_output=True, changes=(), cause=Cause.RUNTIME)], {}),
        ([first("v")], {}),
        ([], {}),
    ],
    ids=["some rows", "one output", "order", "chance", "runtime", "not fed", "nothing"],
)
def test_no_place_is_named_where_it_is_not_proven(firsts, rest):
    assert cause(*firsts, **rest) == ""

from dataclasses import replace

import numpy as np
import pytest
from diff_streams import floor_of, observed, output_pairs, requests

from harness.core.errors import GateError
from harness.core.observations import Outcome, PairBatch
from harness.diff.floor import Floor
from harness.diff.outputs import OutputDiff
from harness.diff.reports import ParityVerdict
from harness.diff.signature import SignatureMatch

RNG = np.random.default_rng(11)
SCORE = RNG.random(200).astype(np.float32)


def match(*names):
    return SignatureMatch(inputs=(), outputs=tuple((n, n) for n in names))


def diffed(baseline, candidate, *, keys=(None, None), expected=()):
    floor = floor_of(output_pairs(baseline, baseline, keys=(keys[0], keys[0])))
    diff = OutputDiff(match(*baseline), floor, expected)
    found = [diff.update(p) for p in output_pairs(baseline, candidate, keys=keys)]
    return np.concatenate([f.mismatch for f in found]), diff.finish()


def test_equal_outputs_never_mismatch():
    mismatch, report = diffed({"p": SCORE}, {"p": SCORE.copy()})
    assert not mismatch.any()
    assert report.outputs[0].verdict is ParityVerdict.EQUAL


def test_exactly_the_changed_requests_mismatch():
    changed = SCORE.copy()
    changed[[3, 77]] += 0.01
    mismatch, report = diffed({"p": SCORE}, {"p": changed})
    assert np.flatnonzero(mismatch).tolist() == [3, 77]
    assert report.mismatched_requests == 2
    assert report.outputs[0].examples == ("r3", "r77")
    assert report.outputs[0].max_abs == pytest.approx(0.01, rel=1e-4)


def test_the_example_is_the_first_difference_with_both_values():
    changed = SCORE.copy()
    changed[[5, 6]] = 2.0
    example = diffed({"p": SCORE}, {"p": changed})[1].outputs[0].example
    assert (example.request_id, example.baseline, example.candidate) == ("r5", float(SCORE[5]), 2.0)


def test_differences_within_the_tolerance_are_reported_not_counted():
    mismatch, report = diffed({"p": SCORE}, {"p": SCORE + np.float32(5e-7)})
    assert not mismatch.any()
    assert 0 < report.outputs[0].max_rel <= 1e-6


def test_rows_of_one_request_count_once():
    rows = [2, 0, 3]
    before = np.arange(5, dtype=np.float32)
    after = before.copy()
    after[3:] += 1
    pair = PairBatch(
        requests=requests(3, rows=rows),
        baseline=observed(3, outputs={"p": before}),
        candidate=observed(3, outputs={"p": after}),
    )
    diff = OutputDiff(match("p"), Floor())
    assert diff.update(pair).mismatch.tolist() == [False, False, True]
    report = diff.finish().outputs[0]
    assert (report.rows, report.requests, report.mismatched_requests) == (5, 2, 1)


def test_failed_requests_are_not_compared():
    pair = PairBatch(
        requests=requests(3),
        baseline=observed(3, outputs={"p": SCORE[:3]}, outcome=[0, Outcome.ERROR, 0]),
        candidate=observed(3, outputs={"p": SCORE[:3] + 1}, outcome=[0, 0, Outcome.CRASH]),
    )
    diff = OutputDiff(match("p"), Floor())
    found = diff.update(pair)
    assert found.mismatch.tolist() == [True, False, False]
    assert found.compared.tolist() == [True, False, False]
    assert diff.finish().requests == 1


def test_an_empty_stream_is_never_parity():
    diff = OutputDiff(match("p"), Floor())
    diff.update(
        PairBatch(
            requests=requests(1, rows=[0]),
            baseline=observed(1, outputs={"p": SCORE[:0]}),
            candidate=observed(1, outputs={"p": SCORE[:0]}),
        )
    )
    assert diff.finish().outputs[0].verdict is ParityVerdict.NOT_COMPARED


def test_expected_changes_are_reported_not_counted():
    mismatch, report = diffed({"p": SCORE}, {"p": SCORE + 1}, expected=("p",))
    assert not mismatch.any()
    assert report.outputs[0].verdict is ParityVerdict.EXPECTED


def test_zipmap_classes_align_by_name():
    scores = RNG.random((50, 2))
    keys = ({"s": ("late", "early")}, {"s": ("early", "late")})
    mismatch, _ = diffed({"s": scores}, {"s": scores[:, ::-1]}, keys=keys)
    assert not mismatch.any()


def test_a_class_on_one_side_is_a_mismatch_and_listed():
    scores = RNG.random((50, 2))
    keys = ({"s": ("late", "early")}, {"s": ("late",)})
    mismatch, report = diffed({"s": scores}, {"s": scores[:, :1]}, keys=keys)
    assert mismatch.all()
    assert report.one_sided_classes == ("s[early] (baseline only)",)


def test_a_class_of_one_side_is_not_told_as_another_ones_values():
    scores = RNG.random((200, 2)).astype(np.float32)
    keys = ({"s": ("a", "b")}, {"s": ("a", "c")})
    mismatch, report = diffed({"s": scores}, {"s": scores}, keys=keys)
    assert mismatch.all()
    assert report.one_sided_classes == ("s[b] (baseline only)", "s[c] (candidate only)")
    told = [o for o in report.outputs if o.verdict is ParityVerdict.DIFFERS]
    assert [(o.name, o.text) for o in told] == [
        (f"s[{name}]", "this class is named by one version only") for name in "bc"
    ]


def test_another_shape_makes_every_row_differ_and_says_so():
    mismatch, report = diffed({"p": np.ones((4, 2))}, {"p": np.ones((4, 3))})
    assert mismatch.all()
    assert "the shape (rows, 2) became (rows, 3)" in report.outputs[0].text


def test_the_wrong_value_of_a_wide_output_is_named_by_its_column():
    wide = RNG.random((20, 300)).astype(np.float32)
    other = wide.copy()
    other[7, 250] += 1
    mismatch, report = diffed({"e": wide}, {"e": other})
    assert np.flatnonzero(mismatch).tolist() == [7]
    assert [r.name for r in report.outputs] == ["e[250]", "e[299 equal columns]"]


def test_float16_outputs_have_their_own_tolerance():
    half = (SCORE + 0.5).astype(np.float16)
    mismatch, _ = diffed({"p": half}, {"p": np.nextafter(half, np.float16(9))})
    assert not mismatch.any()
    mismatch, _ = diffed({"p": half}, {"p": half * np.float16(1.01)})
    assert mismatch.all()


def test_a_verdict_depends_on_no_later_row():
    early = SCORE.copy()
    early[0] += 1e-3
    alone, _ = diffed({"p": SCORE[:1]}, {"p": early[:1]})
    floor = floor_of(output_pairs({"p": SCORE[:1]}, {"p": SCORE[:1]}))
    large_before = np.append(SCORE, np.float32(1e9))
    diff = OutputDiff(match("p"), floor)
    (pair,) = output_pairs({"p": large_before}, {"p": np.append(early, np.float32(1e9))})
    assert diff.update(pair).mismatch[0] == alone[0]


def test_a_wrong_number_of_rows_is_the_gates_own_fault():
    pair = PairBatch(
        requests=requests(3),
        baseline=observed(3, outputs={"p": SCORE[:3]}),
        candidate=observed(3, outputs={"p": SCORE[:2]}),
    )
    with pytest.raises(GateError, match="3 and 2 rows"):
        OutputDiff(match("p"), Floor()).update(pair)


TAIL = np.exp(np.random.default_rng(9).normal(size=2000) * 8).astype(np.float32)


@pytest.mark.parametrize("below", [1e-7, 9e-7])
def test_small_values_that_moved_in_many_rows_are_not_comparable(below):
    mismatch, report = diffed({"p": TAIL}, {"p": np.where(below > TAIL, np.float32(0), TAIL)})
    assert not mismatch.any()
    assert report.outputs[0].verdict is ParityVerdict.SMALL_VALUES
    assert report.outputs[0].small_rows == (below > TAIL).sum()
    assert [name for name, _ in report.unproven] == ["p"]


def test_few_small_values_that_moved_are_counted_and_equal():
    few = np.where(np.sort(TAIL)[5] > TAIL, np.float32(0), TAIL)
    report = diffed({"p": TAIL}, {"p": few})[1]
    assert report.outputs[0].verdict is ParityVerdict.EQUAL
    assert report.outputs[0].small_rows == 5
    assert "5 values within the tolerance" in report.outputs[0].text


def test_a_column_that_becomes_zero_differs_although_another_one_is_large():
    both = np.stack([TAIL, np.float32(1e9) * TAIL], axis=1)
    gone = both * np.array([0, 1], np.float32)
    assert diffed({"p": both}, {"p": gone})[1].mismatched_requests > 0.9 * len(TAIL)


@pytest.mark.parametrize("order", [[1, 0, 2], [2, 0, 1]])
def test_columns_in_another_order_are_named_once(order):
    before = RNG.dirichlet([2, 3, 4], 200).astype(np.float32)
    report = diffed({"p": before}, {"p": before[:, order]})[1]
    told = [o for o in report.outputs if o.verdict is ParityVerdict.DIFFERS]
    assert [o.relation for o in told] == ["other_column"]
    assert f"in another order: 0 is {order[0]}" in told[0].text
    assert report.mismatched_requests == 200


def test_outputs_that_hold_each_other_are_named():
    scores = {"a": SCORE, "b": RNG.random(200).astype(np.float32)}
    report = diffed(scores, {"a": scores["b"], "b": scores["a"]})[1]
    assert [o.text for o in report.outputs] == [
        f"candidate = the baseline's {other} (columns swapped?)" for other in "ba"
    ]


def test_an_output_that_some_answers_lack_is_unproven_and_counted():
    whole = {"p": SCORE, "q": SCORE}
    floor = floor_of(output_pairs(whole, whole))
    diff = OutputDiff(match("p", "q"), floor)
    (first, *rest) = output_pairs(whole, whole)
    short = replace(
        first, candidate=replace(first.candidate, outputs={"p": first.candidate.outputs["p"]})
    )
    assert not diff.update(short).compared.any()
    diff = OutputDiff.from_state(diff.state(), match("p", "q"), floor)
    for pair in rest:
        diff.update(pair)
    report = diff.finish()
    why = f"without values for the rows in {len(first)} of 200 requests"
    assert report.unproven == (("q", why),)
    assert f"output q: {why}" in report.not_compared

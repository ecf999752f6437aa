"""Rows that nobody answered, and one value for all rows, take no memory for each row, wherever they are put together."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from test_replay_forms import requests

from harness.core.observations import Observations, Outcome, PairBatch
from harness.core.tensors import same_bits, some_rows
from harness.pipeline.candidate_failures import failing
from harness.replay.composition import joined, observed_at, observed_in_parts
from harness.replay.filler import FREE, FREE_TRACED, Spare, in_one_array, unanswered
from harness.replay.forms import in_forms
from harness.replay.looks import look_of

WIDE = 1 << 20
"""Floats of a row: 4 MiB."""
TABLE = np.arange(float(WIDE), dtype=np.float32)


@pytest.fixture
def peak():
    """Tells the most bytes that were in use at once so far."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


def piece(wide, outcome=Outcome.OK):
    """One request's answer, or what stands for it."""
    rows = len(wide)
    return Observations(
        outcome=np.array([outcome], np.int8), outputs={"wide": wide, "y": np.ones(rows)},
        features={"f": wide}, trace_outputs={"wide": wide, "y": np.ones(rows)}, latency_s=np.zeros(1),
    )  # fmt: skip


def refused(rows=1):
    return piece(unanswered(TABLE[None], rows), Outcome.ERROR)


def same_for_all(rows):
    return piece(np.broadcast_to(TABLE, (rows, WIDE)))


def test_filler_is_as_wide_as_an_answer_where_that_takes_little():
    assert unanswered(np.empty((0, 3)), 2).shape == (2, 3)
    assert unanswered(np.empty((0, 2, 10**9)), 2).shape == (2, 0, 0)
    assert unanswered(np.empty(0, object), 2).tolist() == ["", ""]
    most = FREE // 8
    assert unanswered(np.empty((0, most)), 1).shape == (1, most)
    assert unanswered(np.empty((0, most)), 2).shape == (2, 0)


def test_few_wide_answers_among_many_refusals_are_not_put_into_one_array(peak):
    pieces = [piece(TABLE[None] + i) if i in (3, 50) else refused() for i in range(200)]
    candidate = joined(pieces)
    assert set(candidate.forms) == {"wide"}
    assert (list(candidate.features), list(candidate.trace_outputs)) == ([], ["y"])
    assert candidate.uneven == ("f",)
    batch = requests([1] * 200)
    baseline = joined([piece(np.zeros((1, 2)))] * 200)
    pair = PairBatch(requests=batch, baseline=baseline, candidate=candidate)
    assert failing(pair)["ERROR"].sum() == 198
    parts = {tuple(at.tolist()): part.candidate.outputs["wide"] for at, part, _ in in_forms(pair)}
    assert {at: array.shape for at, array in parts.items() if len(at) == 2} == {(3, 50): (2, WIDE)}
    assert np.array_equal(parts[3, 50][:, 0], [3.0, 50.0])
    few, rest = observed_in_parts(batch, candidate, [np.array([3, 4]), np.arange(10, 30)])
    assert np.isnan(few.outputs["wide"][1]).all()
    assert rest.outputs["wide"].size == 0
    assert set(observed_at(batch, candidate, np.arange(200)).forms) == {"wide"}
    assert peak() < 16 * TABLE.nbytes


def test_one_value_for_all_rows_stays_that_beside_others_and_beside_refusals(peak):
    pieces = [same_for_all(60), refused(600), same_for_all(1), same_for_all(40)]
    both = joined(pieces)
    assert (both.forms, both.uneven) == ({}, ())
    assert both.outputs["wide"].shape == both.trace_outputs["wide"].shape == (701, WIDE)
    batch = requests([60, 600, 1, 40])
    some = observed_at(batch, both, np.array([0, 3]))
    assert some.outputs["wide"].shape == (100, WIDE)
    assert "wide" not in look_of(both).nan
    assert failing(PairBatch(requests=batch, baseline=both, candidate=both)) == {}
    assert peak() < 4 * TABLE.nbytes


def test_tables_with_other_values_keep_them():
    arrays = [np.broadcast_to(np.array(row), (2, 2)) for row in ([1.0, 2.0], [1.0, 3.0])]
    whole = in_one_array(arrays[0], arrays, [True, True], Spare(FREE))
    assert whole.tolist() == [[1.0, 2.0]] * 2 + [[1.0, 3.0]] * 2


def test_a_value_without_rows_is_compared_as_it_is():
    assert same_bits(np.array(1.0), np.array(1.0))
    assert not same_bits(np.array(1.0), np.array(2.0))


def test_tables_are_compared_in_one_row(peak):
    one, same, other = (np.broadcast_to(TABLE + np.float32(k), (900, WIDE)) for k in (0, 0, 1))
    assert same_bits(one, same)
    assert not same_bits(one, other)
    assert not same_bits(one, same[1:])
    assert peak() < 8 * TABLE.nbytes


def test_small_filler_is_nan_beside_one_value():
    arrays = [np.broadcast_to(np.array([1.0]), (2, 1)), np.zeros((1, 1))]
    whole = in_one_array(arrays[0], arrays, [True, False], Spare(FREE))
    assert np.array_equal(whole, [[1.0], [1.0], [np.nan]], equal_nan=True)


def test_filler_without_values_is_no_shape_that_a_version_gave():
    wide = joined([refused(), refused(9)])
    assert wide.outputs["wide"].shape == (10, 0)
    assert "wide" not in look_of(wide).shapes
    assert look_of(piece(np.empty((2, 0)))).shapes["wide"] == (0,)


def test_one_text_for_all_rows_stays_a_text():
    said = np.broadcast_to(np.array(["words"], object), (5,))
    for found in (
        some_rows(said, np.array([0, 3])),
        in_one_array(said, [said, said], [True, True], Spare(FREE)),
        joined([piece(said), piece(said)]).outputs["wide"],
    ):
        assert found.dtype == object
        assert set(found.tolist()) == {"words"}


def test_one_request_of_many_rows_that_is_refused_takes_no_features_from_those_beside_it():
    pieces = [piece(np.ones((1, 100), np.float32))] * 29
    large = piece(unanswered(np.empty((0, 100), np.float32), 50_000), Outcome.ERROR)
    found = joined([*pieces, large])
    assert found.uneven == ()
    assert found.features["f"][:29].tolist() == np.ones((29, 100)).tolist()
    assert np.isnan(found.features["f"][29:]).all()


def test_scores_that_are_told_in_forms_keep_their_classes():
    def scores(keys, rows):
        return replace(piece(rows), keys={"wide": keys})

    refusals = [scores(("a", "b"), np.full((1, 0), np.nan))] * 3
    uneven = joined([scores(("a", "b"), np.array([[1.0, 2.0]])), *refusals])
    uneven = replace(uneven, outputs={}, forms={"wide": ((4, np.array([[1.0, 2.0]] * 4)),)})
    other = scores(("b", "a"), np.array([[20.0, 10.0]]))
    both = joined([other, uneven])
    assert both.keys["wide"] == ("b", "a")
    ((_, first), (_, second)) = both.forms["wide"]
    assert (first.tolist(), second[0].tolist()) == ([[20.0, 10.0]], [2.0, 1.0])


def test_what_nobody_answered_takes_no_more_of_many_features_than_of_one(peak):
    names = [f"f{i}" for i in range(40)]

    def of(rows, outcome):
        return Observations(
            outcome=np.array([outcome], np.int8), outputs={"y": np.ones(rows)},
            features={name: np.full((rows, 100), 7.0) for name in (names if rows < 9 else [])},
            trace_outputs={}, latency_s=np.zeros(1),
        )  # fmt: skip

    large = 10_000  # rows, of 800 bytes in each feature
    found = joined([of(2, Outcome.OK), of(large, Outcome.ERROR)])
    kept = FREE_TRACED // (large * 800)
    assert 0 < kept < len(names)
    assert list(found.features) == names[:kept]
    assert found.uneven == tuple(names[kept:])
    assert peak() < 2 * FREE_TRACED


def bare(rows, outcome, features=None, **changed):
    """A request's answer with one output of its rows."""
    return Observations(
        outcome=np.array([outcome], np.int8), outputs={"y": np.full((rows, 2), 7.0)},
        features=features or {}, trace_outputs={}, latency_s=np.zeros(1),
    ) if not changed else replace(bare(rows, outcome, features), **changed)  # fmt: skip


def test_a_request_without_rows_or_of_unknown_rows_that_lacks_a_feature():
    known = bare(2, Outcome.OK, {"f": np.ones(2)})
    assert joined([bare(0, Outcome.OK), known]).features["f"].tolist() == [1.0, 1.0]
    # One that was answered and lacks it takes it from all.
    assert joined([bare(1, Outcome.OK), known]).features == {}
    told = bare(1, Outcome.ERROR, outputs={}, forms={"y": ((1, np.zeros((1, 9))),)})
    assert np.isnan(joined([told, known]).features["f"]).tolist() == [True, False, False]
    # Nothing says how many rows it has.
    assert joined([bare(1, Outcome.ERROR, outputs={}), known]).features == {}


def test_an_output_that_a_refused_request_lacks_is_filled_or_left_out():
    wide = FREE // 8  # one row of it takes all that refused requests may take
    answered = bare(1, Outcome.OK, outputs={"y": np.ones((1, 2)), "z": np.ones((1, wide))})
    assert joined([bare(1, Outcome.ERROR), answered]).outputs["z"].shape == (2, wide)
    found = joined([bare(2, Outcome.ERROR), answered])
    assert (set(found.outputs), found.forms) == ({"y"}, {})


def test_rows_that_are_fewer_than_the_answered_ones_take_nothing_from_what_others_may():
    spare = Spare(0)
    rows = np.ones((3, 5))
    whole = in_one_array(rows, [rows, rows[:2]], [True, False], spare)
    assert whole is not None
    assert whole.shape == (5, 5)
    assert in_one_array(rows, [rows[:1], rows], [True, False], spare) is None


def test_traced_outputs_may_take_as_much_as_features():
    rows = 1 + FREE // 80
    of = [replace(bare(n, o), trace_outputs={"y": np.ones((n, 10))}) for n, o in (
        (1, Outcome.OK), (rows, Outcome.ERROR),
    )]  # fmt: skip
    assert joined(of).trace_outputs["y"].shape == (1 + rows, 10)

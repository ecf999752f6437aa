"""Texts of any length: what is kept of them has a bound in bytes, as wide rows of numbers have."""

import tracemalloc

import numpy as np
import pytest
from diff_streams import observed, output_pairs, requests

from harness.core.observations import PairBatch
from harness.core.tensors import held_bytes
from harness.diff import sample
from harness.diff.columns import compared_rows
from harness.diff.floor_builder import FloorBuilder
from harness.diff.relations import name_relation
from harness.diff.sample import LIMIT, RowSample
from harness.diff.tally import TensorTally
from harness.diff.wide_sample import WideSample

LONG = "x" * 65_536
BOUND = 17 << 20


def texts(n, text=LONG):
    return np.full((n, 1), text, object)


def kept(sample):
    return [held_bytes(side) for side in sample.column(0)]


def test_of_long_texts_fewer_rows_are_kept():
    sample = RowSample()
    for _ in range(8):
        sample.add_equal(texts(512))
    assert max(kept(sample)) < BOUND
    assert not sample.wants_more()
    before, _ = sample.prefix(0)
    assert 64 <= len(before) == sample.limit < LIMIT


def test_of_long_texts_that_differ_fewer_are_kept_too():
    sample = RowSample()
    for _ in range(4):
        sample.add(texts(1024), texts(1024, LONG + "y"), np.ones(1024, np.bool_))
    assert sum(kept(sample)) < 2 * BOUND
    assert 64 <= sample.differing < LIMIT


@pytest.mark.parametrize("old", [texts(1024, "a"), np.zeros((1024, 1))], ids=["words", "numbers"])
@pytest.mark.parametrize("mismatch", [True, False], ids=["differ", "equal"])
def test_long_texts_of_the_candidate_alone_are_weighed_too(old, mismatch):
    sample = RowSample()
    for _ in range(4):
        sample.add(old, texts(1024, LONG), np.full(1024, mismatch))
    assert sum(kept(sample)) < 2 * BOUND
    assert len(sample.column(0)[1]) >= 64


def test_texts_beyond_any_measure_leave_a_few_rows():
    sample = RowSample()
    new = np.array([[LONG * 400]] * 100, object)
    sample.add(texts(100, "a"), new, np.ones(100, np.bool_))
    assert 1 <= len(sample.column(0)[1]) < 64
    assert sum(kept(sample)) < 10 * BOUND


def test_the_columns_of_a_wide_tensor_share_the_room():
    sample, columns = WideSample(), np.arange(16)
    wide = np.full((512, 16), "a", object), np.full((512, 16), LONG, object)
    for _ in range(2):
        for worst in (columns[:8], columns[8:]):
            sample.add(*wide, np.ones((512, 16), np.bool_), worst)
    again = WideSample.from_state(sample.state())
    for one in (sample, again):
        one.add(*wide, np.ones((512, 16), np.bool_), columns[:8])
        assert sum(held_bytes(one.column(i)[1]) for i in columns) < 8 * BOUND
        assert all(len(one.column(i)[1]) >= 64 for i in columns)


@pytest.mark.parametrize(
    ("text", "rows", "left"), [("word", 5000, LIMIT), (LONG * 8, 200, 64)], ids=["short", "long"]
)
def test_a_few_rows_are_kept_however_long_they_are_and_all_of_short_ones(text, rows, left):
    sample = RowSample()
    sample.add_equal(texts(rows, text))
    assert len(sample.column(0)[0]) == left


def test_a_saved_sample_goes_on_with_its_bound():
    sample = RowSample()
    sample.add(texts(300), texts(300, "y"), np.arange(300) % 2 == 0)
    again = RowSample.from_state(sample.state())
    for one in (sample, again):
        one.add(texts(300), texts(300, "y"), np.arange(300) % 2 == 0)
    assert again.limit == sample.limit
    assert again.differing == sample.differing
    assert kept(again) == kept(sample)


def test_heavy_texts_fix_the_scales_before_they_fill_the_memory(monkeypatch):
    builder = FloorBuilder()
    fixed = []
    monkeypatch.setattr(FloorBuilder, "_fix_scales", lambda self: fixed.append(self._held_rows))
    seen = observed(1024, outputs={"y": np.full(1024, LONG, object)})
    builder.update(PairBatch(requests=requests(1024), baseline=seen, candidate=seen))
    assert fixed == [1024]


LINE = "x" * 1000


@pytest.fixture
def told(monkeypatch):
    """What is told of a column of texts, where there is room for 128 rows of a thousand characters on either side."""
    monkeypatch.setattr(sample, "_TEXT", 256 * held_bytes(np.array([LINE], object)) - 1)

    def tell(baseline, candidate):
        tally = TensorTally("y", "output", {}, ())
        pairs = output_pairs({"y": baseline}, {"y": candidate}, range(0, len(baseline), 500))
        for pair in pairs:
            view = compared_rows(pair.requests, pair.both_answered())
            tally.update(pair.baseline.outputs["y"], pair.candidate.outputs["y"], view)
        (found,) = tally.reports()
        return found.relation, found.text

    return tell


def filled(text, late=1400):
    """All differ: one word became another, and after so many rows a third one."""
    old = np.full(1500, f"B{text}", object)
    return old, np.where(np.arange(1500) < late, f"C{text}", f"D{text}").astype(object)


def test_what_the_kept_rows_of_long_texts_show_is_told_of_these_rows(told):
    relation, text = told(*filled(LINE))
    assert relation == "other"
    assert text.startswith("among the 128 rows kept: candidate is 'Cxxx")
    assert len(text) < 600


def test_of_short_texts_what_they_show_is_told_of_all(told):
    assert told(*filled(""))[1] == "1 word differs, with no rule"
    assert told(*filled("", late=1500))[0] == "filled_with_constant"


def test_words_are_counted_among_the_rows_kept_of_long_texts(told):
    old = np.array([f"{i:04}{LINE}" for i in range(1000)], object)
    assert told(old, old + "y")[1] == "among the 128 rows kept: 128 words differ, with no rule"


def test_a_word_that_stays_where_no_row_was_kept_is_no_rule_either(told):
    old = np.where(np.arange(1000) % 100 < 99, LINE, "B").astype(object)
    new = old.copy()
    new[(old == "B") & (np.arange(1000) < 900)] = "C"
    relation, text = told(old, new)
    assert relation == "other"
    assert text.endswith("rows kept: candidate is 'C' wherever the baseline is 'B'")


@pytest.mark.parametrize("order", [None, np.arange(2000)], ids=["renamed", "held"])
def test_one_long_text_takes_no_room_beside_every_other(order):
    old = np.array([LONG, *(f"w{i % 300}" for i in range(1999))], object)
    new = np.array([LONG, *(f"v{i * i % 199}" for i in range(1999))], object)
    tracemalloc.start()
    try:
        found = name_relation(old, new, order=order)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.text.endswith("words differ, with no rule")
    assert peak < BOUND


def test_a_nul_at_the_end_makes_another_word():
    old = np.array(["a", "a\0", "b"] * 40, object)
    new = np.array(["a\0", "a", "b"] * 40, object)
    found = name_relation(old, new)
    assert (found.kind, found.share) == ("permuted", 1.0)

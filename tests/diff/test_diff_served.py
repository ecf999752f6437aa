"""Logged features that the baseline's trace returns now and then, or never."""

from dataclasses import replace

import numpy as np
import pytest
from diff_streams import observed, requests

from harness.diff.floor import Floor
from harness.diff.served import ServedDiff

VALUES = np.linspace(1, 2, 4)


def reported(*traces):
    """Four requests a batch, each with a logged `km`; the baseline's trace returned these."""
    diff = ServedDiff(Floor())
    for features in traces:
        batch = replace(requests(4), recorded={"feature:km": VALUES})
        diff.update(batch, observed(4, features=features))
        diff = ServedDiff.from_state(diff.state(), Floor())
    return diff.finish()


def test_a_logged_feature_that_some_batches_lack_is_said_with_the_count():
    report = reported({"km": VALUES}, {"mile": VALUES}, {"mile": VALUES})
    assert report.requests == 4
    assert report.not_compared == (
        "logged feature km: not compared in 8 requests: the baseline's trace does not return it",
    )


def test_a_logged_feature_that_is_never_there_is_said():
    report = reported({"mile": VALUES})
    assert (report.requests, report.not_compared) == (
        0, ("logged feature km: the baseline's trace does not return it",),
    )  # fmt: skip


def test_a_logged_feature_that_is_always_there_leaves_nothing_to_say():
    assert reported({"km": VALUES}, {"km": VALUES}).not_compared == ()


def listed(texts, feature, batches=1):
    """Requests with these texts of `km` in their context; the baseline's trace returns `feature`."""
    diff = ServedDiff(Floor())
    for _ in range(batches):
        batch = replace(requests(len(texts)), context={"feature:km": np.array(texts, object)})
        diff.update(batch, observed(len(texts), features={"km": feature}))
        diff = ServedDiff.from_state(diff.state(), Floor())
    return diff.finish()


THREE = np.random.default_rng(0).normal(size=(50, 3))


def test_a_logged_feature_of_several_columns_is_compared_column_by_column():
    texts = [str([a, b, c * 1.609344]) for a, b, c in THREE.tolist()]
    texts[7] = ""
    report = listed(texts, THREE, batches=2)
    assert [(r.name, r.mismatched_requests, r.rows) for r in report.features] == [
        ("km[0]", 0, 98), ("km[1]", 0, 98), ("km[2]", 98, 98)
    ]  # fmt: skip
    assert "served = recomputed × 1.609344" in report.features[2].text
    assert (report.requests, report.not_compared) == (98, ())


def test_a_missing_number_of_a_list_is_one_and_a_word_is_left_out():
    before = THREE.copy()
    before[0, 1] = np.nan
    texts = [str(row).replace("nan", "null") for row in before.tolist()]
    texts[1] = '["far", 2, 3]'
    report = listed(texts, before)
    assert [r.mismatched_requests for r in report.features] == [0, 0, 0]
    assert report.not_compared == (
        "logged feature km: 1 values cannot be read, such as '[\"far\", 2, 3]'",
    )


@pytest.mark.parametrize("text", ['["c", null]', '["c", 3]', "[1, 2]", '["c", ["d"], null]'])
def test_what_is_no_word_of_a_list_is_left_out(text):
    words = np.array([["a", "b"], ["c", "d"], ["e", "f"], ["g", "h"]], object)
    report = listed(['["a", "b"]', text, '["e", "F"]', '["g", "h"]'], words)
    assert [(r.mismatched_requests, r.rows) for r in report.features] == [(0, 3), (1, 3)]
    (said,) = report.not_compared
    assert said.startswith(f"logged feature km: 1 values cannot be read, such as {text!r}")


@pytest.mark.parametrize("text", [f"[1{'0' * 400}, 2, 3]", "null"])
def test_what_is_no_number_of_any_size_is_left_out(text):
    report = listed([text, *map(str, THREE[1:].tolist())], THREE)
    assert [(r.mismatched_requests, r.rows) for r in report.features] == [(0, 49)] * 3


def test_lists_of_one_are_read_alike_wherever_they_begin():
    flat = np.arange(4.0)
    for last in ("3", "true", "True"):
        for first in (["0", "[1]", "[2.0]"], ["[0]", "1", "2"], ["0", "1", "2"]):
            report = listed([*first, last], flat)
            assert [(r.mismatched_requests, r.rows) for r in report.features] == [(last != "3", 4)]


def test_words_of_several_columns_are_compared_as_words():
    words = np.array([["a", "b"], ["c", "d"], ["e", "f"], ["g", "h"]], object)
    texts = ['["a", "b"]', '["c", "d"]', '["e", "F"]', '["g", "h"]']
    assert [r.mismatched_requests for r in listed(texts, words).features] == [0, 1]


@pytest.mark.parametrize("text", ["[1, 2]", "[]", "1", "[" * 900 + "1" + "]" * 900])
@pytest.mark.parametrize("first", [False, True])
def test_another_width_is_left_out_with_both_wherever_it_stands(text, first):
    texts = [str(row) for row in THREE.tolist()]
    texts[0 if first else 9] = text
    report = listed(texts, THREE)
    assert [(r.mismatched_requests, r.rows) for r in report.features] == [(0, 49)] * 3
    width = text.count(",") + any(c in "12" for c in text)
    (said,) = report.not_compared
    assert said.startswith("logged feature km: 1 values cannot be read, such as ")
    assert said.endswith(f"({width} value{'' if width == 1 else 's'}, the feature has 3)")


def test_of_a_long_row_its_begin_is_told_with_both_widths():
    wide = np.tile(THREE, 100)
    (said,) = listed([*map(str, wide[1:].tolist()), str(wide[0, 1:].tolist())], wide).not_compared
    assert said.endswith("'… (299 values, the feature has 300)")
    assert len(said) < 200


def test_text_that_looks_like_a_list_is_text_of_one_column():
    words = np.array(["[1, 2]", "b", "c", "d"], object)
    assert [r.mismatched_requests for r in listed(words.tolist(), words).features] == [0]

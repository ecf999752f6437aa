"""Reading JSON that may be missing, of another type, or hostile."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.report.read import LONG, SHORT, Doc, visible, visible_block

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_a_path_through_something_that_is_no_mapping_is_empty():
    assert not Doc({"a": [1, 2]}).at("a", "b", "c")


def test_texts_keep_their_words():
    assert Doc({"a": {"b": "carrier = UA"}}).at("a", "b").text() == "carrier = UA"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Infinity", math.inf),
        ("-Infinity", -math.inf),
        ("NaN", None),
        (float("nan"), None),
        (True, None),
        ("12", None),
        (10**400, math.inf),
        (-3, -3.0),
    ],
)
def test_numbers_in_every_written_form(value, expected):
    assert Doc(value).number() == expected


def test_control_direction_and_unpaired_characters_become_visible():
    assert visible("a\x1b[31mb\u202ec\ud800d\x00") == "a\\u001b[31mb\\u202ec\\ud800d\\u0000"


def test_a_long_value_is_cut_and_says_so():
    assert visible("x" * 10_000) == "x" * (SHORT - 1) + "…"


def test_a_sentence_is_cut_between_words():
    sentence = f"{'fed there, ' * 10}this is the whole cause"
    assert visible(sentence, len(sentence) - 2) == f"{'fed there, ' * 10}this is the whole …"
    assert visible(sentence, len(sentence)) == sentence


def test_a_block_keeps_its_lines_and_counts_those_left_out():
    lines = visible_block("\n".join(str(k) for k in range(1_000))).split("\n")
    assert (lines[0], lines[-1]) == ("0", "… 600 more lines")


def test_pairs_are_read_from_lists_and_from_mappings():
    as_list = Doc([["late", 3], ["broken"]]).fields()
    as_mapping = Doc({"late": 3}).fields()
    assert [(k, v.whole()) for k, v in as_list] == [(k, v.whole()) for k, v in as_mapping]


@given(JSON)
def test_no_value_at_all_breaks_a_reader(value):
    doc = Doc(value)
    text = doc.text(limit=LONG) + doc.block() + doc.at("x").text()
    text.encode()  # no unpaired surrogates are left
    assert doc.finite() is None or math.isfinite(doc.finite())
    assert all(len(pair) == 2 for pair in doc.fields())


@given(st.text())
def test_what_is_visible_is_one_line_that_json_and_utf8_take(text):
    shown = visible(text)
    assert len(shown.splitlines()) <= 1
    assert json.loads(json.dumps(shown)).encode().decode() == shown

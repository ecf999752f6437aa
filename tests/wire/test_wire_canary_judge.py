"""harness.v1.CanaryJudge: messages ↔ values, both ways."""

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.live import Standing
from harness.core.verdicts import Decision
from harness.wire.canary_judge import (
    LabelColumns,
    ObservedColumns,
    bytes_from_observed,
    bytes_from_standing,
    bytes_from_watch,
    observed_from_bytes,
    only_final_from_bytes,
    standing_from_bytes,
)
from harness.wire.contents import MessageError

words = st.text(st.characters(codec="utf-8"), max_size=8)
numbers = st.floats(allow_nan=False)
counts = st.integers(0, 2**62)


@st.composite
def batches(draw):
    n, k = draw(st.integers(0, 5)), draw(st.integers(0, 3))
    floats = st.lists(st.floats(), min_size=n, max_size=n)

    def column(strategy, size, kind):
        return np.array(draw(st.lists(strategy, min_size=size, max_size=size)), kind)

    return ObservedColumns(
        number=draw(counts), until_ns=draw(counts),
        ts_ns=column(counts, n, np.int64), unit=column(words, n, object),
        candidate=column(st.booleans(), n, np.bool_), propensity=column(numbers, n, np.float64),
        values={name: np.array(draw(floats), np.float64) for name in draw(st.sets(words, max_size=2))},
        labels={
            name: LabelColumns(unit=column(words, k, object), value=column(numbers, k, np.float64),
                               ts_ns=column(counts, k, np.int64))
            for name in draw(st.sets(words, max_size=2))
        },
    )  # fmt: skip


@given(batches())
@settings(max_examples=60, deadline=None)
def test_a_batch_arrives_as_it_was_sent(sent):
    found = observed_from_bytes(bytes_from_observed(sent))
    assert (found.number, found.until_ns) == (sent.number, sent.until_ns)
    for name in ("ts_ns", "unit", "candidate", "propensity"):
        assert getattr(found, name).tolist() == getattr(sent, name).tolist()
    assert set(found.values) == set(sent.values)
    for name, column in sent.values.items():
        np.testing.assert_array_equal(found.values[name], column)
    assert set(found.labels) == set(sent.labels)
    for name, labels in sent.labels.items():
        assert found.labels[name].unit.tolist() == labels.unit.tolist()
        np.testing.assert_array_equal(found.labels[name].value, labels.value)


@given(
    st.sampled_from(list(Decision)),
    words,
    numbers,
    counts,
    st.dictionaries(words, counts, max_size=3),
)
@settings(max_examples=40, deadline=None)
def test_an_answer_arrives_as_it_was_given(decision, word, number, count, table):
    sent = Standing(
        ts_ns=count, decision=decision, reason=word, explanation=word, final=True, step=3,
        share=number, n_requests=count, n_units=1, n_closed=2, sample_ratio_p=number,
        culprits=(word,), log_e_rollback=((word, -math.inf),), promote_at=((word, number),),
        counts=tuple(sorted(table.items())),
    )  # fmt: skip
    assert standing_from_bytes(bytes_from_standing(sent, 7)) == (sent, 7)


@pytest.mark.parametrize("only", [True, False])
def test_a_watch_says_what_it_wants(only):
    assert only_final_from_bytes(bytes_from_watch(only_final=only)) is only


@given(st.binary(max_size=40))
@settings(max_examples=200, deadline=None)
def test_noise_is_a_message_error_and_nothing_else(noise):
    for read in (observed_from_bytes, standing_from_bytes, only_final_from_bytes):
        # An Answer without a decision is none of the three.
        with contextlib.suppress(MessageError):
            read(noise)

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import GateError, PolicyError, TrafficError
from harness.core.observations import Outcome
from harness.core.policies import DecisionRule, Guardrail, Loss, Metric, Rule, Scope
from harness.judge.answers import without_column
from harness.judge.metrics import bounds, observe

THRESHOLD = DecisionRule(output="p", rule=Rule.THRESHOLD, value=0.5)
NAN = float("nan")


def rail(metric, **more):
    return Guardrail(name="g", metric=metric, margin=0.01, **more)


def look(guardrail, pair, *, decision=THRESHOLD, labels=None, outputs=None, features=None):
    return observe(guardrail, pair, decision, labels, outputs, features)


def test_score_shift_is_candidate_minus_baseline(make_pair):
    pair = make_pair({"p": [0.25, 0.5]}, {"p": [0.75, 0.5]})
    assert look(rail(Metric.SCORE_SHIFT), pair).x.tolist() == [0.5, 0.0]


def test_rows_of_a_request_are_averaged(make_pair):
    pair = make_pair({"p": [0.0, 0.0, 0.5]}, {"p": [0.5, 1.0, 0.5]}, rows=[2, 1])
    assert look(rail(Metric.SCORE_SHIFT), pair).x.tolist() == [0.75, 0.0]


def test_score_outside_the_unit_interval_is_a_failed_pair(make_pair):
    pair = make_pair({"p": [0.2, 0.2, 0.2]}, {"p": [1.2, -0.1, NAN]})
    seen = look(rail(Metric.SCORE_SHIFT), pair)
    assert seen.failed.tolist() == [True, True, True]
    assert np.isnan(seen.x).all()


def test_float32_rounding_above_one_is_no_failure(make_pair):
    pair = make_pair({"p": [0.5]}, {"p": np.array([1.0000001], np.float32)})
    assert look(rail(Metric.SCORE_SHIFT), pair).x.tolist() == [0.5]


def test_positive_column_is_the_last_unless_named(make_pair):
    pair = make_pair({"p": [[0.75, 0.25]]}, {"p": [[0.25, 0.75]]})
    assert look(rail(Metric.SCORE_SHIFT), pair).x.tolist() == [0.5]
    first = DecisionRule(output="p", rule=Rule.THRESHOLD, value=0.5, positive=0)
    assert look(rail(Metric.SCORE_SHIFT), pair, decision=first).x.tolist() == [-0.5]


def test_one_column_is_the_positive_classs(make_pair):
    pair = make_pair({"p": [[0.25], [0.75]]}, {"p": [[0.75], [0.75]]})
    second = DecisionRule(output="p", rule=Rule.THRESHOLD, value=0.5, positive=1)
    assert look(rail(Metric.SCORE_SHIFT), pair, decision=second).x.tolist() == [0.5, 0.0]
    assert look(rail(Metric.DECISION_FLIP), pair, decision=second).x.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(("rule", "positive"), [(Rule.THRESHOLD, 2), (Rule.ARGMAX, 1)])
def test_a_column_that_is_not_there_is_refused(make_pair, rule, positive):
    pair = make_pair({"p": [[0.25], [0.75]]}, {"p": [[0.75], [0.75]]})
    value = 0.5 if rule is Rule.THRESHOLD else None
    asked = DecisionRule(output="p", rule=rule, value=value, positive=positive)
    with pytest.raises(
        PolicyError, match=f"column {positive} is outside output 'p' with 1 columns"
    ):
        look(rail(Metric.DECISION_RATE_SHIFT), pair, decision=asked)


def test_an_answer_without_the_column_is_one_without_a_value(make_pair):
    pair = make_pair({"p": [[0.25, 0.5], [0.75, 0.5]]}, {"p": [[0.25, 0.5], [0.75, 0.5]]})
    third = DecisionRule(output="p", rule=Rule.THRESHOLD, value=0.5, positive=2)
    seen = look(rail(Metric.SCORE_SHIFT), without_column(pair, third), decision=third)
    assert seen.failed.tolist() == [True, True]


def test_classes_are_matched_by_name(make_pair):
    pair = make_pair(
        {"p": [[0.75, 0.25]]},
        {"p": [[0.25, 0.75]]},
        keys=({"p": ("no", "yes")}, {"p": ("yes", "no")}),
    )
    assert look(rail(Metric.SCORE_SHIFT), pair).x.tolist() == [0.0]
    argmax = DecisionRule(output="p", rule=Rule.ARGMAX)
    assert look(rail(Metric.DECISION_FLIP), pair, decision=argmax).x.tolist() == [0.0]


def test_other_classes_are_failed_pairs(make_pair):
    pair = make_pair(
        {"p": [[0.75, 0.25]]},
        {"p": [[0.25, 0.75]]},
        keys=({"p": ("no", "yes")}, {"p": ("no", "maybe")}),
    )
    argmax = DecisionRule(output="p", rule=Rule.ARGMAX)
    assert look(rail(Metric.DECISION_FLIP), pair, decision=argmax).failed.tolist() == [True]


def test_flip_compares_decisions_at_the_threshold(make_pair):
    pair = make_pair({"p": [0.5, 0.4, 0.6]}, {"p": [0.49, 0.45, 0.9]})
    assert look(rail(Metric.DECISION_FLIP), pair).x.tolist() == [1.0, 0.0, 0.0]


def test_rate_shift_has_a_sign(make_pair):
    pair = make_pair({"p": [0.6, 0.4, 0.6]}, {"p": [0.4, 0.6, 0.7]})
    assert look(rail(Metric.DECISION_RATE_SHIFT), pair).x.tolist() == [-1.0, 1.0, 0.0]


def test_rate_of_argmax_counts_the_positive_class(make_pair):
    pair = make_pair({"p": [[0.5, 0.2, 0.3]]}, {"p": [[0.1, 0.2, 0.7]]})
    argmax = DecisionRule(output="p", rule=Rule.ARGMAX)
    assert look(rail(Metric.DECISION_RATE_SHIFT), pair, decision=argmax).x.tolist() == [1.0]


def test_words_can_flip_but_have_no_rate(make_pair):
    words = DecisionRule(output="label", rule=Rule.NONE)
    pair = make_pair(
        {"label": np.array(["a", "b"], object)}, {"label": np.array(["a", "c"], object)}
    )
    assert look(rail(Metric.DECISION_FLIP), pair, decision=words).x.tolist() == [0.0, 1.0]
    with pytest.raises(PolicyError, match="holds words"):
        look(rail(Metric.DECISION_RATE_SHIFT), pair, decision=words)


def test_numeric_decision_output_outside_the_unit_interval_failed(make_pair):
    taken = DecisionRule(output="label", rule=Rule.NONE)
    pair = make_pair({"label": [0, 1]}, {"label": [1, 7]})
    seen = look(rail(Metric.DECISION_RATE_SHIFT), pair, decision=taken)
    assert seen.x[0] == 1.0
    assert seen.failed.tolist() == [False, True]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [(Loss.BRIER, 0.04 - 0.16), (Loss.ABSOLUTE, 0.2 - 0.4), (Loss.ZERO_ONE, 0.0)],
)
def test_loss_difference_against_the_label(make_pair, loss, expected):
    pair = make_pair({"p": [0.6]}, {"p": [0.8]})
    seen = look(rail(Metric.LOSS_DIFFERENCE, loss=loss), pair, labels=np.array([1.0]))
    assert seen.x[0] == pytest.approx(expected)


def test_request_without_label_does_not_enter_even_when_it_failed(make_pair):
    pair = make_pair({"p": [0.6, 0.6]}, {"p": [0.8, NAN]})
    guardrail = rail(Metric.LOSS_DIFFERENCE, loss=Loss.BRIER)
    seen = look(guardrail, pair, labels=np.array([NAN, NAN]))
    assert np.isnan(seen.x).all()
    assert not seen.failed.any()
    assert seen.left_out == (("no_label", 2),)
    assert look(guardrail, pair).left_out == (("no_label", 2),)


def test_label_that_is_no_class_is_refused(make_pair):
    pair = make_pair({"p": [0.6]}, {"p": [0.8]})
    with pytest.raises(TrafficError, match="label 3 is neither"):
        look(rail(Metric.LOSS_DIFFERENCE, loss=Loss.BRIER), pair, labels=np.array([3.0]))


OUTCOMES = (
    [Outcome.OK, Outcome.OK, Outcome.ERROR, Outcome.ERROR, Outcome.OK],
    [Outcome.OK, Outcome.CRASH, Outcome.OK, Outcome.TIMEOUT, Outcome.NOT_RUN],
)


@pytest.mark.parametrize("metric", [Metric.SCORE_SHIFT, Metric.DECISION_FLIP, Metric.NAN_RATE])
def test_who_failed_and_who_does_not_enter(make_pair, metric):
    pair = make_pair({"p": [0.5] * 5}, {"p": [0.5] * 5}, outcomes=OUTCOMES)
    seen = look(rail(metric), pair)
    assert seen.failed.tolist() == [False, True, False, False, False]
    assert np.isnan(seen.x).tolist() == [False, True, True, True, True]
    assert dict(seen.left_out) == {"both_failed": 1, "baseline_failed": 1, "not_run": 1}


def test_failure_rate_counts_either_side(make_pair):
    pair = make_pair({"p": [0.5] * 5}, {"p": [0.5] * 5}, outcomes=OUTCOMES)
    seen = look(rail(Metric.FAILURE), pair)
    assert seen.x[:4].tolist() == [0.0, 1.0, -1.0, 0.0]
    assert np.isnan(seen.x[4])
    assert not seen.failed.any()


def test_nan_in_any_output_counts(make_pair):
    pair = make_pair(
        {"p": [0.5, NAN], "q": [[1.0, 2.0], [1.0, 2.0]]},
        {"p": [0.5, 0.5], "q": [[NAN, 2.0], [1.0, 2.0]]},
    )
    assert look(rail(Metric.NAN_RATE), pair).x.tolist() == [1.0, -1.0]


def test_parity_reads_its_own_scope(make_pair):
    pair = make_pair({"p": [0.5, 0.5]}, {"p": [0.5, 0.5]})
    outputs, features = np.array([True, False]), np.array([False, True])
    on_outputs = rail(Metric.PARITY_MISMATCH, scope=Scope.OUTPUTS)
    on_features = rail(Metric.PARITY_MISMATCH, scope=Scope.FEATURES)
    assert look(on_outputs, pair, outputs=outputs, features=features).x.tolist() == [1.0, 0.0]
    assert look(on_features, pair, outputs=outputs, features=features).x.tolist() == [0.0, 1.0]


def test_parity_is_about_what_the_baseline_answers(make_pair):
    pair = make_pair({"p": [0.5] * 5}, {"p": [0.5] * 5}, outcomes=OUTCOMES)
    seen = look(rail(Metric.PARITY_MISMATCH, scope=Scope.OUTPUTS), pair, outputs=np.zeros(5, bool))
    assert np.isnan(seen.x).tolist() == [False, True, True, True, True]
    assert seen.failed.tolist() == [False, True, False, True, False]
    assert seen.left_out == (("baseline_failed", 1), ("not_run", 1))


UNKNOWN = [
    (Outcome.INVALID, Outcome.INVALID), (Outcome.INVALID, Outcome.ERROR), (Outcome.ERROR, Outcome.INVALID),
    (Outcome.INVALID, Outcome.OK), (Outcome.TIMEOUT, Outcome.TIMEOUT), (Outcome.CRASH, Outcome.CRASH),
    (Outcome.ERROR, Outcome.CRASH),
]  # fmt: skip
LEFT_OUT = [(Outcome.ERROR, Outcome.ERROR), (Outcome.ERROR, Outcome.OK), (Outcome.CRASH, Outcome.OK)]  # fmt: skip


def test_parity_is_unproven_where_nobody_could_compare_what_production_may_serve(make_pair):
    ends = [*UNKNOWN, *LEFT_OUT]
    pair = make_pair(
        *({"p": [0.5] * len(ends)} for _ in range(2)), outcomes=tuple(zip(*ends, strict=True))
    )
    for scope in Scope:
        nothing = np.zeros(len(ends), bool)
        seen = look(
            rail(Metric.PARITY_MISMATCH, scope=scope), pair, outputs=nothing, features=nothing
        )
        assert seen.failed.tolist() == [True] * len(UNKNOWN) + [False] * len(LEFT_OUT)
        assert np.isnan(seen.x).all()
        assert seen.left_out == (("both_failed", 1), ("baseline_failed", 2))


def test_parity_is_unproven_where_only_more_memory_would_tell(make_pair):
    pair = make_pair({"p": [0.5] * 2}, {"p": [0.5] * 2}, outcomes=([Outcome.ERROR] * 2,) * 2)
    pair = replace(pair, candidate=replace(pair.candidate, short=(1,)))
    seen = look(rail(Metric.PARITY_MISMATCH, scope=Scope.OUTPUTS), pair, outputs=np.zeros(2, bool))
    assert seen.failed.tolist() == [False, True]


def test_failure_is_the_worst_where_the_candidate_is_silent_and_the_baseline_answers_oddly(
    make_pair,
):
    ends = [
        (Outcome.INVALID, Outcome.ERROR), (Outcome.INVALID, Outcome.CRASH), (Outcome.INVALID, Outcome.TIMEOUT),
        (Outcome.INVALID, Outcome.INVALID), (Outcome.ERROR, Outcome.ERROR), (Outcome.INVALID, Outcome.NOT_RUN),
    ]  # fmt: skip
    pair = make_pair({"p": [0.5] * 6}, {"p": [0.5] * 6}, outcomes=tuple(zip(*ends, strict=True)))
    seen = look(rail(Metric.FAILURE), pair)
    assert seen.failed.tolist() == [True, True, True, False, False, False]


def test_parity_that_was_not_measured_has_no_data(make_pair):
    pair = make_pair({"p": [0.5, 0.5]}, {"p": [0.5, 0.5]})
    seen = look(rail(Metric.PARITY_MISMATCH, scope=Scope.FEATURES), pair)
    assert np.isnan(seen.x).all()
    assert not seen.failed.any()
    assert seen.left_out == (("not_measured", 2),)


def test_candidate_that_answers_nothing_fails_every_request(make_pair):
    crashed = np.full(2, Outcome.CRASH)
    pair = make_pair({"p": [0.5, 0.5]}, {}, outcomes=(None, crashed))
    assert look(rail(Metric.SCORE_SHIFT), pair).failed.tolist() == [True, True]


def test_request_without_rows_does_not_enter(make_pair):
    pair = make_pair({"p": [0.5]}, {"p": [0.5]}, rows=[0, 1])
    seen = look(rail(Metric.SCORE_SHIFT), pair)
    assert np.isnan(seen.x).tolist() == [True, False]
    assert dict(seen.left_out) == {"no_rows": 1}


def test_unknown_output_names_the_nearest(make_pair):
    pair = make_pair({"probability": [0.5]}, {"probability": [0.5]})
    wrong = DecisionRule(output="probabilty", rule=Rule.THRESHOLD, value=0.5)
    with pytest.raises(PolicyError, match="did you mean 'probability'"):
        look(rail(Metric.SCORE_SHIFT), pair, decision=wrong)


def test_missing_decision_rule_is_the_policys_error(make_pair):
    pair = make_pair({"p": [0.5]}, {"p": [0.5]})
    with pytest.raises(PolicyError, match="needs one"):
        look(rail(Metric.DECISION_FLIP), pair, decision=None)


def test_labels_of_another_batch_are_the_gates_error(make_pair):
    pair = make_pair({"p": [0.5]}, {"p": [0.5]})
    with pytest.raises(GateError):
        look(rail(Metric.LOSS_DIFFERENCE, loss=Loss.BRIER), pair, labels=np.zeros(2))


ANY_FLOAT = st.floats(width=32)
METRICS = [
    rail(Metric.SCORE_SHIFT),
    rail(Metric.DECISION_RATE_SHIFT),
    rail(Metric.DECISION_FLIP),
    rail(Metric.NAN_RATE),
    rail(Metric.FAILURE),
    rail(Metric.LOSS_DIFFERENCE, loss=Loss.BRIER),
    rail(Metric.LOSS_DIFFERENCE, loss=Loss.ABSOLUTE),
    rail(Metric.LOSS_DIFFERENCE, loss=Loss.ZERO_ONE),
]


@given(
    st.sampled_from(METRICS),
    st.lists(
        st.tuples(
            ANY_FLOAT,
            ANY_FLOAT,
            st.sampled_from(list(Outcome)),
            st.sampled_from(list(Outcome)),
            st.sampled_from([0.0, 1.0, NAN]),
        ),
        min_size=1,
        max_size=8,
    ),
)
def test_whatever_models_answer_values_stay_in_their_bounds(make_pair, guardrail, answers):
    left, right, outcome_b, outcome_c, labels = zip(*answers, strict=True)
    pair = make_pair(
        {"p": np.array(left, np.float32)},
        {"p": np.array(right, np.float32)},
        outcomes=(outcome_b, outcome_c),
    )
    seen = look(guardrail, pair, labels=np.array(labels))
    lo, hi = bounds(guardrail)
    known = seen.x[~np.isnan(seen.x)]
    assert ((known >= lo) & (known <= hi)).all()
    assert np.isnan(seen.x[seen.failed]).all()
    entered = np.count_nonzero(~np.isnan(seen.x) | seen.failed)
    assert entered + sum(n for _, n in seen.left_out) == len(pair)

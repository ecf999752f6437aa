"""Which recorded requests each window holds."""

import numpy as np
import pytest
import yaml
from gates import RETRAIN

from harness.decide.policy import policy_from_yaml
from harness.pipeline.selection import matured, needed_windows, newest

DAY = 86_400 * 10**9


def policy_of(**windows):
    content = {
        **RETRAIN,
        "windows": {"newest": {"days": 2}, "matured": {"maturity": "3d"}, **windows},
    }
    return policy_from_yaml(yaml.safe_dump(content), "policy.yaml")


def matured_of(days, *, labelled, as_of, late=None, cutoffs=(("a", 0), ("b", 0))):
    """Requests on these days (ns since the epoch / DAY) with or without a label in time."""
    found = matured(
        np.array(days) * DAY,
        np.where(labelled, 1.0, np.nan),
        np.array(late or [False] * len(days)),
        policy=policy_of(), as_of_ns=as_of * DAY,
        cutoffs=[(name, None if c is None else c * DAY) for name, c in cutoffs],
    )  # fmt: skip
    return found.selected.tolist(), dict(found.left_out), found


def test_newest_counts_back_from_the_last_exchange_before_as_of():
    ts = np.array([1, 2, 3, 4, 9]) * DAY
    found = newest(lambda: iter([ts[:2], ts[2:]]), len(ts), policy_of(), 5 * DAY)
    assert found.selected.tolist() == [False, False, True, True, False]
    assert (found.count, found.first_ts_ns, found.last_ts_ns) == (2, 3 * DAY, 4 * DAY)
    assert dict(found.left_out) == {
        "after --as-of 1970-01-06T00:00:00Z": 1,
        "older than 2 days": 2,
    }


def test_a_request_at_as_of_is_known():
    assert newest(lambda: [np.array([5 * DAY])], 1, policy_of(), 5 * DAY).count == 1
    assert newest(lambda: [np.array([5 * DAY + 1])], 1, policy_of(), 5 * DAY).count == 0


def test_without_requests_newest_is_empty():
    found = newest(list, 0, policy_of(), 5 * DAY)
    assert (found.count, found.first_ts_ns, found.last_ts_ns, found.left_out) == (0, 0, 0, ())


def test_a_request_without_a_label_in_time_is_left_out_for_what_it_lacks():
    selected, left_out, _ = matured_of(
        [1, 1, 1], labelled=[True, False, False], late=[False, True, False], as_of=10
    )
    assert selected == [True, False, False]
    assert left_out == {"label later than the maturity": 1, "no label": 1}


def test_a_request_counts_when_its_maturity_has_passed():
    selected, left_out, _ = matured_of([7, 8], labelled=[True, True], as_of=10)
    assert selected == [True, False]
    assert left_out == {"younger than the labels' maturity": 1}


def test_a_maturity_of_a_thousand_years_is_never_over():
    found = matured(
        np.array([DAY]), np.array([1.0]), np.array([False]),
        policy=policy_of(matured={"maturity": "400000d"}), as_of_ns=2**63 - 1, cutoffs=(),
    )  # fmt: skip
    assert (found.count, found.eligible) == (0, 0)


def test_requests_that_should_have_a_label_are_counted():
    _, _, found = matured_of(
        [1, 4, 5, 9], labelled=[True, True, False, False], as_of=10, cutoffs=(("a", 2), ("b", 0))
    )
    assert (found.count, found.eligible) == (1, 2)


@pytest.mark.parametrize(("day", "counts"), [(4, False), (5, False), (6, True)])
def test_only_requests_after_both_cut_offs_count(day, counts):
    for cutoffs in ((("a", 5), ("b", 1)), (("a", 1), ("b", 5))):
        selected, left_out, _ = matured_of([day], labelled=[True], as_of=20, cutoffs=cutoffs)
        assert selected == [counts]
        assert left_out == (
            {} if counts else {"up to the training cut-off 1970-01-06T00:00:00Z": 1}
        )


@pytest.mark.parametrize("unknown", ["a", "b"])
def test_an_unknown_cut_off_refuses_the_window(unknown):
    cutoffs = [(name, None if name == unknown else 0) for name in "ab"]
    selected, _, found = matured_of([1], labelled=[True], as_of=20, cutoffs=cutoffs)
    assert selected == [False]
    assert f"cut-off of {unknown} is not recorded" in found.refusal


def test_every_request_is_selected_or_left_out_for_one_reason():
    rng = np.random.default_rng(5)
    days = rng.integers(0, 20, 500)
    labelled, late = rng.random((2, 500)) < 0.7
    selected, left_out, found = matured_of(
        days, labelled=labelled, late=late.tolist(), as_of=15, cutoffs=(("a", 4), ("b", 2))
    )
    assert found.count + sum(left_out.values()) == 500
    assert found.count == sum(selected) > 0


def test_only_windows_that_a_guardrail_reads_are_needed():
    both = policy_of()
    assert needed_windows(both) == ("newest", "matured")
    without = policy_from_yaml(
        yaml.safe_dump({**RETRAIN, "guardrails": RETRAIN["guardrails"][:1], "drop": ["loss"]}), "p"
    )
    assert needed_windows(without) == ("newest",)

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harness.core.observations import Outcome
from harness.replay.poison import Found, locate
from harness.sandbox.answers import BatchAnswer, BatchFault

FAULT = BatchFault(seq=0, kind=Outcome.CRASH, message="", alive=False)
ANSWER = BatchAnswer(
    seq=0, rows=0, outputs={}, features={}, trace_outputs={}, keys={}, service_s=0.0
)


def searched(count: int, bad: set[int]) -> tuple[Found, list[bool]]:
    """What a search finds, and for each try whether it passed."""
    passed: list[bool] = []

    def attempt(start: int, stop: int) -> BatchAnswer | BatchFault:
        passed.append(not bad & set(range(start, stop)))
        return ANSWER if passed[-1] else FAULT

    found = Found()
    locate(count, FAULT, attempt, found)
    return found, passed


@given(
    st.integers(1, 200).flatmap(
        lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1))
    )
)
def test_exactly_the_poison_is_found_and_the_pieces_cover_the_rest(case):
    count, bad = case
    found, _ = searched(count, bad)
    covered = [i for start, stop, _ in found.pieces for i in range(start, stop)]
    assert {i for i, _ in found.poison} == bad
    assert sorted(covered + [i for i, _ in found.poison]) == list(range(count))


@given(st.integers(0, 1023))
def test_one_in_a_thousand_costs_at_most_eleven_failing_tries(where):
    _, passed = searched(1024, {where})
    assert passed.count(False) <= math.log2(1024) + 1


def test_one_in_a_thousand_costs_six_failing_tries_on_average():
    rng = np.random.default_rng(5)
    tries = [searched(1024, {int(i)})[1].count(False) for i in rng.integers(0, 1024, 200)]
    assert 4.5 < np.mean(tries) < 7


def test_requests_that_fail_only_together_are_no_poison():
    found = Found()

    def attempt(start: int, stop: int) -> BatchAnswer | BatchFault:
        return FAULT if start <= 3 and stop > 4 else ANSWER

    locate(8, FAULT, attempt, found)
    assert found.poison == []
    assert sorted(i for a, b, _ in found.pieces for i in range(a, b)) == list(range(8))

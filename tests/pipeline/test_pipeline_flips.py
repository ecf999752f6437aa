"""The test of decisions that changed, against the reference implementation."""

import pytest
from statsmodels.stats.contingency_tables import mcnemar

from harness.pipeline.summary import mcnemar_p


@pytest.mark.parametrize(
    ("up", "down"), [(0, 1), (1, 1), (5, 0), (3, 9), (40, 61), (700, 700), (90_000, 91_000)]
)
def test_mcnemar_is_that_of_statsmodels(up, down):
    expected = mcnemar([[10, up], [down, 0]], exact=True).pvalue
    assert mcnemar_p(up, down) == pytest.approx(expected, rel=1e-9)


def test_without_changes_nothing_is_significant():
    assert mcnemar_p(0, 0) == 1.0

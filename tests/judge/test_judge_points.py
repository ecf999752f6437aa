"""What simulations leave out changes no answer."""

import numpy as np
from test_judge_live import CANARY, batch

from harness.core.policies import Direction
from harness.judge.live import LiveJudge
from harness.judge.track import Track


def live():
    rng, judge = np.random.default_rng(1), LiveJudge(CANARY)
    answers = [judge.update(batch(rng, number, n=300)) for number in range(6)]
    rows = [(row.e_promote, row.e_rollback, row.verdict) for row in judge.evidence()]
    return [a.decision for a in answers], rows


def paired(population):
    rng = np.random.default_rng(2)
    track = Track(
        direction=Direction.BOTH, margin=0.1, bounds=(-1.0, 1.0), alphas=(0.05, 0.05),
        population=population,
    )  # fmt: skip
    seen = []
    for _ in range(8):
        track.add(rng.uniform(-0.5, 0.6, 50), 1)
        seen.append((track.log_e_rollback(), track.log_e_promote()))
    return len(track.path()), seen


def test_points_that_are_not_drawn_change_no_answer(request):
    drawn, tracks = live(), [paired(n) for n in (None, 1000)]
    request.getfixturevalue("few_points")
    assert live() == drawn
    undrawn = [paired(n) for n in (None, 1000)]
    assert [seen for _, seen in undrawn] == [seen for _, seen in tracks]
    assert [n for n, _ in undrawn] == [2, 2]
    assert min(n for n, _ in tracks) > 2

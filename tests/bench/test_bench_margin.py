"""The table of tests and conditions: complete, the judge's own mathematics, and able to fail."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import PART

from harness.bench import forms, margin
from harness.bench.conditions import CONDITIONS, HEAVY, OUTLYING, RARE, SCORE, SHARE
from harness.bench.margin import TESTS, Cell, figures_of, table
from harness.bench.observed import of_law
from harness.core.policies import Direction
from harness.judge.counts import ErrorRatio
from harness.judge.overlap import OverlapTrack
from harness.judge.track import Track

SEED = 7
MANY = 2_000
LAWS = {"score": SCORE, "heavy": HEAVY, "rare": RARE, "share": SHARE, "outlying": OUTLYING}
NATURAL = {
    "i.i.d.": "mean, planned", "AR(1) .9": "window", "daily cycle": "mean",
    "clustered users": "user means", "heavy tails": "K = 3", "rare .0005": "share",
    "outliers": "label clocks", "restarts": "asked anew", "ramp": "overlap", "bursts": "error ratio",
}  # fmt: skip


def cell_of(condition, test):
    return next(c for c in table() if (c.condition.name, c.test) == (condition, test))


def looks(law, runs=3, count=3, n=40, seed=1):
    rng = np.random.default_rng(seed)
    return [law.values(rng.random((runs, n), np.float32), 0.0) for _ in range(count)]


def logs_of(track):
    return track.log_e_rollback(), track.log_e_promote()


def test_every_combination_runs_or_says_why_not():
    cells = table()
    assert len({cell.name for cell in cells}) == len(TESTS) * len(CONDITIONS)
    known = {(name, reason) for test in TESTS.values() for name, reason in test.cannot}
    assert {name for name, _ in known} <= set(CONDITIONS)
    assert all(reason for _, reason in known)
    # Every test meets some condition, and every condition some test of either claim that it can.
    assert {cell.test for cell in cells if not cell.reason} == set(TESTS)
    assert {cell.condition.name for cell in cells if not cell.reason} == set(CONDITIONS)


@pytest.mark.parametrize("name", LAWS)
def test_a_law_has_its_margin_as_mean(name):
    law = LAWS[name]
    x = law.values((np.arange(2_000_000, dtype=np.float64) + 0.5) / 2_000_000, 0.0)
    assert float(x.mean(dtype=np.float64)) == pytest.approx(law.margin, abs=1e-6)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("population", [None, 300])
def test_many_runs_at_once_give_what_a_track_gives_each(name, population):
    law = LAWS[name]
    at = {"direction": Direction.INCREASE, "margin": law.margin, "bounds": law.bounds}
    tracks = [Track(**at, alphas=(0.05, 0.05), population=population) for _ in range(3)]
    form = (
        forms.Window(law.margin, law.bounds, population)
        if population
        else forms.Mean(of_law(law))
    )  # fmt: skip
    for x in looks(law):
        found = np.stack(form.look(x), axis=1)
        for track, row in zip(tracks, x, strict=True):
            track.add(row.astype(np.float64), 0)
        assert found == pytest.approx(np.array([logs_of(t) for t in tracks]), abs=1e-9)


def test_many_runs_of_unpaired_arms_give_what_one_gives():
    rng = np.random.default_rng(2)
    form = forms.Overlap(0.05, (0.0, 1.0))
    made = {"direction": Direction.INCREASE, "margin": 0.05, "bounds": (0.0, 1.0)}
    tracks = [OverlapTrack(**made, alphas=(0.05, 0.05)) for _ in range(3)]
    for pi in (0.1, 0.5):
        y, candidate = rng.random((3, 30)), rng.random((3, 30)) < pi
        found = np.stack(form.look(y, candidate, pi), axis=1)
        for track, outcomes, arms in zip(tracks, y, candidate, strict=True):
            track.add(outcomes, arms, np.full(30, pi))
        assert found == pytest.approx(np.array([logs_of(t) for t in tracks]), abs=1e-9)


def test_many_races_of_errors_give_what_one_gives():
    counts = {0.1: np.array([[9, 30], [3, 1]]), 0.5: np.array([[4, 8], [12, 5]])}
    test = ErrorRatio(ratio=1.5, alphas=(0.05, 0.05))
    above, below = test.log_e_of(counts)
    for race in range(2):
        one = ErrorRatio(ratio=1.5, alphas=(0.05, 0.05))
        for pi, both in counts.items():
            base, mine = both[:, race].tolist()
            one.add(np.arange(base + mine) < mine, np.full(base + mine, pi))
        assert (above[race], below[race]) == pytest.approx(logs_of(one), abs=1e-9)


def test_requests_of_users_taken_one_by_one_break_the_bound(monkeypatch):
    alone = margin.Test(start=TESTS["mean, planned"].start)
    monkeypatch.setitem(margin.TESTS, "one by one", alone)
    users = Cell(condition=CONDITIONS["clustered users"], test="one by one", reason="")
    assert not all(f.kept for f in figures_of(users, runs=200, n=20_000, seed=SEED))


def test_attempts_at_full_level_break_the_bound_that_spending_keeps(monkeypatch):
    monkeypatch.setattr(margin, "spent", lambda alpha, _: 8.0 * alpha)
    cell = cell_of("restarts", "asked anew")
    assert not all(f.kept for f in figures_of(cell, runs=400, n=20_000, seed=SEED))


# Two of these at once, or three-fold's way with more terms: as long as all the others together.
LONG = {"K = 10", "window, K = 3", "window, K = 10", "window, share"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "test", [pytest.param(t, marks=pytest.mark.long) if t in LONG else t for t in TESTS]
)
def test_every_combination_keeps_its_level_at_the_margin(test):
    cells = [c for c in table() if c.test == test and not c.reason]
    found = [f for c in cells for f in figures_of(c, runs=60, n=20_000, seed=SEED)]
    assert [f.name for f in found if not f.kept] == []


# With all runs in the test command, independent requests tell evidence from half as much again.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("condition", "runs"),
    [
        ("i.i.d.", MANY),
        *((condition, MANY // PART) for condition in NATURAL if condition != "i.i.d."),
        *(
            pytest.param(condition, MANY, marks=pytest.mark.long)
            for condition in NATURAL
            if condition != "i.i.d."
        ),
    ],
)
def test_many_runs_of_every_condition_keep_the_level(condition, runs):
    cell = cell_of(condition, NATURAL[condition])
    found = figures_of(cell, runs=runs, n=20_000, seed=SEED)
    assert [f.name for f in found if not f.kept] == []

"""Every test under every condition, exactly at the margin: how often is the judge wrong?

The table is conditions × tests. A combination either runs, for both answers, or says why it cannot;
none is silently absent. The suite and `harness bench judge --long` read the same table. A rate over
R runs is held to the number of errors that a true rate of α exceeds once in ten thousand.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from harness.bench import forms, observed
from harness.bench.conditions import (
    ATTEMPT_LOOKS,
    CONDITIONS,
    LOOKS,
    SHARE,
    Condition,
    Law,
    blocks,
    window_of,
)
from harness.bench.figures import Figure
from harness.core.tensors import Bools, Floats
from harness.judge.attempts import spent, spent_in_all
from harness.judge.sample_ratio import ALPHA as SPLIT_ALPHA

ALPHA = 0.05
ATTEMPTS = LOOKS // ATTEMPT_LOOKS
"""Of a condition that restarts."""

_ONCE_IN = 1e-4

Start = Callable[[Condition, np.random.Generator], forms.Form]


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """One column of the table."""

    start: Start | None = None
    """Without evidence; None = a window claim."""
    window: int = 0
    """Guardrails of a window claim; 0 = a process claim."""
    shares: bool = False
    """Values are 0 or 1 whatever the law says."""
    anew: bool = False
    """Later attempts start without evidence at α·2^(1−r)."""
    alpha: float = ALPHA
    """Level of either answer."""
    answers: tuple[str, ...] = ("rollback", "promotion")
    """False ones that are counted."""
    cannot: tuple[tuple[str, str], ...] = ()
    """(condition, why the test does not meet it)."""


_PAIRED = (("ramp", "both versions answer every request: there is no split"),)
_ALONE = (
    ("AR(1) .9", "requests depend: time blocks or a window claim"),
    ("clustered users", "requests depend: user means or a window claim"),
    ("bursts", "requests depend: time blocks or a window claim"),
)
_ZERO_ONE = (
    ("heavy tails", "values are 0 or 1"),
    ("outliers", "values are 0 or 1"),
)
_NO_RESTARTS = (("restarts", "evidence is a sum, resumed as that of `mean` is"),)
_OWN_LAW = (*_ZERO_ONE, ("rare .0005", "the law of its values is its own"))
_ONE_WAY = (("rare .0005", "a share cannot fall below 0: one side"),)


def _single(observing: observed.Observing, *cannot: tuple[str, str], plan: bool = False) -> Test:
    return Test(start=partial(forms.single, observing, planned=plan), cannot=cannot)


TESTS: dict[str, Test] = {
    "mean": _single(observed.mean, *_PAIRED, *_ALONE),
    "mean, planned": _single(observed.mean, *_PAIRED, *_ALONE, plan=True),
    "share": _single(observed.share, *_PAIRED, *_ALONE, *_ZERO_ONE),
    "both sides": Test(
        start=forms.both_sides, cannot=(*_PAIRED, *_ALONE, *_ONE_WAY, *_NO_RESTARTS)
    ),
    "K = 3": Test(
        start=partial(forms.combined, 3), cannot=(*_PAIRED, *_ALONE, *_NO_RESTARTS)
    ),
    "K = 10": Test(
        start=partial(forms.combined, 10), cannot=(*_PAIRED, *_ALONE, *_NO_RESTARTS)
    ),
    "asked anew": Test(
        start=partial(forms.single, observed.mean),
        anew=True,
        cannot=tuple(
            (name, "one attempt is `mean`") for name in CONDITIONS if name != "restarts"
        ),
    ),
    "window": Test(window=1, anew=True, cannot=_PAIRED),
    "window, share": Test(window=1, anew=True, shares=True, cannot=(*_PAIRED, *_ZERO_ONE)),
    "window, K = 3": Test(window=3, anew=True, cannot=_PAIRED),
    "window, K = 10": Test(window=10, anew=True, cannot=_PAIRED),
    "time blocks": _single(
        observed.time_blocks, *_PAIRED, ("clustered users", "users are no blocks: user means")
    ),
    "user means": _single(
        observed.user_means, *_PAIRED, ("AR(1) .9", "neighbours depend, too: time blocks")
    ),
    "users by size": _single(
        observed.size_weighted,
        *_PAIRED,
        *((name, "draws are independent whatever hung together") for name in ("AR(1) .9", "bursts")),
        ("daily cycle", "draws from one window have no order"),
    ),
    "latency ratio": _single(observed.latency_ratio, *_PAIRED),
    "latency p99": _single(
        observed.latency_p99, *_PAIRED, ("outliers", "bounded by nature"),
        ("rare .0005", "the law of its values is its own"),
    ),
    "calibration": Test(start=forms.calibration, cannot=(*_PAIRED, *_ALONE, *_NO_RESTARTS)),
    "excess flips": _single(
        observed.excess_flip, *_PAIRED, *_ZERO_ONE
    ),
    "ratio": _single(observed.ratio, *_PAIRED, *_ALONE, *_OWN_LAW),
    "label clocks": Test(start=forms.clocks, cannot=(*_PAIRED, *_ALONE, *_NO_RESTARTS)),
    "overlap": Test(start=forms.overlap, cannot=_NO_RESTARTS),
    "error ratio": Test(
        start=forms.errors,
        cannot=(
            *_ZERO_ONE,
            *_NO_RESTARTS,
            ("AR(1) .9", "neighbours' errors are bursts"),
            ("clustered users", "a unit enters once, with one error"),
        ),
    ),
    "sample ratio": Test(
        start=forms.split,
        alpha=SPLIT_ALPHA,
        answers=("alarm",),
        cannot=tuple(
            (name, "assignments do not know outcomes")
            for name in CONDITIONS
            if name not in {"i.i.d.", "ramp"}
        ),
    ),
}  # fmt: skip
"""Name → test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One combination."""

    condition: Condition
    """Row."""
    test: str
    """Column."""
    reason: str
    """Why it does not run; "" when it does."""

    @property
    def name(self) -> str:
        """Of the combination, the same everywhere."""
        return f"{self.condition.name} × {self.test}"


def table() -> tuple[Cell, ...]:
    """All combinations, those that do not run with their reasons."""
    return tuple(
        Cell(condition=condition, test=name, reason=dict(test.cannot).get(condition.name, ""))
        for name, test in TESTS.items()
        for condition in CONDITIONS.values()
    )


def figures_of(cell: Cell, *, runs: int, n: int, seed: int) -> list[Figure]:
    """Rates of wrong answers of one combination, beside their binomial limits.

    Args:
      cell: one that runs.
      runs: simulated at once.
      n: requests of a run; a multiple of 20,000 gives every look whole units.
      seed: with the cell's name, of the simulation.
    """
    test = TESTS[cell.test]
    rng = np.random.default_rng([seed, zlib.crc32(cell.name.encode())])
    ever = _ever(test, cell.condition, runs, n, rng)
    anew = test.anew and cell.condition.restarts
    level = spent_in_all(test.alpha, ATTEMPTS) if anew else test.alpha
    return [
        figure_of_errors(
            f"{cell.name}: false {answer}", int(wrong.sum()), runs, f"to {n:,}", level=level
        )
        for answer, wrong in zip(test.answers, ever, strict=False)
    ]


def figure_of_errors(
    name: str, wrong: int, runs: int, note: str, *, level: float = ALPHA
) -> Figure:
    """A rate of wrong answers beside the binomial limit of a true rate of α.

    Args:
      name: of the condition and the answer.
      wrong: runs with a wrong answer.
      runs: all runs.
      note: in a few words, what was simulated.
      level: α.
    """
    from scipy.stats import binom

    limit = float(binom.ppf(1.0 - _ONCE_IN, runs, level)) / runs
    return Figure(name=name, value=wrong / runs, unit=f"of {runs:,} runs", limit=limit, note=note)


def _ever(
    test: Test, condition: Condition, runs: int, n: int, rng: np.random.Generator
) -> tuple[Bools, Bools]:
    """Whether each run ever gave each answer."""
    wrong = np.zeros(runs, np.bool_), np.zeros(runs, np.bool_)
    attempts = ATTEMPTS if test.anew and condition.restarts else 1
    for attempt in range(1, attempts + 1):
        bar = -math.log(spent(test.alpha, attempt))
        for rollback, promotion, whole in _looks(test, condition, runs, n // attempts, rng):
            wrong[0][:] |= rollback >= bar
            if whole:
                wrong[1][:] |= promotion >= bar
    return wrong


def _looks(
    test: Test, condition: Condition, runs: int, n: int, rng: np.random.Generator
) -> Iterator[tuple[Floats, Floats, bool]]:
    """(log E of rollback, of promotion, whether promotion may look) at each look."""
    if test.window:
        law = SHARE if test.shares and condition.law.bounds != (0.0, 1.0) else condition.law
        for logs in _window_looks(law, test.window, condition, runs, n, rng):
            yield *logs, True
        return
    if test.start is None:
        return
    form = test.start(condition, rng)
    for block in blocks(condition, runs, n // LOOKS, rng):
        yield *form(block), block.whole


def _window_looks(
    law: Law, k: int, condition: Condition, runs: int, n: int, rng: np.random.Generator
) -> Iterator[forms.Logs]:
    """K guardrails over one window whose own means are the margins, in freshly drawn orders."""
    x = [window_of(condition, law, n, rng) for _ in range(k)]
    harms = [forms.Window(float(values.mean()), law.bounds, n) for values in x]
    # For promotion the others are well within: their margins lie higher.
    passes = [
        forms.Window(0.5 * (float(values.mean()) + law.bounds[1]), law.bounds, n)
        for values in x[1:]
    ]  # fmt: skip
    order = np.broadcast_to(np.arange(n, dtype=np.int32), (runs, n))
    order = rng.permuted(order, axis=1)
    batch = n // LOOKS
    for start in range(0, n, batch):
        drawn = [values[order[:, start : start + batch]] for values in x]
        logs = [test.look(part) for test, part in zip(harms, drawn, strict=True)]
        within = [test.look(part)[1] for test, part in zip(passes, drawn[1:], strict=True)]
        average = np.logaddexp.reduce([log[0] for log in logs], axis=0) - math.log(k)
        yield average, np.minimum.reduce([logs[0][1], *within])


def whole_table(*, runs: int, n: int, seed: int, told: Callable[[str], None]) -> list[Figure]:
    """Every combination: figures of those that run, reasons of the others.

    Args:
      runs: simulated runs a combination.
      n: requests a run.
      seed: of the simulations.
      told: is called with a line of progress after each combination.

    Returns:
      In the table's order.
    """
    from concurrent.futures import ThreadPoolExecutor

    cells = table()
    running = [cell for cell in cells if not cell.reason]
    found: dict[str, list[Figure]] = {}
    # Threads: nearly all of the time goes by inside numpy, which lets others run meanwhile.
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(figures_of, cell, runs=runs, n=n, seed=seed) for cell in running]
        for done, (cell, job) in enumerate(zip(running, jobs, strict=True), 1):
            found[cell.name] = job.result()
            rates = ", ".join(
                f"{f.name.rsplit(': ', 1)[1]} {f.value:.3g}" for f in found[cell.name]
            )
            told(f"{done} of {len(running)}, {runs:,} runs to {n:,}: {cell.name}: {rates}")
    return [figure for cell in running for figure in found[cell.name]]


def reasons() -> dict[str, str]:
    """Combinations that do not run → why."""
    return {cell.name: cell.reason for cell in table() if cell.reason}

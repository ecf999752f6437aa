"""The looks that a report draws: a path whose length is bounded, the last look never lost."""

from __future__ import annotations

from typing import Any, Protocol

from harness.core.verdicts import PathPoint

MAX_POINTS = 400
"""Points kept at most, the last one not counted."""

_STRIDE = 1.02


class Watched(Protocol):
    """A test whose evidence can be looked at."""

    @property
    def n(self) -> int:
        """Observations so far."""
        ...

    def interval(self) -> tuple[float, float]:
        """Confidence sequence: lower and upper end."""
        ...

    def log_e_promote(self) -> float:
        """Natural log of the evidence for promotion."""
        ...

    def log_e_rollback(self) -> float:
        """Natural log of the evidence for rollback."""
        ...


def point_of(test: Watched) -> PathPoint:
    """A test's evidence now."""
    lower, upper = test.interval()
    return PathPoint(
        n=test.n,
        lower=lower,
        upper=upper,
        log_e_promote=test.log_e_promote(),
        log_e_rollback=test.log_e_rollback(),
    )


class Looks:
    """Keeps looks whose n grew by a factor; thins itself, so memory does not grow with n."""

    __slots__ = ("_points", "_stride")

    def __init__(self) -> None:
        """Starts empty."""
        self._points: list[PathPoint] = []
        self._stride = _STRIDE

    def due(self, n: int) -> bool:
        """Whether a look at n observations would be kept; saves computing one that would not."""
        return not self._points or n >= self._points[-1].n * self._stride

    def keep(self, point: PathPoint) -> None:
        """Adds a look that is due."""
        self._points.append(point)
        if len(self._points) > MAX_POINTS:
            self._points = self._points[::2]
            self._stride *= self._stride

    def until(self, last: PathPoint) -> tuple[PathPoint, ...]:
        """The kept looks and `last`, at most MAX_POINTS."""
        if not last.n:
            return ()
        kept = [p for p in self._points if p.n < last.n]
        kept.append(last)
        return tuple(kept if len(kept) <= MAX_POINTS else [kept[0], *kept[2:]])

    def state(self) -> dict[str, Any]:
        """Plain JSON values from which `restore` continues identically."""
        return {"stride": self._stride, "points": [list(p.row()) for p in self._points]}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from `state`."""
        self._stride = float(state["stride"])
        self._points = [PathPoint.from_row(row) for row in state["points"]]

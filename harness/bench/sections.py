"""Where a function's time goes, by named sections: processor time, and time spent waiting.

Functions are wrapped from outside, so that what is measured carries no clock of its own. A section
inside another counts for itself alone; what happens outside the measured function is not counted.
"""

from __future__ import annotations

import functools
import importlib
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

REST = "the rest"
"""The measured function's own time: what no section has taken."""


class Sections:
    """Sums by section, of one thread.

    Args:
      whole: the measured function, as `package.module:name` or `package.module:Class.name`.
      places: section → functions that it calls, written alike.
    """

    def __init__(self, whole: str, places: Mapping[str, Sequence[str]]) -> None:
        self.cpu_s: defaultdict[str, float] = defaultdict(float)
        """Section → processor time."""
        self.wait_s: defaultdict[str, float] = defaultdict(float)
        """Section → time that passed without it."""
        self._inner: list[tuple[float, float]] = []
        """Of the sections that are open: (processor, all) time that sections inside them have taken."""
        self._wrap(REST, whole)
        for section, paths in places.items():
            for path in paths:
                self._wrap(section, path)

    def _wrap(self, section: str, path: str) -> None:
        module, _, dotted = path.partition(":")
        owner: Any = importlib.import_module(module)
        *classes, name = dotted.split(".")
        for part in classes:
            owner = getattr(owner, part)
        setattr(owner, name, self._timed(section, getattr(owner, name)))

    def _timed(self, section: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - whatever it wraps
            if section != REST and not self._inner:
                return function(*args, **kwargs)
            self._inner.append((0.0, 0.0))
            wall, cpu = time.perf_counter(), time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
                self._close(section, cpu, wall)

        return timed

    def _close(self, section: str, cpu: float, wall: float) -> None:
        inner_cpu, inner_wall = self._inner.pop()
        self.cpu_s[section] += cpu - inner_cpu
        self.wait_s[section] += (wall - inner_wall) - (cpu - inner_cpu)
        if self._inner:
            outer_cpu, outer_wall = self._inner[-1]
            self._inner[-1] = (outer_cpu + cpu, outer_wall + wall)

"""When the parent looks for an answer: a child that finds nobody asleep on its pipe answers for less.

Who wakes a sleeping process pays for it, a few microseconds on bare metal and about 20 under a hypervisor,
where an idle virtual processor has to be interrupted: a sixth of a batch of 0.1 ms, taken from the model's
own processor. While further batches wait in the child's pipe a late look costs nothing, so the parent sleeps
by the clock first, for a part of what such a batch usually takes, and on the pipe only when that was too
short several times.
"""

from __future__ import annotations

from collections.abc import Hashable

from harness.sandbox.child import kernel

LOOKS = 8
"""Naps before the parent sleeps on the pipe."""
_PARTS = 3
"""Looks while a batch is computed: the child has one more batch to go on with when it is seen late."""
_BEHIND = 2
"""Batches that wait behind the awaited one."""
_MOST_S = 3e-3
"""Of a batch: for longer ones a wake is nothing."""
_WEIGHT = 1 / 8
"""Of the last batch in what one usually takes."""
_SLACK_NS = 1000


def exact_timers() -> None:
    """Asks for sleeps of this thread that end when they should, not up to 50 µs later (the kernel's default).

    A system that refuses lets the parent look a little later.
    """
    try:
        kernel.prctl(kernel.PR_SET_TIMERSLACK, _SLACK_NS)
    except OSError:
        return


class Pace:
    """What a batch of the kind asked last usually takes."""

    def __init__(self) -> None:
        self._kind: Hashable = None
        self._usual_s = 0.0

    def nap_s(self, kind: Hashable, behind: int) -> float:
        """Time between two looks for an answer; 0 = sleep on the pipe at once.

        Args:
          kind: of the awaited batch; batches of one kind take about as long.
          behind: batches that were given to the child after it.
        """
        if kind != self._kind:
            self._kind, self._usual_s = kind, 0.0
        return self._usual_s / _PARTS if behind >= _BEHIND and self._usual_s < _MOST_S else 0.0

    def answered(self, service_s: float) -> None:
        """Notes what the batch took that `nap_s` was asked about last."""
        self._usual_s += (service_s - self._usual_s) * (_WEIGHT if self._usual_s else 1.0)

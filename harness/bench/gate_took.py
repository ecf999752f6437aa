"""What gates and bare runs took, pair by pair, and what that says of their ratio.

A gate and the bare runs of its batches stand next to each other in time: a machine whose speed wanders
moves both. A pair is a long and a short gate with their bare runs, so that what comes once is in neither
side, and the ratio is the median over the pairs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.bench.figures import Figure
from harness.bench.paired import paired_ratio

_MOST_RATIO = 1.05
"""No gate is quicker than what it does: more than this is other work beside the bare runs."""
_LEAST_SHARE = 0.9
"""Of a processor, that a bare run must have had for seconds by the clock to mean anything."""
_NEAR_NOTHING = 0.02
"""Share of the whole by which a part that is next to nothing may come out below zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """Seconds, of one gate and its bare runs, or of what longer ones took more than shorter ones."""

    requests: int
    replay_s: float
    """Wall-clock time between the floor and the last pair."""
    parent_s: Mapping[str, float]
    """Processor time meanwhile by section."""
    waiting_s: float
    children_s: float
    """Processor time of both versions' processes."""
    bare_wall_s: float
    """The same batches in bare onnxruntime, both versions at once: the slower one's time."""
    bare_s: float
    """Processor time of both."""
    share: float = 1.0
    """Of a processor that each bare run had while it ran; less than 1 = other work on the machine."""

    @property
    def cpu_s(self) -> float:
        """Processor time of the gate's replay."""
        return self.children_s + sum(self.parent_s.values())

    def more_than(self, short: Took) -> Took:
        """What it took more."""
        return Took(
            requests=self.requests - short.requests,
            replay_s=self.replay_s - short.replay_s,
            parent_s={k: s - short.parent_s.get(k, 0.0) for k, s in self.parent_s.items()},
            waiting_s=self.waiting_s - short.waiting_s,
            children_s=self.children_s - short.children_s,
            bare_wall_s=self.bare_wall_s - short.bare_wall_s,
            bare_s=self.bare_s - short.bare_s,
            share=min(self.share, short.share),
        )

    def once(self, more: Took) -> tuple[float, float]:
        """Seconds, and seconds of processor time, that do not come with further requests."""
        times = self.requests / more.requests
        extra_s = self.replay_s - self.bare_wall_s, self.cpu_s - self.bare_s
        each_s = more.replay_s - more.bare_wall_s, more.cpu_s - more.bare_s
        return extra_s[0] - times * each_s[0], extra_s[1] - times * each_s[1]


def middle(pairs: Sequence[Took], of: Callable[[Took], float]) -> float:
    """The median of a figure over the pairs."""
    return statistics.median(map(of, pairs))


def clock_ratio(pairs: Sequence[Took], name: str, limit: float, note: str) -> Figure:
    """Bare runs' time over the gate's, by the clock.

    Args:
      pairs: what each pair's longer runs took more than its shorter ones, at least one.
      name: of the figure.
      limit: least ratio.
      note: what it means.
    """
    times = [(p.bare_wall_s, p.replay_s, (p.waiting_s,)) for p in pairs]
    figure = _ratio(times, name, limit, note)
    return replace(figure, spoiled=figure.spoiled or other_work(pairs))


def other_work(pairs: Sequence[Took]) -> str:
    """Why no seconds by the clock mean anything; "" = they do."""
    share = middle(pairs, lambda p: p.share)
    if share >= _LEAST_SHARE:
        return ""
    return f"bare runs had a processor {share:.0%} of their time: other work on the machine"


def processor_ratio(pairs: Sequence[Took], name: str, limit: float, note: str) -> Figure:
    """The same by processor time; arguments as for `clock_ratio`."""
    times = [(p.bare_s, p.cpu_s, (*p.parent_s.values(), p.children_s)) for p in pairs]
    return _ratio(times, name, limit, note)


def _ratio(
    times: Sequence[tuple[float, float, Sequence[float]]], name: str, limit: float, note: str
) -> Figure:
    """One figure of (bare runs, gate, parts of the gate) of each pair."""
    sound = [(bare, gate) for bare, gate, _ in times if min(bare, gate) > 0]
    less = any(min(parts, default=0.0) < -_NEAR_NOTHING * gate for _, gate, parts in times)
    spoiled = "a longer run took less" if less or len(sound) < len(times) else ""
    # Of no sound pair the figures are printed as they are: worth nothing, and said to be.
    whole = statistics.median(gate for _, gate, _ in times)
    value = statistics.median(bare for bare, _, _ in times) / whole if whole else 0.0
    if sound:
        found = paired_ratio([bare for bare, _ in sound], [gate for _, gate in sound])
        value, note = found.median, f"{found.shown()}; {note}"
        if found.low < limit <= found.high:
            note = f"the limit lies inside the interval, the median is judged; {note}"
        if not spoiled and value > _MOST_RATIO:
            spoiled = "quicker than the models alone"
    return Figure(
        name=name, value=value, unit="×", limit=limit, at_most=False, note=note, spoiled=spoiled
    )

"""Where two graphs part, as values that can be saved, and as findings."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from harness.diff.changes import Change, Divergence


class TensorVerdict(enum.StrEnum):
    """What became of one tensor of the baseline's graph."""

    EQUAL = "equal"
    """No row beyond its tolerance."""
    DIFFERS = "differs"
    """Some row is."""
    NOT_COMPARED = "not_compared"
    """Without a partner, or without values on both sides. Never parity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorState:
    """One tensor of the baseline's graph."""

    baseline: str
    """Its name."""
    candidate: str
    """Its partner's; "" = it has none."""
    operator: str
    """What makes it."""
    tier: str
    """Why the two stand for each other; "" = they do not."""
    verdict: TensorVerdict
    """What became of it."""
    reads: tuple[str, ...] = ()
    """Inputs and computed tensors that it is made from."""
    rows: int = 0
    """Rows compared; batches where rows are not known."""
    by_batch: bool = False
    """Batches were counted, not rows: its first axis is not the rows'."""
    differing: int = 0
    """Of these: beyond the tolerance."""
    relative: float = 0.0
    """Largest difference relative to the scale."""
    absolute: float = 0.0
    """Largest finite difference."""
    floor: float = 0.0
    """The baseline's own, relative to the scale."""
    ordered: float = 0.0
    """How far sums in other orders move the baseline's own, relative to the scale; 0 also where it was not measured."""
    by_order: bool = False
    """No column differs by more than eight times what these move it."""
    small: int = 0
    """Rows with differences within the tolerance that are large parts of their values, in the column with the most."""
    empty: bool = False
    """It was compared, and held no value in any row."""
    why: str = ""
    """Why it was not compared, or is unlike."""

    @property
    def unit(self) -> str:
        """What `rows` and `differing` count."""
        return "batches" if self.by_batch else "rows"

    @property
    def small_values(self) -> bool:
        """No row is beyond the tolerance, and yet some small values may be another model's."""
        return self.verdict is TensorVerdict.EQUAL and self.small > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchProof:
    """The candidate with the baseline's values fed in at the frontier."""

    tensors: tuple[str, ...]
    """Baseline's tensors whose values were fed in."""
    output: str
    """Baseline's output that was looked at."""
    rows: int
    """Rows of it; batches where rows are not known."""
    by_batch: bool = False
    """Batches were counted, not rows."""
    before: int
    """Rows that differed without."""
    after: int
    """Rows that still differ."""

    @property
    def unit(self) -> str:
        """What `rows`, `before` and `after` count."""
        return "batches" if self.by_batch else "rows"

    @property
    def restored(self) -> bool:
        """Whether nothing differs any more: that region is the whole cause."""
        return self.before > 0 and self.after == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstRow:
    """A row in which a tensor of the frontier differs most."""

    request: str
    """Its request's id."""
    inputs: tuple[tuple[str, str], ...]
    """What was asked: (input, value), shortened."""
    baseline: str
    """The tensor's value, shortened."""
    candidate: str
    """Its partner's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstDivergence:
    """One tensor of the frontier, with its proof."""

    divergence: Divergence
    """Where, and what differs just before."""
    relation: str
    """How the candidate's values follow from the baseline's, in words; "" = nothing plain."""
    requests: tuple[str, ...]
    """Ids of the first differing requests."""
    proofs: tuple[PatchProof, ...]
    """Feeding this tensor alone, per output that differs."""
    worst: tuple[WorstRow, ...] = ()
    """Rows that differ most, the furthest first; () for tensors without a value a row."""
    unfed: str = ""
    """Why its values were not fed in, as a sentence's end; "" = they were, or no output differs."""
    is_output: bool = False
    """It is an output itself: nothing comes after it that feeding could mend."""
    reaches: tuple[str, ...] = ()
    """Baseline's outputs that differ and are computed from it, in either graph; () where it was not looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphReport:
    """Two graphs on the same requests."""

    requests: int
    """Requests that were traced."""
    coverage: str
    """How many tensors stand for each other, as told to people."""
    compared: int
    """Tensors of the baseline that were compared."""
    equal: int
    """Of these: equal."""
    tiers: dict[str, int]
    """Tier → tensors."""
    sketched: bool
    """Floats were compared by sketches, and whole only about the frontier."""
    states: tuple[TensorState, ...]
    """In the baseline's topological order."""
    candidate_only: tuple[str, ...]
    """Computed tensors of the candidate without a partner."""
    divergences: tuple[FirstDivergence, ...]
    """The frontier, in topological order, without `risen`."""
    proofs: tuple[PatchProof, ...]
    """Feeding the whole frontier, per output that differs."""
    outputs_differ: bool
    """Whether any output differs in this pass, in which graph optimisation is off."""
    not_compared: tuple[str, ...]
    """What stayed out of sight, as sentences."""
    outputs_compared: bool = True
    """Whether every output was: of one that was not, nothing is known."""
    later: tuple[Change, ...] = ()
    """What differs after the frontier and is no weight, or a bound: a difference before it hides what it does."""
    differing_outputs: tuple[str, ...] = ()
    """Baseline's outputs that differ in this pass."""
    risen: tuple[str, ...] = ()
    """Baseline's tensors of the frontier that merely show again what differs before them, in topological order: the
    difference sinks under the tolerance and rises above it again, and nothing between is another one."""
    random: tuple[tuple[str, str], ...] = ()
    """(baseline's tensor, the operator) of matched tensors that are computed from a random operator: no
    two runs agree on these, so they are neither equal nor different."""
    same_graph: bool = False
    """Both are one graph but for names: all tensors are matched as identical, of the same opsets, and no
    branch was left out."""
    rearranged: bool = False
    """Both hold the same numbers, otherwise arranged."""
    constant: tuple[str, ...] = ()
    """Baseline's features that are constants, or copies of some, of the same type, shape and values in the
    candidate: equal in every request."""

"""How far the baseline's own sums in another order move its answers and features: measured, and only where it is earned.

A candidate that holds the same numbers, arranged otherwise (columns permuted together with the rows of the
weights, matrices cut into pieces), sums them in another order, and float sums depend on it. How far is no question
of the graph alone: tried and left was a tolerance told from the lengths of the sums, which hid faults. So copies of
the baseline whose sums go in other orders run over the same requests, and each column's tolerance follows what they
show there. What no such sum is before stays exact, what jumps (a rounding to whole numbers, a comparison, a tree)
is held to the usual tolerance, and a candidate that holds another number, or one more or less often in the same
place of an operator, earns nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.core.errors import SandboxError, UsageError
from harness.core.models import ModelGraph, Rearrangement
from harness.core.tensors import Ints
from harness.core.traffic import RequestBatch
from harness.diff.floor import Floor, OtherOrders
from harness.diff.floor_orders import with_orders
from harness.pipeline.floorpass import FLOOR_REQUESTS, Measured, prefix, whole
from harness.pipeline.opening import LegRecipe, open_legs
from harness.pipeline.progress import Listener, Progress
from harness.replay.legs import Leg
from harness.replay.order import Batch
from harness.sandbox.hello import LoadFailure
from harness.sandbox.reordering import ORDERS, reordered


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderPass:
    """What it takes to measure other orders of one baseline's sums."""

    recipe: LegRecipe
    """How the baseline is opened."""
    graph: ModelGraph
    """The baseline's."""
    batches: Sequence[Batch]
    """The run's schedule."""
    read: Callable[[Ints], RequestBatch]
    """Gives the requests at storage positions."""
    trace: bool
    """Also compare feature tensors."""
    random: Mapping[str, str]
    """As `Floor.random`."""
    proven: bool
    """Nothing but the order of sums is between the versions."""
    heard: Callable[[int, int], None]
    """Told (done, total) requests."""

    def measured(self, floor: Floor, first: Leg) -> Floor:
        """The floor with the measured orders; as it was, and why, where they cannot be measured.

        Args:
          floor: of the baseline against itself.
          first: the baseline in the run's batches.
        """
        with tempfile.TemporaryDirectory(prefix="harness-orders-") as scratch:
            try:
                found = list(self._orders(first, Path(scratch)))
            except _NotMeasuredError as error:
                return replace(floor, orders=OtherOrders(problem=str(error)))
            except (SandboxError, UsageError) as error:
                return replace(floor, orders=OtherOrders(problem=f"{error.where} {error.what}"))
        # A graph without sums over weights has no other order of them, and nothing is to be excused.
        if not found:
            return floor
        return with_orders(floor, found, self.graph.smooth, proven=self.proven)

    def _orders(self, first: Leg, scratch: Path) -> Iterator[Floor]:
        """What each order moves; one after the other, as each takes the memory of a version."""
        few = list(prefix(self.batches, FLOOR_REQUESTS // len(ORDERS)))
        for recipe in self._recipes(scratch):
            with open_legs(recipe) as (leg,):
                if leg.load_failure is not None:
                    raise _NotMeasuredError(leg.load_failure.message)
                leg.singly = first.singly
                measured = Measured(None, (), self.random, self.graph)
                measured.run(first, leg, few, self.read, whole, trace=self.trace, heard=self.heard)
                floor = measured.floor()
                if leg.ended or first.ended or not floor.requests:
                    raise _NotMeasuredError(leg.ended or first.ended or "it answers no request")
                yield floor

    def _recipes(self, scratch: Path) -> list[LegRecipe]:
        """The baseline's recipe with its sums in other orders; none where it has no sums."""
        recipe = self.recipe
        models = self._copies(recipe.model, scratch / "whole")
        traced = self._copies(recipe.trace_model, scratch / "traced")
        cut = self._copies(recipe.cut_model, scratch / "cut")
        return [
            replace(
                recipe,
                model=model,
                # A part of the graph may hold no sum.
                trace_model=traced[place] if traced else recipe.trace_model,
                cut_model=cut[place] if cut else recipe.cut_model,
                folder=recipe.folder or recipe.model.parent,
            )
            for place, model in enumerate(models)
        ]

    def _copies(self, model: Path | None, folder: Path) -> tuple[Path, ...]:
        if model is None:
            return ()
        recipe = self.recipe
        made = reordered(model, folder, recipe.limits, allow_weaker=recipe.allow_weaker)
        if isinstance(made, LoadFailure):
            raise _NotMeasuredError(made.message)
        return made


class _NotMeasuredError(Exception):
    """A copy cannot be made or run; the message says why."""


def order_pass(
    recipes: Sequence[LegRecipe],
    graph: ModelGraph,
    rearranged: Rearrangement,
    batches: Sequence[Batch],
    read: Callable[[Ints], RequestBatch],
    *,
    trace: bool,
    random: Mapping[str, str],
    listener: Listener,
) -> Callable[[Floor, Leg], Floor] | None:
    """What adds other orders to a floor; None where the candidate holds other numbers, or no other arrangement.

    Args:
      recipes: how both versions are opened, the baseline first.
      graph: what is inside the baseline.
      rearranged: what both graphs show of their numbers.
      batches: as `OrderPass` has them, and so all that follow.
      read: the same.
      trace: the same.
      random: the same.
      listener: hears progress.
    """
    if not rearranged:
        return None

    def heard(done: int, total: int) -> None:
        listener(Progress(stage="floor", done=done, total=total, note="sums in another order"))

    return OrderPass(
        recipe=recipes[0], graph=graph, batches=batches, read=read, trace=trace, random=random,
        proven=rearranged is Rearrangement.FUNCTION, heard=heard,
    ).measured  # fmt: skip

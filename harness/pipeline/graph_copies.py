"""The copies that both versions are traced with: of every tensor where there is room, else of sketches or some."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from harness.core.traffic import RequestBatch
from harness.diff.graph_match import GraphMatch
from harness.pipeline.graph_choice import chosen
from harness.pipeline.graph_opening import Laid, Runner, bytes_of
from harness.sandbox.tracing import Edit, Edited


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How much copies may return."""

    memory_bytes: int
    """What the values of one batch of one version may take."""
    most_whole: int
    """Tensors that a copy returns whole."""
    most_sketched: int
    """Tensors that a copy returns by sketches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenCopies:
    """Copies of both versions, running."""

    copies: tuple[Edited, Edited]
    """The baseline's and the candidate's."""
    tracers: tuple[Runner, Runner, Runner]
    """The baseline, the candidate, and the baseline again."""
    orders: tuple[Runner, ...]
    """The baseline with its sums in other orders; none where that was not asked for."""
    sketched: bool
    """They return sketches: whole values take too much."""
    chosen: dict[str, str] | None
    """Pairs that they return, baseline's → candidate's, where these are not all; None = all."""
    batch_bytes: float
    """What all values of a batch of one version take, whole."""
    skipped: tuple[str, ...]
    """Tensors that they cannot return, and why, as sentences."""


def open_copies(
    stack: ExitStack,
    laid: tuple[Laid, Laid],
    match: GraphMatch,
    room: Room,
    first: RequestBatch,
    *,
    orders: bool,
) -> OpenCopies:
    """Makes the copies and starts their processes; sketches when whole values take too much.

    Args:
      stack: ends the processes.
      laid: both versions.
      match: how their tensors are paired.
      room: how much the copies may return.
      first: the first batch, whose values are measured on a request.
      orders: also open the baseline with its sums in other orders.

    Raises:
      GraphPassError: a copy cannot be made or does not load, or the time is over.
    """
    wanted: dict[str, str] | None = None
    copies = (laid[0].everything, laid[1].everything)
    if any(copy.withheld for copy in copies):
        copies, wanted = _some(laid, match, room.most_whole)
    tracers = _started(stack, laid, copies)
    one = _requests(first, 1)
    sizes = [
        bytes_of(t.run(side.version.feeds(one), t.tensors))
        for t, side in zip(tracers, laid, strict=True)
    ]
    rows = max(1, int(one.rows.sum()))
    batch_bytes = max(sizes) / rows * int(first.rows.sum())
    sketched = batch_bytes > room.memory_bytes
    if sketched:
        copies, wanted = _some(laid, match, room.most_sketched, sketch=True)
        for tracer in tracers:
            tracer.close()
        tracers = _started(stack, laid, copies)
    others = [laid[0].tracer(copy) for copy in laid[0].reordered(copies[0])] if orders else []
    return OpenCopies(
        copies=copies,
        tracers=(*tracers, stack.enter_context(laid[0].tracer(copies[0]))),
        orders=tuple(stack.enter_context(runner) for runner in others),
        sketched=sketched,
        chosen=wanted,
        batch_bytes=batch_bytes,
        skipped=tuple(
            f"{side.version.role} tensor {name}: {why}"
            for side, copy in zip(laid, copies, strict=True)
            for name, why in copy.skipped
        ),
    )


def _started(
    stack: ExitStack, laid: tuple[Laid, Laid], copies: tuple[Edited, Edited]
) -> tuple[Runner, Runner]:
    return (
        stack.enter_context(laid[0].tracer(copies[0])),
        stack.enter_context(laid[1].tracer(copies[1])),
    )


def _some(
    laid: tuple[Laid, Laid], match: GraphMatch, most: int, *, sketch: bool = False
) -> tuple[tuple[Edited, Edited], dict[str, str] | None]:
    """Copies that return every tensor, where they are no more than this; else those that are chosen."""
    graphs = (laid[0].graph, laid[1].graph)
    if max(len(graph.computed()) for graph in graphs) <= most:
        whole = Edit(sketch=sketch)
        return (laid[0].copy(whole), laid[1].copy(whole)), None
    wanted = chosen(match, graphs, most)
    return (
        laid[0].copy(_edit(laid[0], list(wanted), sketch=sketch)),
        laid[1].copy(_edit(laid[1], list(wanted.values()), sketch=sketch)),
    ), wanted


def _edit(laid: Laid, names: Sequence[str], *, sketch: bool) -> Edit:
    """These tensors; whether a batch takes the branches that are laid open is always looked at."""
    computed = [c for c in laid.conditions() if laid.graph.producer(c)]
    return Edit(tensors=tuple(dict.fromkeys([*names, *computed])), sketch=sketch)


def _requests(batch: RequestBatch, count: int) -> RequestBatch:
    """The first requests of a batch; of a batch with no more than these, all of every tensor."""
    if len(batch) <= count:
        return batch
    rows = int(batch.rows[:count].sum())
    return replace(
        batch,
        seq=batch.seq[:count], request_id=batch.request_id[:count], ts_ns=batch.ts_ns[:count],
        rows=batch.rows[:count], answered=batch.answered[:count],
        inputs={n: a[:rows] for n, a in batch.inputs.items()},
        recorded={n: a[:rows] for n, a in batch.recorded.items()},
        context={n: a[:count] for n, a in batch.context.items()},
    )  # fmt: skip

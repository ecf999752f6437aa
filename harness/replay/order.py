"""The test order: drawn per gate, after the candidate's digest is fixed, from the run's own seed.

A window's storage order is already a uniform shuffle, so permuting small blocks of it and shuffling
inside each block is a uniform order of the selected requests that still reads the disk in blocks.
A fixed order would let somebody pick the variant that happens to look best in it (29 % false
promotion for the best of 10).
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np

from harness.core.tensors import Bools, Ints
from harness.store.orders import Order, positions_in

BLOCK_ROWS = 1024
"""As many as a block of a sealed window holds: a batch reads few blocks."""

_EARLY = ((256, 8), (512, 12))
"""(requests a batch, batches) before the batches have their full size."""
_GROWTH = 16
"""A batch doubles when so many of its size were judged: no look is more than an eighth later than it was, and
batches of 8,192 come before 100,000 requests, so that memory is level from there on."""
GROWS_AFTER = _GROWTH * 1024
"""Requests before the first batch that may be larger than the usual 1,024."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One look: the requests of one window that are replayed and judged together."""

    index: int
    """Position in the run's schedule."""
    window: str
    """Which window's guardrails see it."""
    order: Order
    """Its part of the window's order."""
    trace: bool = True
    """Whether features are asked for, where the versions have a trace at all."""
    alone: bool = False
    """Whether the session that returns the features answers alone, without production's beside it."""
    cut: bool = False
    """Whether features come of a copy that computes nothing else, so that no outputs come with them."""

    def __len__(self) -> int:
        """Requests."""
        return len(self.order)

    @property
    def positions(self) -> Ints:
        """Storage positions in the sealed window, in test order; read when asked for."""
        return positions_in(self.order)


def generator(seed: int, purpose: str) -> np.random.Generator:
    """A generator of its own for each purpose, so that adding one never moves another.

    Args:
      seed: the run's secret seed, kept in the manifest afterwards.
      purpose: what is drawn, e.g. "order/newest".
    """
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def drawn_parts(selected: Bools, *, seed: int, window: str, limit: int) -> Iterator[Ints]:
    """Draws the order in which a window's requests are judged, part after part.

    Args:
      selected: which storage positions belong to the window, shape (n,).
      seed: the run's seed.
      window: the window's name; each draws its own order.
      limit: most requests to judge.

    Yields:
      Storage positions, min(selected.sum(), limit) in all.
    """
    rng = generator(seed, f"order/{window}")
    n = len(selected)
    blocks = rng.permutation(-(-n // BLOCK_ROWS))
    left = limit
    for block in blocks:
        if left <= 0:
            return
        start = int(block) * BLOCK_ROWS
        inside = np.flatnonzero(selected[start : start + BLOCK_ROWS]) + start
        taken = rng.permutation(inside)[:left]
        yield taken
        left -= len(taken)


def draw_order(selected: Bools, *, seed: int, window: str, limit: int) -> Ints:
    """The same order in one piece, shape (min(selected.sum(), limit),)."""
    drawn = [*drawn_parts(selected, seed=seed, window=window, limit=limit)]
    return np.concatenate(drawn) if drawn else np.empty(0, np.int64)


def draw_units(selected: Bools, unit: Ints, *, seed: int, window: str, limit: int) -> Ints:
    """Draws the order of a window's units; the requests of each come one after another.

    Which units fit into the limit depends on their sizes alone, and a test that holds at every look
    holds wherever the order ends.

    Args:
      selected: which storage positions belong to the window, shape (n,).
      unit: of each position, shape (n,), ≥ 0 where selected.
      seed: the run's seed.
      window: the window's name; each draws its own order.
      limit: most requests to judge; a unit that would pass it ends the order.

    Returns:
      Storage positions, whole units of them.
    """
    positions = np.flatnonzero(selected)
    _, rank = np.unique(unit[positions], return_inverse=True)
    n_units = int(rank.max()) + 1 if len(rank) else 0
    turn = generator(seed, f"order/{window}").permutation(n_units)[rank]
    order = np.argsort(turn, kind="stable")
    ends = np.cumsum(np.bincount(turn, minlength=n_units))
    fitting = ends[ends <= limit]
    return positions[order[: fitting[-1]]] if len(fitting) else np.empty(0, np.int64)


def cuts(n: int, batch_requests: int, largest: int | None = None) -> Ints:
    """Where an order of n requests is cut into batches: smaller ones first.

    Every batch end is a look. Early looks decide clear cases soon and show how the evidence grew;
    later ones cost more than they tell, so batches grow to the size that replays fastest.

    Args:
      n: requests.
      batch_requests: size of all but the early batches.
      largest: size up to which later batches double; None = they do not.

    Returns:
      First position of each batch and the one behind its last, shape (batches, 2).
    """
    edges = array("q", [0])
    for size, count in _EARLY:
        for _ in range(count):
            edges.append(min(edges[-1] + min(size, batch_requests), n))
    size = batch_requests
    while edges[-1] < n:
        while largest is not None and 2 * size <= largest and edges[-1] >= _GROWTH * size:
            size *= 2
        edges.append(min(edges[-1] + size, n))
    found = np.array(edges, np.int64)
    found = found[np.append(True, found[1:] > found[:-1])]
    return np.column_stack([found[:-1], found[1:]])


class Schedule(Sequence[Batch]):
    """A run's batches, each made when it is asked for: a few bytes each, however long the traffic.

    Args:
      orders: (window, storage positions in test order).
      taken: which of the orders each batch is cut from, shape (n,).
      edges: where it is cut, shape (n, 2).
    """

    def __init__(self, orders: Sequence[tuple[str, Order]], taken: Ints, edges: Ints) -> None:
        self._orders = tuple(orders)
        self._taken = taken
        self._edges = edges

    def __len__(self) -> int:
        """Batches."""
        return len(self._taken)

    @overload
    def __getitem__(self, at: int) -> Batch: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[Batch, ...]: ...
    def __getitem__(self, at: int | slice) -> Batch | tuple[Batch, ...]:
        """One batch, or some."""
        if isinstance(at, slice):
            return tuple(self[i] for i in range(*at.indices(len(self))))
        index = range(len(self))[at]
        window, order = self._orders[self._taken[index]]
        start, stop = self._edges[index].tolist()
        return Batch(index=index, window=window, order=order[start:stop])


def schedule(
    orders: Sequence[tuple[str, Order]], batch_requests: int, largest: int | None = None
) -> Schedule:
    """Cuts each window's order into batches and takes them in turn.

    Taking turns lets every guardrail look from the start, whichever window it reads.

    Args:
      orders: (window, storage positions in test order).
      batch_requests: requests a batch, but for the early ones; see `cuts`.
      largest: of the later ones; see `cuts`.
    """
    queues = [cuts(len(order), batch_requests, largest) for _, order in orders]
    turns = np.concatenate([np.empty(0, np.int64), *(np.arange(len(q)) for q in queues)])
    taken = np.repeat(np.arange(len(queues)), [len(q) for q in queues])
    edges = np.concatenate([np.empty((0, 2), np.int64), *queues])
    in_turn = np.argsort(turns, kind="stable")
    return Schedule(orders, taken[in_turn], edges[in_turn])


def smaller(batches: Sequence[Batch], most: int) -> list[Batch]:
    """Batches cut into such of at most so many requests, in the same order."""
    parts = [
        replace(batch, order=batch.order[start : start + most])
        for batch in batches
        for start in range(0, len(batch), most)
    ]
    return [replace(part, index=index) for index, part in enumerate(parts)]


def plan_sha256(batches: Sequence[Batch]) -> str:
    """sha256 (hex) over which requests share a batch, and in which order."""
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(f"{batch.window}/{len(batch)}/".encode())
        digest.update(np.ascontiguousarray(batch.positions, "<i8").tobytes())
    return digest.hexdigest()

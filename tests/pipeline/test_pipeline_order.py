"""The test order and the schedule as a gate uses them."""

import tracemalloc

import numpy as np
import pytest

from harness.replay.order import BLOCK_ROWS, GROWS_AFTER, cuts, draw_order, schedule


def order(n=2000, seed=1, window="newest", limit=10**6, selected=None):
    return draw_order(
        np.ones(n, np.bool_) if selected is None else selected,
        seed=seed,
        window=window,
        limit=limit,
    )


def test_every_selected_request_once():
    selected = np.random.default_rng(0).random(2000) < 0.4
    assert sorted(order(selected=selected)) == np.flatnonzero(selected).tolist()


def test_the_same_seed_draws_the_same_order():
    assert order().tolist() == order().tolist()


def test_other_seeds_and_windows_draw_others():
    assert order().tolist() != order(seed=2).tolist()
    assert order().tolist() != order(window="matured").tolist()


def test_a_limit_is_a_prefix():
    assert order(limit=700).tolist() == order()[:700].tolist()
    assert len(order(limit=0)) == 0
    assert len(order(n=0)) == 0


def test_every_position_comes_first_as_often():
    """First positions of 4,000 orders over 4 uneven blocks of storage: uniform within a χ² of 1e-4.

    Whole blocks are drawn, so a request of the short last block has a better chance to be first;
    the storage order is itself a uniform shuffle, which makes up for that. Here: uniform inside.
    """
    n = BLOCK_ROWS
    firsts = np.array([order(n=n, seed=s)[0] for s in range(4000)])
    observed = np.bincount(firsts * 16 // n, minlength=16)
    expected = len(firsts) / 16
    assert ((observed - expected) ** 2 / expected).sum() < 44.3  # χ² with 15 degrees, 1 − 1e-4


def test_blocks_come_first_as_often():
    firsts = np.array([order(n=4 * BLOCK_ROWS, seed=s)[0] // BLOCK_ROWS for s in range(2000)])
    observed = np.bincount(firsts, minlength=4)
    assert ((observed - 500) ** 2 / 500).sum() < 21.1  # χ² with 3 degrees, 1 − 1e-4


def test_windows_take_turns_and_keep_their_orders():
    orders = [("newest", np.arange(25)), ("matured", np.arange(100, 112))]
    batches = schedule(orders, 10)
    assert [(b.index, b.window, len(b.positions)) for b in batches] == [
        (0, "newest", 10), (1, "matured", 10), (2, "newest", 10), (3, "matured", 2),
        (4, "newest", 5),
    ]  # fmt: skip
    for name, drawn in orders:
        parts = [b.positions for b in batches if b.window == name]
        assert np.concatenate(parts).tolist() == drawn.tolist()


def test_nothing_to_judge_is_no_batch():
    assert not schedule([("newest", np.empty(0, np.int64))], 10)
    assert not schedule([], 10)


def test_batches_grow_to_the_largest_and_no_look_comes_much_later():
    edges = cuts(300_000, 1024, 8192).tolist()
    assert [a for a, _ in edges[1:]] == [b for _, b in edges[:-1]]
    assert (edges[0][0], edges[-1][1]) == (0, 300_000)
    assert max(b - a for a, b in edges) == 8192
    assert all(b - a <= max(1024, a / 8) for a, b in edges)
    assert next(a for a, b in edges if b - a == 8192) < 100_000 / 1.5
    small = [[a, b] for a, b in cuts(300_000, 1024).tolist() if b <= GROWS_AFTER]
    assert edges[: len(small)] == small


def test_batches_that_may_not_grow_stay_as_they_were():
    assert cuts(300_000, 1024, 1024).tolist() == cuts(300_000, 1024).tolist()
    assert cuts(GROWS_AFTER, 1024, 8192).tolist() == cuts(GROWS_AFTER, 1024).tolist()


def test_batches_that_grow_hold_the_same_orders():
    rng = np.random.default_rng(2)
    orders = [("newest", rng.permutation(90_000)), ("matured", rng.permutation(50_000))]
    batches = schedule(orders, 1024, 4096)
    assert [b.index for b in batches] == list(range(len(batches)))
    assert max(len(b.positions) for b in batches) > 1024
    for name, drawn in orders:
        parts = [b.positions for b in batches if b.window == name]
        assert np.concatenate(parts).tolist() == drawn.tolist()


def test_a_schedule_gives_one_batch_or_some_as_a_list_does():
    orders = [("newest", np.arange(25)), ("matured", np.arange(12) + 100)]
    batches = schedule(orders, 10)
    every = [*batches]
    assert [b.index for b in every] == list(range(len(batches))) == list(range(5))
    assert [b.window for b in batches[1:4]] == [b.window for b in every[1:4]]
    assert batches[-1].positions.tolist() == every[-1].positions.tolist() == [20, 21, 22, 23, 24]
    assert batches[5:] == ()
    with pytest.raises(IndexError):
        batches[5]


def test_a_long_schedule_is_small():
    tracemalloc.start()
    try:
        batches = schedule([("newest", np.broadcast_to(np.int64(0), 10_000_000))], 1024)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(batches) > 9_000
    assert held < 50 * len(batches)

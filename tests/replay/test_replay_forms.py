"""Batches of answers in many shapes, taken apart: the same parts as one by one, in steps that grow with the batch."""

import cProfile
from dataclasses import replace

import numpy as np
import pytest

from harness.core.observations import Observations, Outcome, PairBatch
from harness.core.traffic import RequestBatch
from harness.replay.composition import joined, observed_at, observed_in_parts
from harness.replay.forms import in_forms


def requests(rows):
    n = len(rows)
    return RequestBatch(
        seq=np.arange(n), request_id=np.array([f"r{i}" for i in range(n)], object),
        ts_ns=np.zeros(n, np.int64), rows=np.asarray(rows, np.int64), inputs={}, recorded={},
        answered=np.ones(n, np.bool_), context={},
    )  # fmt: skip


def piece(rows, width, rng, failed=()):
    """What consecutive requests were answered: boxes of one width, and a score."""
    total = int(sum(rows))
    outcome = np.zeros(len(rows), np.int8)
    outcome[list(failed)] = Outcome.ERROR
    return Observations(
        outcome=outcome,
        outputs={"boxes": rng.random((total, width)), "score": rng.random(total)},
        features={"f": rng.random(total)},
        trace_outputs={"score": rng.random(total)},
        latency_s=rng.random(len(rows)),
        messages=tuple((i, f"no {rng.integers(99)}") for i in failed),
    )


def drawn(rng):
    """Requests, and what they were answered in pieces of some requests each."""
    rows, pieces = [], []
    for _ in range(rng.integers(1, 7)):
        count = int(rng.integers(1, 4))
        own = rng.integers(0, 4, count).tolist()
        failed = range(count) if rng.random() < 0.2 else ()
        pieces.append(piece(own, int(rng.integers(1, 4)), rng, failed))
        rows += own
    return requests(rows), joined(pieces)


def told(seen):
    """Observations in values that can be compared."""
    groups = [seen.outputs, seen.features, seen.trace_outputs]
    arrays = [{n: (a.shape, str(a.dtype), a.tolist()) for n, a in g.items()} for g in groups]
    forms = {n: [(c, a.shape, a.tolist()) for c, a in found] for n, found in seen.forms.items()}
    return [seen.outcome.tolist(), repr(arrays), forms, seen.latency_s.tolist(), seen.messages]


def one_by_one(batch, seen, at):
    """The observations at some requests, looked up for each by itself."""
    ends = np.cumsum(batch.rows)
    starts = ends - batch.rows
    rows = [r for i in at for r in range(starts[i], ends[i])]
    outputs = {n: a[rows] for n, a in seen.outputs.items()}
    forms = {}
    for name, chunks in seen.forms.items():
        found, first = [], 0
        for count, array in chunks:
            here = [i for i in at if first <= i < first + count]
            base = starts[first]
            kept = [r - base for i in here for r in range(starts[i], ends[i])]
            if here:
                found.append((len(here), array[kept], seen.outcome[here]))
            first += count
        good = [a for _, a, ended in found if len(a) and (ended == Outcome.OK).any()]
        if len({a.shape[1:] for a in good}) > 1:
            forms[name] = tuple((c, a) for c, a, _ in found)
        elif found:
            like = (good or [found[0][1]])[0]
            fit = [
                a if len(a) and (ended == Outcome.OK).any() else np.full((len(a), *like.shape[1:]), np.nan)
                for _, a, ended in found
            ]  # fmt: skip
            outputs[name] = np.concatenate(fit)
    return replace(
        seen, outcome=seen.outcome[at], outputs=outputs, forms=forms,
        features={n: a[rows] for n, a in seen.features.items()},
        trace_outputs={n: a[rows] for n, a in seen.trace_outputs.items()},
        latency_s=seen.latency_s[at],
        messages=tuple((list(at).index(i), text) for i, text in seen.messages if i in at),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_parts_taken_in_one_pass_are_those_taken_one_by_one(seed):
    rng = np.random.default_rng(seed)
    for _ in range(100):
        batch, seen = drawn(rng)
        owner = rng.integers(-1, 4, len(batch))
        parts = [np.flatnonzero(owner == k) for k in range(4)]
        parts = [at for at in parts if len(at)]
        found = observed_in_parts(batch, seen, parts)
        assert [told(one_by_one(batch, seen, at)) for at in parts] == [*map(told, found)]
        assert [told(observed_at(batch, seen, at)) for at in parts] == [*map(told, found)]


def test_every_request_is_in_one_part_and_each_part_has_one_shape():
    rng = np.random.default_rng(5)
    for _ in range(50):
        batch, seen = drawn(rng)
        pair = PairBatch(requests=batch, baseline=seen, candidate=drawn_like(batch, rng))
        parts = in_forms(pair)
        assert sorted(i for at, _, _ in parts for i in at.tolist()) == [*range(len(batch))]
        for at, part, _ in parts:
            assert part.requests.request_id.tolist() == batch.request_id[at].tolist()
            assert not part.baseline.forms
            assert not part.candidate.forms


def drawn_like(batch, rng):
    """Answers to each of the requests by itself."""
    return joined([piece([r], int(rng.integers(1, 4)), rng) for r in batch.rows.tolist()])


def test_the_steps_grow_with_the_batch_and_not_with_its_square():
    def steps(n):
        rng = np.random.default_rng(0)
        sides = [joined([piece([1], k, rng) for k in range(1, n + 1)]) for _ in range(2)]
        pair = PairBatch(requests=requests([1] * n), baseline=sides[0], candidate=sides[1])
        profile = cProfile.Profile()
        assert len(profile.runcall(in_forms, pair)) == n
        return sum(entry.callcount for entry in profile.getstats())

    assert steps(400) < 5 * steps(100)

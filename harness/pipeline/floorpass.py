"""The A/A leg: the baseline against itself, in other batches, on a random prefix of the traffic.

Whatever differs here is noise of the machine and the runtime. A tolerance that was assumed instead
of measured either hides a fault or raises an alarm about nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from harness.core.models import ModelGraph
from harness.core.observations import PairBatch
from harness.core.policies import Policy, Preset
from harness.core.tensors import Ints
from harness.core.traffic import RequestBatch
from harness.diff.floor import Floor, floor_from_json
from harness.diff.floor_builder import FloorBuilder
from harness.diff.probes import ProbeGuard
from harness.pipeline.legs_of_run import keep_answered
from harness.pipeline.noise import NoiseLevels, answers_vary
from harness.replay.asked import asked_by
from harness.replay.composition import cuts, joined, rows_of
from harness.replay.forms import in_forms
from harness.replay.legs import Leg
from harness.replay.order import Batch
from harness.store.runs import RunFolder

FLOOR_FILE = "floor.json"
FLOOR_REQUESTS = 20_000
SINGLE_REQUESTS = 1024
"""Requests that are run by themselves to see whether the batch is the cause of noise."""


def floor_of_run(
    run: RunFolder,
    first: Leg,
    second: Sequence[Leg],
    batches: Sequence[Batch],
    read: Callable[[Ints], RequestBatch],
    *,
    trace: bool,
    policy: Policy,
    fitted: Collection[str],
    random: Mapping[str, str],
    graph: ModelGraph,
    orders: Callable[[Floor, Leg], Floor] | None,
    heard: Callable[[int, int], None],
) -> Floor:
    """A run's noise floor, measured once: that of a noisy baseline is another one the next time.

    Args:
      run: keeps the floor, so that a resumed run goes on with it.
      first: the baseline in the run's batches.
      second: the baseline again, in a process of its own, which ends here; empty when the run has
        its floor.
      batches: the run's schedule.
      read: gives the requests at storage positions.
      trace: also compare feature tensors.
      policy: its guardrails' noise is measured in their own units; what it expects to change makes
        no request differ.
      fitted: tensors after fitted constants, which never make one differ.
      random: outputs and features that are computed from a random operator, and from which.
      graph: the baseline's, which says where nothing rounds and where float32 does.
      orders: adds what other orders of the baseline's sums move; None = the candidate does not earn it.
      heard: told (done, total) requests.
    """
    if run.has(FLOOR_FILE):
        return floor_from_json(run.read_json(FLOOR_FILE))
    with second[0] as again:
        floor = measure_floor(
            first,
            again,
            batches,
            read,
            trace=trace,
            policy=policy,
            fitted=fitted,
            random=random,
            graph=graph,
            heard=heard,
        )
    if orders is not None:
        floor = orders(floor, first)
    keep_answered(run, (first,))
    run.write_json(FLOOR_FILE, floor)
    return floor


def measure_floor(
    first: Leg,
    second: Leg,
    batches: Sequence[Batch],
    read: Callable[[Ints], RequestBatch],
    *,
    trace: bool,
    heard: Callable[[int, int], None],
    policy: Policy | None = None,
    fitted: Collection[str] = (),
    random: Mapping[str, str] | None = None,
    graph: ModelGraph | None = None,
) -> Floor:
    """Runs both baseline legs over the same requests and measures how far they differ.

    Where they differ, some requests are run again, each by itself in both legs. When nothing differs
    then, the batch was the cause: the legs are left with `singly` set, and the floor says so. Where it is
    the cause of rounding alone, which the measured tolerance allows for, the floor says that instead and
    requests share batches, unless the policy is about the bits. A version that returns sequences runs each
    request by itself from the start.

    Args:
      first: the baseline in the run's batches.
      second: the baseline again, in a process of its own, each batch cut in three.
      batches: the run's schedule; the prefix up to FLOOR_REQUESTS is used.
      read: gives the requests at storage positions.
      trace: also compare feature tensors.
      heard: told (done, total) requests.
      policy: as for `floor_of_run`; None where nothing is judged.
      fitted: as for `floor_of_run`.
      random: as for `floor_of_run`; they say nothing about the batch either.
      graph: as for `floor_of_run`; None = nothing is known.
    """
    second.same_as(first)
    most = list(prefix(batches, FLOOR_REQUESTS))
    in_pieces = Measured(policy, fitted, random, graph)
    in_pieces.run(first, second, most, read, cuts, trace=trace, heard=heard)
    floor = in_pieces.floor()
    if floor.silent or _gave_up(first, second) or first.singly:
        return floor
    first.singly = second.singly = True
    by_itself = Measured(policy, fitted, random, graph)
    few = list(prefix(batches, SINGLE_REQUESTS))
    by_itself.run(first, second, few, read, whole, trace=trace, heard=lambda *_: None)
    alone = by_itself.floor()
    company = alone.silent and not _gave_up(first, second)
    harmless = floor.rounding and not is_exact(policy) and not _varies(policy, floor)
    first.singly = second.singly = company and not harmless
    if first.singly:
        return replace(alone, batch_dependent=True)
    return replace(floor, batch_rounding=company)


def is_exact(policy: Policy | None) -> bool:
    """Whether a policy is about the bits: the same model, made another way."""
    return policy is not None and policy.preset is Preset.REFACTOR


def _varies(policy: Policy | None, floor: Floor) -> bool:
    """Whether rounding changed a decision that is judged."""
    return policy is not None and any(answers_vary(g, floor) for g in policy.guardrails)


class Measured:
    """One pass of both legs over some batches."""

    def __init__(
        self,
        policy: Policy | None,
        fitted: Collection[str],
        random: Mapping[str, str] | None,
        graph: ModelGraph | None,
    ) -> None:
        guardrails = policy.guardrails if policy else ()
        expected = {name for g in guardrails for name in g.expected_changes}
        self._builder = FloorBuilder(
            {*expected, *fitted},
            random,
            exact=graph.exact if graph else (),
            coarse=graph.coarse if graph else (),
        )
        self._levels = NoiseLevels(policy)
        self._guard = ProbeGuard()

    def run(
        self,
        first: Leg,
        second: Leg,
        batches: Sequence[Batch],
        read: Callable[[Ints], RequestBatch],
        cuts: Callable[[int], list[tuple[int, int]]],
        *,
        trace: bool,
        heard: Callable[[int, int], None],
    ) -> None:
        """Compares whole batches in the first leg with pieces of them in the second."""
        total = sum(len(b) for b in batches)
        done = 0
        old, new = asked_by(first), asked_by(second)
        for batch in batches:
            requests = read(batch.positions)
            pieces = [rows_of(requests, start, stop) for start, stop in cuts(len(requests))]
            old.submit(requests, trace=trace)
            for piece in pieces:
                new.submit(piece, trace=trace)
            whole, parts = old.collect(), [new.collect() for _ in pieces]
            for asked, answer in zip((requests, *pieces), (whole, *parts), strict=True):
                # Of requests that run by themselves, all together are no answer to the batch.
                if not first.singly or len(asked) == 1:
                    first.ledger.saw(asked, answer, by="floor")
            pair = PairBatch(requests=requests, baseline=whole, candidate=joined(parts))
            forms = in_forms(pair)
            for _, part, _ in forms:
                self._builder.update(part)
                self._levels.update(part, whole=len(forms) == 1)
            self._guard.update(pair)
            done += len(requests)
            # Before the next batch is asked: it would be one more in memory.
            del requests, pieces, pair, part, whole, parts, asked, answer
            heard(done, total)
            if first.ended or second.ended:
                return

    def floor(self) -> Floor:
        """What differed."""
        return replace(
            self._builder.finish(), levels=self._levels.finish(), probed_alike=self._guard.alike
        )


def prefix(batches: Sequence[Batch], requests: int) -> Iterator[Batch]:
    """The first batches of one window, until so many requests are reached."""
    count = 0
    window = batches[0].window if batches else ""
    for batch in batches:
        if batch.window != window:
            continue
        if count >= requests:
            return
        count += len(batch)
        yield batch


def whole(n: int) -> list[tuple[int, int]]:
    """A batch as it is, as `replay.composition.cuts` has it in pieces."""
    return [(0, n)]


def _gave_up(*legs: Leg) -> bool:
    return any(leg.ended for leg in legs)

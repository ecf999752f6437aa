"""Latency guardrails: a sample of the newest requests, replayed singly after everything else.

After, because no other process of the gate may compete for the machine meanwhile, and because a
candidate that is rolled back for its answers needs no stopwatch.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.core.policies import WindowName
from harness.core.tensors import Ints
from harness.core.traffic import RequestBatch
from harness.pipeline.evidence import RunningEvidence, latency_names
from harness.pipeline.opening import LegRecipe, open_versions
from harness.pipeline.prepare import Prepared
from harness.pipeline.progress import Listener, Progress
from harness.replay.latency import LatencyLog, measure_latency
from harness.replay.legs import Leg
from harness.sandbox.pool import Pool
from harness.store.windows import SealedWindow


def take_latency(
    prepared: Prepared,
    window: SealedWindow,
    evidence: RunningEvidence,
    recipes: tuple[LegRecipe, LegRecipe],
    *,
    legs: tuple[Leg, Leg],
    listener: Listener,
    pool: Pool,
) -> LatencyLog | None:
    """Measures latency where a guardrail asks for it, unless harm is proven already.

    Args:
      prepared: the run; its newest window's drawn order says which requests.
      window: what they are read from.
      evidence: takes the samples.
      recipes: both versions.
      legs: of both versions: what they are known to fail is not asked, and the candidate's ledger takes what else
        it does not answer.
      listener: hears progress.
      pool: processes that wait already.

    Returns:
      How the measurement went; None when none was needed.
    """
    if not latency_names(prepared.policy) or evidence.status().rollback:
        return None
    log = LatencyLog()
    done, total = 0, min(prepared.policy.latency.sample, _newest(prepared))
    with open_versions(*recipes, pool=pool) as (baseline, candidate):
        samples = measure_latency(
            baseline,
            candidate,
            _sample(prepared, window),
            seed=prepared.seed,
            input_names=recipes[1].input_names,
            log=log,
            ledger=legs[1].ledger,
            blamed=(legs[0].blamed, legs[1].blamed),
        )
        for sample in samples:
            evidence.take_latency(sample)
            done += len(sample)
            listener(Progress(stage="latency", done=min(done, total), total=total))
            if evidence.status().rollback:
                break
    return log


def _newest(prepared: Prepared) -> int:
    name = WindowName.NEWEST.value
    return sum(len(b) for b in prepared.batches if b.window == name)


def _sample(prepared: Prepared, window: SealedWindow) -> Iterator[tuple[Ints, RequestBatch]]:
    """The first requests of the newest window's drawn order, batch by batch."""
    left = prepared.policy.latency.sample
    for batch in prepared.batches:
        if batch.window == WindowName.NEWEST.value and left > 0:
            positions = batch.positions[:left]
            left -= len(positions)
            yield positions, window.read(positions)

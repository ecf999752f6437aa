"""The latency sample of a gate: some of the newest window's requests, replayed singly after the rest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from harness.core.observations import LatencySample
from harness.core.policies import WindowName
from harness.core.tensors import Ints
from harness.core.traffic import RequestBatch
from harness.pipeline.opening import LegRecipe, open_versions
from harness.pipeline.prepare import Prepared
from harness.pipeline.progress import Listener, Progress
from harness.replay.latency import LatencyLog, measure_latency
from harness.replay.order import generator
from harness.sandbox.pool import Pool

SAMPLE_BATCH = 250
"""Pairs between two looks."""


def latency_samples(
    prepared: Prepared,
    recipes: tuple[LegRecipe, LegRecipe],
    listener: Listener,
    *,
    pool: Pool | None = None,
    log: LatencyLog | None = None,
) -> Iterator[LatencySample]:
    """Measures both versions on a sample of the newest window, drawn from the run's seed.

    Args:
      prepared: the run; its policy says how many requests.
      recipes: of baseline and candidate.
      listener: hears progress.
      pool: processes that wait already.
      log: says afterwards how it went.

    Raises:
      SignatureError: the traffic lacks an input of a version.
      SandboxError: a process does not start at all.
    """
    positions = _sampled(prepared)
    done = 0
    with open_versions(*recipes, pool=pool) as (baseline, candidate):
        for sample in measure_latency(
            baseline, candidate, _read(prepared, positions), seed=prepared.seed,
            input_names=recipes[1].input_names, log=log,
        ):  # fmt: skip
            done = min(done + SAMPLE_BATCH, len(positions))
            listener(Progress(stage="latency", done=done, total=len(positions)))
            yield sample


def _sampled(prepared: Prepared) -> Ints:
    """Storage positions, in the order they are measured."""
    newest = [b.positions for b in prepared.batches if b.window == WindowName.NEWEST.value]
    every = np.concatenate(newest) if newest else np.empty(0, np.int64)
    drawn = generator(prepared.seed, "latency/sample").permutation(every)
    return drawn[: prepared.policy.latency.sample]


def _read(prepared: Prepared, positions: Ints) -> Iterator[tuple[Ints, RequestBatch]]:
    window = prepared.window
    if window is None:
        return
    for start in range(0, len(positions), SAMPLE_BATCH):
        part = positions[start : start + SAMPLE_BATCH]
        yield part, window.read(part)

"""What the legs know of their versions before the replay, kept: it decides the batches of a run, and its verdict.

A run that is gone on with asks neither the floor nor the company of requests again, and so would plan by
less than the interrupted one knew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from harness.core.jsonable import jsonable
from harness.core.tensors import Ints
from harness.core.traffic import RequestBatch
from harness.pipeline.read_back import read_back
from harness.replay.answered import answered_from_json
from harness.replay.blamed import without_blamed
from harness.replay.legs import Leg
from harness.store.runs import RunFolder

LEGS_FILE = "legs.json"
UNANSWERED_FILE = "unanswered.json"


def keep_answered(run: RunFolder, legs: Sequence[Leg]) -> None:
    """Writes what legs know; to be called before the file that says their step is done.

    Args:
      run: keeps it.
      legs: of the run's versions.
    """
    run.write_json(LEGS_FILE, {leg.name: jsonable(leg.answered) for leg in legs})


def recall_answered(run: RunFolder, legs: Sequence[Leg]) -> None:
    """Gives just opened legs what `keep_answered` kept; a leg that had no answer yet stays as it is.

    Args:
      run: with a floor.
      legs: of the run's versions.

    Raises:
      UsageError: the file is not what this version of harness writes.
    """
    if not run.has(LEGS_FILE):
        return
    saved = run.read_json(LEGS_FILE)
    with read_back(run.path, LEGS_FILE):
        for leg in legs:
            if leg.name in saved:
                leg.answered = answered_from_json(saved[leg.name])


def keep_unanswered(run: RunFolder, legs: Sequence[Leg]) -> None:
    """Goes on from what an interrupted run saw of versions that fail, and keeps from now on what is seen.

    At once, not step by step: a step that is done again may not see it again.

    Args:
      run: keeps it.
      legs: of the run's versions, just opened.

    Raises:
      UsageError: the file is not what this version of harness writes.
    """
    saved = run.read_json(UNANSWERED_FILE) if run.has(UNANSWERED_FILE) else {}
    with read_back(run.path, UNANSWERED_FILE):
        for leg in legs:
            if leg.name in saved:
                seen = saved[leg.name]
                leg.recall(flaky=int(seen["flaky"]), host_starved=int(seen["host_starved"]))
                leg.ledger.recall(seen["unanswered"], seen["together"])
                leg.blamed.recall(seen["blamed"])
    for leg in legs:
        leg.ledger.noted = partial(_write_unanswered, run, legs)


def sound_only(
    read: Callable[[Ints], RequestBatch], legs: Sequence[Leg]
) -> Callable[[Ints], RequestBatch]:
    """Reads requests for questions beside the replay: without those that a version is known to fail.

    Each would spoil the answers of the batch that it shares, and nothing about it is asked.

    Args:
      read: gives the requests at storage positions.
      legs: of the run's versions.
    """

    def sound(positions: Ints) -> RequestBatch:
        return without_blamed(read(positions), [leg.blamed for leg in legs])

    return sound


def _write_unanswered(run: RunFolder, legs: Sequence[Leg]) -> None:
    # Legs that were opened later write the same file.
    others = run.read_json(UNANSWERED_FILE) if run.has(UNANSWERED_FILE) else {}
    seen = {
        leg.name: {
            "flaky": leg.counters().flaky,
            "host_starved": leg.counters().host_starved,
            "unanswered": jsonable(leg.ledger.entries),
            "together": leg.ledger.together,
            "blamed": leg.blamed.kept(),
        }
        for leg in legs
    }
    run.write_json(UNANSWERED_FILE, {**others, **seen})

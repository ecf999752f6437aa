"""What the legs know of their versions before the replay, kept: it decides the batches of a run.

A run that is gone on with asks neither the floor nor the company of requests again, and so would plan by
less than the interrupted one knew.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.jsonable import jsonable
from harness.pipeline.read_back import read_back
from harness.replay.answered import answered_from_json
from harness.replay.legs import Leg
from harness.store.runs import RunFolder

LEGS_FILE = "legs.json"


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

"""Whether the baseline answers enough of a window for the rest to stand for the traffic.

What it fails is not missing by chance. What both versions' runtimes refuse may be the traffic's own fault, so a
twentieth of a window may be lost to it together with what the baseline fails; more is not the traffic either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.core.counted import counted
from harness.decide.facts import BaselineFailures
from harness.decide.integrity import MOST_LOST, Unfit, percent


@dataclass(frozen=True, slots=True, kw_only=True)
class Lacking:
    """A window with too few answers of the baseline."""

    window: str
    """newest or matured."""
    unfit: Unfit
    """What is said of it."""


def lacking_answers(failures: Sequence[BaselineFailures], most: float) -> Lacking | None:
    """The worst window that lacks too many answers of the baseline; None where each has enough.

    Args:
      failures: of the windows that a deciding guardrail reads.
      most: share that the policy accepts, in [0, 1].
    """
    lost = [found for found in failures if found.failed > most * found.asked]
    if not lost:
        most = max(most, MOST_LOST)
        lost = [f for f in failures if f.failed + f.refused > most * (f.asked + f.refused)]
    if not lost:
        return None
    worst = max(lost, key=lambda f: (f.failed + f.refused) / (f.asked + f.refused))
    return Lacking(
        window=worst.window,
        unfit=Unfit(
            reason="baseline_fails",
            explanation=f"{_said(worst)}, and at most {100 * most:g} % may be missing: the versions are compared "
            "on the rest alone, which is not the traffic.",
            settle="Find out why (findings, where baseline): where production answers these requests, replay with "
            "what it has (runtime, memory, inputs); answers without a row for each row of the inputs are compared "
            "in copies of both versions that return such outputs with one, or without them. Where requests fail in "
            "production, too, leave them out, or, where the candidate is to mend that, let "
            "`most_baseline_failures` in the policy accept a larger share.",
        ),
    )


def enough_counted(failures: Sequence[BaselineFailures], most: float, alpha: float) -> bool:
    """Whether it no longer depends on where a run stops what `lacking_answers` says of it.

    A likelihood ratio against half, or twice, the share that is accepted: a test that may be looked at after
    every batch. Near that share it never tells, and the whole window is counted.

    Args:
      failures: so far, of the windows in which something is missing.
      most: share that the policy accepts, in [0, 1].
      alpha: P(told, and wrongly so) is at most this, for each window.
    """
    both = max(most, MOST_LOST)
    return all(
        _known(f.failed, f.asked, most, alpha)
        and _known(f.failed + f.refused, f.asked + f.refused, both, alpha)
        for f in failures
    )


def _known(lost: int, asked: int, most: float, alpha: float) -> bool:
    """Whether a share is proven to be below or above `most`, or needs no proof: nothing is lost, or nothing or all may be."""
    if not lost or most in (0.0, 1.0):
        return True
    wanted = math.log(1.0 / alpha)
    for other in (most / 2, min(2 * most, (1 + most) / 2)):
        kept = (asked - lost) * math.log((1 - other) / (1 - most))
        if lost * math.log(other / most) + kept >= wanted:
            return True
    return False


def _said(found: BaselineFailures) -> str:
    """How much is missing."""
    refused, asked = found.refused, found.asked + found.refused
    share = percent(refused, asked)
    if not found.failed:
        whole = f"{counted(asked)} of the {found.window} window ({share})"
        return f"Both versions refuse {refused:,} of {whole}"
    both = f", {found.both:,} of which the candidate fails, too," if found.both else ""
    beside = f", both versions refuse {counted(refused)} besides ({share} of all)"
    return (
        f"The baseline fails {found.failed:,} of {counted(found.asked)} of the {found.window} window{both} "
        f"({percent(found.failed, found.asked)}){beside if refused else ''}"
    )

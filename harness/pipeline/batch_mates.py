"""Whether a version's answers change with the requests that share their batch.

The A/A leg asks this of the baseline. A candidate that mixes the requests of a batch while the baseline
does not would be judged on answers that production, which serves single requests, never gives: it is
asked on the first requests, in its own leg. Then a sample of requests runs alone in every version.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.jsonable import jsonable
from harness.core.policies import LATENCY_METRICS, Policy
from harness.core.tensors import Ints
from harness.core.traffic import RequestBatch
from harness.diff.floor import Floor
from harness.pipeline.alone import Alone, alone_from_json, run_alone
from harness.pipeline.company import Company, company
from harness.pipeline.legs_of_run import keep_answered
from harness.replay.legs import Leg
from harness.replay.order import Batch, generator
from harness.store.runs import RunFolder

BATCH_MATES_FILE = "batch_mates.json"
_APART = {
    True: "returns sequences or optionals, which are about a batch and not about its rows",
    False: "takes batches of a fixed size only",
}
"""By whether a version returns such: why no batch says what it answers to one request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixing:
    """Versions whose answers depend on the batch, and how many requests were run alone to see it."""

    answers: tuple[str, ...] = ()
    """Names of those that it changes by more than rounding, or, where parts of batches show it and bits
    count, at all: every request runs by itself."""
    rounding: tuple[str, ...] = ()
    """Of those that it changes by rounding alone: requests share batches."""
    alone: tuple[Alone, ...] = ()
    """What requests got alone, by version; empty where each runs by itself anyway."""

    @property
    def unshown(self) -> tuple[str, ...]:
        """Of those of which nothing shows that it changes none: every request runs by itself, too."""
        return tuple(one.role for one in self.alone if one.differ is Company.UNSHOWN)


def mixing_of_run(
    run: RunFolder,
    floor: Floor,
    legs: Sequence[Leg],
    batches: Sequence[Batch],
    read: Callable[[Ints], RequestBatch],
    *,
    exact: bool,
    seed: int,
    most: float = 0.0,
) -> Mixing:
    """`mixing_of` a run; asked once, as a resumed run must not change.

    Args:
      run: keeps the answer.
      floor: what the A/A leg showed of the baseline.
      legs: every version, the baseline first, with nothing in flight.
      batches: the run's schedule.
      read: gives the requests at storage positions.
      exact: bits count.
      seed: the run's.
      most: share of other answers that may escape where some batches fail.
    """
    if run.has(BATCH_MATES_FILE):
        saved = run.read_json(BATCH_MATES_FILE)
        return Mixing(
            answers=tuple(saved["answers"]),
            rounding=tuple(saved["rounding"]),
            alone=tuple(alone_from_json(part) for part in saved.get("alone", ())),
        )
    found = mixing_of(floor, legs, batches, read, exact=exact, seed=seed, most=most)
    keep_answered(run, legs)
    run.write_json(BATCH_MATES_FILE, found)
    return found


def mixing_of(
    floor: Floor,
    legs: Sequence[Leg],
    batches: Sequence[Batch],
    read: Callable[[Ints], RequestBatch],
    *,
    exact: bool,
    seed: int,
    most: float = 0.0,
) -> Mixing:
    """Which versions' answers depend on the batch; of a baseline's that do in the A/A leg, no other is asked.

    Nor is any where a version takes no batch of several requests: each runs by itself then, in all of them.

    Args:
      floor: what the A/A leg showed of the baseline.
      legs: every version, the baseline first, then the candidate, with nothing in flight.
      batches: the schedule.
      read: gives the requests at storage positions.
      exact: bits count.
      seed: draws the requests that are run alone.
      most: share of other answers that may escape where some batches fail.
    """
    if floor.batch_dependent:
        return Mixing(answers=("baseline",))
    if any(leg.apart for leg in legs):
        return Mixing()
    random = dict(floor.random)
    asked = {leg.name: company(leg, batches, read, random) for leg in legs[1:]}
    answers = {
        n for n, c in asked.items() if c is Company.ANSWERS or (exact and c is not Company.NOTHING)
    }
    alone: list[Alone] = []
    if not answers:
        alone = [
            run_alone(
                leg, batches, read, generator(seed, "alone"), most=most, steady=leg is legs[1]
            )
            for leg in legs
            if not leg.singly
        ]
    answers |= {one.role for one in alone if one.differ is Company.ANSWERS}
    rounding = {n for n, c in asked.items() if c is Company.ROUNDING}
    rounding |= {one.role for one in alone if one.differ is Company.ROUNDING}
    rounding |= {legs[0].name} if floor.batch_rounding else set()
    names = [leg.name for leg in legs]
    return Mixing(
        answers=tuple(n for n in names if n in answers),
        rounding=tuple(n for n in names if n in rounding - answers),
        alone=tuple(alone),
    )


def share_within_margins(policy: Policy) -> float:
    """Share of answers that may be any others without a mean that leaves its margin.

    Args:
      policy: each of its deciding guardrails has a margin for a mean of bounded values.
    """
    judged = [g for g in policy.guardrails if g.gating and g.metric not in LATENCY_METRICS]
    margins = [(min(g.margin, g.slice_margin or g.margin), g.bounds()) for g in judged]
    return min((margin / (hi - lo) for margin, (lo, hi) in margins), default=0.0)


def together(legs: Sequence[Leg], mixing: Mixing) -> bool:
    """Puts all legs into one composition: by itself each request where any version asks for it.

    Args:
      legs: every version.
      mixing: versions whose answers depend on the batch, as far as is shown.

    Returns:
      Whether each request runs by itself, as recorded.
    """
    by_itself = bool(mixing.answers or mixing.unshown) or any(leg.apart for leg in legs)
    for leg in legs:
        leg.singly = by_itself
    return by_itself


def composition(legs: Sequence[Leg], mixing: Mixing) -> dict[str, Any]:
    """For `manifest.json`, once `together` has decided: how requests ran, why, and what showed it.

    Args:
      legs: every version.
      mixing: as for `together`.
    """
    by_itself = any(leg.singly for leg in legs)
    return {
        "composition": "recorded" if by_itself else "coalesced",
        "composition_why": "; ".join(_reasons(legs, mixing) or [_sharing(mixing)]),
        "alone": [jsonable(one) | {"said": one.to_text()} for one in mixing.alone],
    }


def _reasons(legs: Sequence[Leg], mixing: Mixing) -> list[str]:
    """Why each request runs by itself, a sentence a version; [] where requests share batches."""
    return [
        *(f"the {leg.name} {_APART[leg.whole]}" for leg in legs if leg.apart),
        *(f"what the {name} answers to a request depends on its batch" for name in mixing.answers),
        *(
            f"nothing shows that batches leave the {name}'s answers as they are, since too few were "
            "answered or the answers change from run to run"
            for name in mixing.unshown
        ),
    ]


def _sharing(mixing: Mixing) -> str:
    """What lets requests share batches."""
    rounding = f", but for rounding ({', '.join(mixing.rounding)})" * bool(mixing.rounding)
    return f"no answer was seen to depend on the batch of its request{rounding}"

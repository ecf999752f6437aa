"""Whether the traffic and its labels are whole enough to carry a decision.

One rule holds for all that shows nothing of the versions: what was not recorded, what cannot be replayed, and
what is replayed and has no row to compare.

What is missing is never missing by chance: requests that cannot be read are the unusual ones, labels
that are not there are those of one outcome (only the complaints are entered, only the late flights are
filed). A test over the rest is valid for the rest, and says nothing about what is asked. A few are
tolerated and told; above the shares below the answer is HOLD, whatever the evidence says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.core.verdicts import Evidence, Status
from harness.decide.facts import LabelFacts, TrafficFacts

MOST_LOST = 0.05
"""Share of the recorded exchanges that may be impossible to replay."""
LEAST_LABELLED = 0.9
"""Share of the requests that should have a label which must have one in time.

Nine in ten of the positive labels left out is a quarter of all labels, and let a candidate that is
proven worse with all of them pass. Sources that are merely late have far more: of the example flights
97 % have a label, the others never took off."""

_REASONS_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfit:
    """Why the traffic or its labels carry no decision."""

    reason: str
    """Stable word: traffic_integrity or labels_incomplete."""
    explanation: str
    """A sentence with the counts."""
    settle: str
    """What would mend it."""


def unfit_traffic(traffic: TrafficFacts) -> Unfit | None:
    """Too much of the recording cannot be replayed, or asks for nothing; None when it is whole enough."""
    if traffic.lost > MOST_LOST * traffic.recorded:
        return _not_replayable(traffic)
    served = traffic.recorded + traffic.unrecorded
    if traffic.lost + traffic.unrecorded + traffic.without_rows <= MOST_LOST * served:
        return None
    if traffic.without_rows > traffic.unrecorded:
        return _mostly_empty(traffic, served)
    missing = [*traffic.not_sealed, *traffic.not_recorded]
    return Unfit(
        reason="traffic_integrity",
        explanation=(
            f"Of {served:,} requests that the recorder should have kept {traffic.unrecorded:,} were not "
            f"recorded and {traffic.lost:,} cannot be replayed ({reasons(missing)}): more than "
            f"{100 * MOST_LOST:g} %, and what is left is no fair sample of production."
        ),
        settle="Give the recorder what these reasons ask for, and record again into a new folder.",
    )


def _mostly_empty(traffic: TrafficFacts, served: int) -> Unfit:
    bare = ("they have no row", traffic.without_rows)
    missing = [bare, *traffic.not_sealed, *traffic.not_recorded]
    left = traffic.sealed - traffic.without_rows
    return Unfit(
        reason="traffic_integrity",
        explanation=(
            f"{left:,} of {served:,} requests had rows and could be replayed: nothing is compared in the others "
            f"({reasons(missing)}), and at most {100 * MOST_LOST:g} % may be like that."
        ),
        settle="Leave requests without rows out of what is given, or give more requests that have rows.",
    )


def _not_replayable(traffic: TrafficFacts) -> Unfit:
    share = (
        f"none of the {traffic.recorded:,} recorded exchanges could be sealed"
        if not traffic.sealed
        else f"{traffic.lost:,} of the {traffic.recorded:,} recorded exchanges "
        f"({percent(traffic.lost, traffic.recorded)}) could not be sealed"
    )
    return Unfit(
        reason="traffic_integrity",
        explanation=(
            f"{share[0].upper()}{share[1:]} ({reasons(traffic.not_sealed)}), and at most "
            f"{100 * MOST_LOST:g} % may be lost: what is left is no fair sample of production."
        ),
        settle="Repair the recorder or the export, as these reasons say, and record again.",
    )


def unfit_labels(labels: LabelFacts | None) -> Unfit | None:
    """Labels that belong to nothing, or to too few of the requests that should have one.

    Without any label in the files there is nothing to be misled by: that is an empty window.
    """
    if labels is None:
        return None
    if labels.unknown and not labels.matched:
        return Unfit(
            reason="labels_incomplete",
            explanation=(
                f"{labels.unknown:,} labels were known at that time, and the request id of none of "
                "them matches a recorded request."
            ),
            settle=(
                "Import the labels of this traffic, under the request ids that the recorder wrote "
                "(`harness traffic show` counts the matches)."
            ),
        )
    if labels.labelled and labels.one_value:
        return Unfit(
            reason="labels_incomplete",
            explanation=(
                f"All {labels.labelled:,} labels that count say the same, though the baseline's answers "
                "differ: a loss over one outcome rewards whoever leans to it."
            ),
            settle="Import the labels of every outcome, or a longer window where one of them is rare.",
        )
    if not labels.labelled or labels.labelled >= LEAST_LABELLED * labels.eligible:
        return None
    return Unfit(
        reason="labels_incomplete",
        explanation=(
            f"Only {labels.labelled:,} of the {labels.eligible:,} requests that are old enough "
            f"({percent(labels.labelled, labels.eligible)}) have a label in time, and at least "
            f"{100 * LEAST_LABELLED:g} % must: labels that are missing may well differ from the others."
        ),
        settle=(
            "Import the missing labels, those of every outcome; raise windows.matured.maturity if "
            "they arrive later than that."
        ),
    )


def harm_without_labels(labels: LabelFacts, status: Status, evidence: Sequence[Evidence]) -> bool:
    """Whether harm is proven by the guardrails that need no labels, all others counting as zero.

    The weighted average stays an e-value when terms are left out, so the error rate holds.
    """
    if not status.rollback:
        return False
    rest = sum(e.weight * e.e_rollback for e in evidence if e.gating and e.window != labels.window)
    return rest >= 1.0 / status.alpha_rollback


def percent(part: int, whole: int) -> str:
    """A share of a whole, to a tenth of a percent."""
    return f"{100.0 * part / whole:.1f} %"


def reasons(counts: Sequence[tuple[str, int]]) -> str:
    """The most frequent reasons with their counts."""
    ranked = sorted(counts, key=lambda pair: (-pair[1], pair[0]))
    shown = [f"{count:,}: {reason}" for reason, count in ranked[:_REASONS_SHOWN]]
    left = sum(count for _, count in ranked[_REASONS_SHOWN:])
    return "; ".join([*shown, *([f"{left:,}: other reasons"] if left else [])])

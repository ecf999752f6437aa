"""The lineage's anchor: a fixed old version that no chain of small losses may leave behind.

Each release is compared with the one before it, and a release that is 0.8 margin worse is within
its margin. Ten of them lose eight margins, and every gate was right. A guardrail against an anchor,
a version that stays the same over many releases, has a margin for the sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.core.errors import PolicyError
from harness.core.policies import METRIC_BOUNDS, Direction, Guardrail

SUFFIX = "@anchor"
"""What an anchor guardrail's name ends with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What one gate of the lineage has shown about one guardrail."""

    version: str
    """Candidate that was promoted."""
    lower: float
    """Confidence sequence of candidate − its own baseline, at the end."""
    upper: float
    """Upper end."""
    error: float
    """P(the interval ever misses the mean), α_P + α_R of its attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Where a lineage may be, relative to its anchor."""

    lower: float
    """Sum of lower ends."""
    upper: float
    """Sum of upper ends."""
    error: float
    """P(the sum is outside), at most 1, by the union bound."""
    releases: int
    """Releases since the anchor."""


def anchored(guardrail: Guardrail, cumulative_margin: float) -> Guardrail:
    """The same guardrail against the anchor; its observations are candidate − anchor.

    Args:
      guardrail: against the baseline.
      cumulative_margin: largest tolerated mean of candidate − anchor, from the guardrail's own
        margin up to below its upper bound.

    Returns:
      A gating guardrail named …@anchor, without slices. It is one test more in the intersection for
      promotion and in the average for rollback.

    Raises:
      PolicyError: a margin outside its range.
    """
    hi = METRIC_BOUNDS[guardrail.metric][1]
    if not guardrail.margin <= cumulative_margin < hi:
        what = f"cumulative margin {cumulative_margin:g} is not in [{guardrail.margin:g}, {hi:g})"
        raise PolicyError(
            f"guardrail {guardrail.name}, anchor", what, "Use about two of its margins."
        )
    return replace(
        guardrail,
        name=guardrail.name + SUFFIX,
        margin=cumulative_margin,
        effect=None,
        slice_by=(),
        slice_margin=None,
        gating=True,
    )


def drift(releases: Sequence[Release]) -> Drift:
    """Adds up a lineage without an anchor leg: how far it may have gone.

    Means of differences add along a chain only over the same traffic; over changing traffic this is
    a warning, and the anchor guardrail is the proof.

    Args:
      releases: since the anchor, oldest first; may be empty.
    """
    return Drift(
        lower=math.fsum(release.lower for release in releases),
        upper=math.fsum(release.upper for release in releases),
        error=min(1.0, math.fsum(release.error for release in releases)),
        releases=len(releases),
    )


def may_have_left(found: Drift, direction: Direction, cumulative_margin: float) -> bool:
    """Whether a lineage can no longer be shown to be within its cumulative margin.

    Args:
      found: from `drift`.
      direction: which side is harm.
      cumulative_margin: > 0.
    """
    above, below = found.upper > cumulative_margin, found.lower < -cumulative_margin
    match direction:
        case Direction.INCREASE:
            return above
        case Direction.DECREASE:
            return below
        case Direction.BOTH:
            return above or below

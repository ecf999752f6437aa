"""What the labels say once all of them are in: was a verdict right?

Replays every labelled request, not only those that a gate needed, and compares losses. A plain
interval (statsmodels) is enough here: nobody decides by it, and it is looked at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.core.errors import GateError
from harness.core.policies import DecisionRule
from harness.core.tensors import Bools, Floats
from harness.judge.answers import scores
from harness.pipeline.opening import LegRecipe, open_legs
from harness.replay.forms import in_forms
from harness.replay.order import Batch
from harness.replay.pairs import replay_pairs
from harness.store.windows import SealedWindow

_BATCH = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class TrueLoss:
    """One candidate's loss against the baseline's in one span of time."""

    candidate: str
    span: str
    n: int
    """Labelled requests that both answered."""
    baseline_brier: float
    candidate_brier: float
    difference: float
    """Candidate − baseline."""
    lower: float
    """95 % interval of the difference (paired t)."""
    upper: float


def true_losses(
    window: SealedWindow,
    label: Floats,
    spans: Sequence[tuple[str, Bools]],
    recipes: tuple[LegRecipe, LegRecipe],
    rule: DecisionRule,
    candidate: str,
) -> list[TrueLoss]:
    """Brier scores of both versions over all labelled requests.

    Args:
      window: the sealed traffic.
      label: y by storage position, NaN without a label, shape (n,).
      spans: (name, storage positions in it) to report on.
      recipes: baseline's and candidate's legs.
      rule: which output is the score.
      candidate: its name in the table.

    Raises:
      GateError: a version does not load.
    """
    labelled = np.flatnonzero(~np.isnan(label))
    old: Floats = np.full(len(label), np.nan)
    new: Floats = np.full(len(label), np.nan)
    batches = [
        Batch(index=k, window="all", order=labelled[i : i + _BATCH])
        for k, i in enumerate(range(0, len(labelled), _BATCH))
    ]
    with open_legs(*recipes) as (baseline, leg):
        for role in (baseline, leg):
            if role.ended:
                raise GateError(role.name, role.ended, "Run harness doctor.")
        source = ((b, window.read(b.positions)) for b in batches)
        for batch, pair in replay_pairs(baseline, leg, source, trace=False):
            for at, part, _ in in_forms(pair):
                seen = scores(part, rule)
                owner, positions = part.row_owner(), batch.positions[at]
                y = label[positions][owner]
                counts = np.maximum(part.requests.rows, 1)
                for side, into in ((seen.baseline, old), (seen.candidate, new)):
                    loss = np.bincount(owner, weights=(side - y) ** 2, minlength=len(part))
                    into[positions] = loss / counts
    return [_row(candidate, name, old[inside], new[inside]) for name, inside in spans]


def _row(candidate: str, span: str, old: Floats, new: Floats) -> TrueLoss:
    from statsmodels.stats.weightstats import DescrStatsW

    both = ~(np.isnan(old) | np.isnan(new))
    difference = new[both] - old[both]
    lower, upper = DescrStatsW(difference).tconfint_mean() if both.sum() > 1 else (np.nan, np.nan)
    return TrueLoss(
        candidate=candidate,
        span=span,
        n=int(both.sum()),
        baseline_brier=float(old[both].mean()) if both.any() else np.nan,
        candidate_brier=float(new[both].mean()) if both.any() else np.nan,
        difference=float(difference.mean()) if both.any() else np.nan,
        lower=float(lower),
        upper=float(upper),
    )

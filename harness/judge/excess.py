"""Flips beyond the noise of two nondeterministic versions.

Where a version does not always agree with itself, some flips between versions are noise. With each
version run twice,

    x = 1[new ≠ old] − ½·(1[old ≠ old′] + 1[new ≠ new′])

has, for two classes, the mean E(p − q)² of the two versions' chances p and q of a positive decision on
the same request: 0 exactly where they behave alike, and the plain flip rate where both are
deterministic. Subtracting only the baseline's noise was left out: a candidate that is steadier than
the baseline then hides real flips (1.5 % of them under the noise of 3 %).
"""

from __future__ import annotations

import numpy as np

from harness.core.errors import GateError
from harness.core.tensors import Floats


def excess_flips(
    flip: Floats, baseline_flip: Floats | None, candidate_flip: Floats | None
) -> Floats:
    """One value a request, in {−1, −½, 0, ½, 1} (means of them where requests carry rows).

    Args:
      flip: new ≠ old, in [0, 1], shape (n,); NaN = the candidate failed where the baseline answered.
      baseline_flip: old ≠ old′ of the same requests; NaN = the repetition failed.
      candidate_flip: new ≠ new′ of the same requests; NaN = the repetition failed.

    Returns:
      Shape (n,), in [−1, 1]; NaN where any part is: such a request failed, and counts as the worst
      for either answer.

    Raises:
      GateError: a repetition is missing, lengths differ, or a value lies outside [0, 1].
    """
    if baseline_flip is None or candidate_flip is None:
        which = "baseline's" if baseline_flip is None else "candidate's"
        raise GateError(
            "judge, excess_flips", f"the {which} repetition is missing",
            "Run both versions twice: a one-sided floor hides real flips.",
        )  # fmt: skip
    parts = np.stack(_same_length(flip, baseline_flip, candidate_flip))
    if np.any((parts < 0.0) | (parts > 1.0)):
        raise GateError("judge, excess_flips", "a flip outside [0, 1]", "Report this.")
    return np.asarray(parts[0] - 0.5 * (parts[1] + parts[2]), np.float64)


def ratio_values(y: Floats, w: Floats, r: float) -> Floats:
    """Y − r·W: its mean is above 0 exactly where ΣY/ΣW is above r, for W ≥ 0.

    The ratio of sums (per click, per token, per row) is what production means by a rate whose
    denominator varies; the mean of Y/W is another quantity.

    Args:
      y: numerators, shape (n,).
      w: denominators, each ≥ 0, shape (n,).
      r: the tolerated ratio, ≥ 0 and finite.

    Raises:
      GateError: lengths differ, a negative denominator or a ratio without meaning.
    """
    if not 0.0 <= r < np.inf:
        raise GateError("judge, ratio", f"a ratio of {r:g}", "It must be 0 or above.")
    y, w = _same_length(y, w)
    if np.any(w < 0.0):
        raise GateError("judge, ratio", "a denominator below 0", "Denominators count something.")
    return np.asarray(y - r * w, np.float64)


def _same_length(*columns: Floats) -> list[Floats]:
    found = [np.asarray(column, np.float64) for column in columns]
    if len({len(column) for column in found}) != 1:
        what = f"columns of {', '.join(str(len(column)) for column in found)} values"
        raise GateError("judge", what, "Report this: they must belong to the same requests.")
    return found

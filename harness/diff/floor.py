"""How far the baseline differs from itself: the noise floor, from the A/A leg.

The same requests go through the baseline twice with another batch split. What differs then is
noise of the runtime (summation order, random operators), never the candidate's doing. The first
rows of the same prefix fix each column's scale, so that later verdicts are predictable.

Two things come of it. The tolerance that the candidate gets, which noise widens. And the share of
requests in which the baseline itself would count as different, held to the tolerance that a quiet
baseline gets: noise must not be judged by the tolerance that it has widened. (Counting only what no
tolerance excuses gave a share of 0 to a score with noise of ±0.2, and any candidate passed.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from harness.core.tensors import Floats
from harness.diff.any_size import any_size
from harness.diff.columns import Keys, numbered
from harness.diff.distance import FLOOR_FACTOR

SWALLOWED = 0.01
"""A tolerance beyond this part of the scale hides faults that matter: it proves no parity."""
ROUNDED = 1e-4
"""The most that the order of sums may explain: beyond it lie float16, float8 and jumps, which no measure tells from
swapped weights. (Tried and left: eight times what was measured up to a hundredth of the scale, twice beyond.)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherOrders:
    """The baseline with its sums in other orders, for a candidate that holds the same numbers otherwise arranged."""

    count: int = 0
    """Orders that were measured."""
    requests: int = 0
    """Requests that each was measured on."""
    problem: str = ""
    """Why none was, though the candidate holds the same numbers; "" = that is not so, or it was measured."""
    proven: bool = False
    """The graphs compute the same but for the order of sums, as undoing the arrangement shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WideFloor:
    """The measures of every column of a wide tensor; the floor itself says what is largest among them."""

    scale: tuple[float, ...]
    """As `ColumnFloor.scale`."""
    typical: tuple[float, ...]
    """As `ColumnFloor.typical`."""
    relative: tuple[float, ...]
    """As `ColumnFloor.relative`."""
    own: tuple[float, ...]
    """The scales without that part of a loan that rounding hardly takes up."""
    ordered: tuple[float, ...] = ()
    """As `ColumnFloor.ordered`; () = none is."""
    labels: Keys = ()
    """Names of the columns; () = they are numbered."""
    whole: tuple[float, ...] = ()
    """As `ColumnFloor.whole`; () = none is."""

    def of(self, labels: Keys) -> Floats:
        """(scale, typical scale, noise, own scale, whole) of these columns, shape (5, c); 0 for one not known."""
        whole = self.whole or (0.0,) * len(self.scale)
        found = np.array(
            [self.scale, self.typical, self.relative, self.own, whole], dtype=np.float64
        )
        found[2] = noise_of(found[2], self.ordered or np.zeros(len(self.scale)))
        known = self.names()
        if known == labels:
            return found
        place = {label: i for i, label in enumerate(known)}
        found = np.pad(found, ((0, 0), (0, 1)))
        return found[:, [place.get(label, -1) for label in labels]]

    def names(self) -> Keys:
        """The columns' labels."""
        return self.labels or numbered(len(self.scale))


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFloor:
    """One column of the baseline against itself, or all of a wide tensor."""

    name: str
    """As shown: tensor, or tensor[column]."""
    tensor: str
    """Baseline's tensor."""
    column: str
    """Column label; "" for a flat or wide tensor."""
    largest: float
    """Largest finite |difference| between the two A/A legs."""
    relative: float
    """Largest finite |difference| relative to what the rows' verdicts are relative to; also of sums in other orders,
    where it is proven that nothing else is between the versions."""
    scale: float
    """`robust_scale` of the first rows."""
    rows: int
    """Rows compared."""
    mismatch_share: float
    """Share of rows that differ by more than the base tolerance, or are NaN or infinite on one side only."""
    nondeterministic: bool
    """The column differs from run to run by more than rounding."""
    unprovable: bool
    """So much so that the tolerance for the candidate is beyond `SWALLOWED`."""
    typical: float = np.inf
    """`typical_scale` of the first rows."""
    wide: WideFloor | None = None
    """The columns of a wide tensor one by one."""
    whole: float = 0.0
    """Whole numbers below it are counted, and no rounded ones: see `whole_numbers`; 0 = none are."""
    own: float = np.inf
    """As `WideFloor.own`; what is above the scale is the scale."""

    ordered: float = 0.0
    """Largest relative difference from itself that the baseline shows when its sums go in another order, as
    measured; 0 = none, or it was not measured. No noise: the baseline as it is never shows it."""

    @property
    def noise(self) -> float:
        """Relative difference that the baseline's own noise and the order of its sums explain."""
        return float(noise_of(self.relative, self.ordered))

    def tolerance(self, base: float) -> float:
        """Relative tolerance for the candidate: max(8 × floor, base)."""
        return max(self.noise, base)


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """The noise floor of one baseline."""

    outputs: tuple[ColumnFloor, ...] = ()
    """Per output column."""
    features: tuple[ColumnFloor, ...] = ()
    """Per traced column."""
    requests: int = 0
    """Requests both A/A legs answered."""
    output_mismatch_share: float = 0.0
    """Share of requests whose counted outputs differ between two runs of the baseline."""
    feature_mismatch_share: float = 0.0
    """The same for traced tensors."""
    levels: tuple[tuple[str, float], ...] = ()
    """(guardrail, mean |value| of the baseline against itself), for scores, losses and decisions."""

    batch_dependent: bool = False
    """The baseline's answers change with the batch, and with nothing else: the figures are those of
    requests run by themselves."""
    batch_rounding: bool = False
    """They change with the batch by rounding alone, within the tolerance: the figures are of batches."""
    random: tuple[tuple[str, str], ...] = ()
    """(output or feature, who makes it by chance) of either version: no two runs agree on these, so nothing
    is compared there, and their noise excuses nothing."""
    orders: OtherOrders | None = None
    """None = the candidate holds other numbers, or the same ones as the baseline has them, or neither sums over any."""
    probed_alike: bool = False
    """Reading features changed no bit of its answers; False also where none were read."""

    @property
    def silent(self) -> bool:
        """Whether nothing differed at all, bit for bit."""
        return not any(c.largest or c.mismatch_share for c in self._steady())

    @property
    def rounding(self) -> bool:
        """Whether something differed, and nothing by more than rounding."""
        return not self.silent and not any(c.nondeterministic for c in self._steady())

    def _steady(self) -> list[ColumnFloor]:
        """The columns that no random operator is before."""
        random = dict(self.random)
        return [c for c in (*self.outputs, *self.features) if c.tensor not in random]

    def noisy(self) -> list[ColumnFloor]:
        """Columns in which the baseline differs from itself, and no random operator says why."""
        return [c for c in self._steady() if c.nondeterministic]

    def level(self, guardrail: str) -> float:
        """A guardrail's noise in its own unit; 0 where it was not measured."""
        return dict(self.levels).get(guardrail, 0.0)


def floor_from_json(value: Mapping[str, Any]) -> Floor:
    """Reads what `core.jsonable` made of a Floor."""
    columns = {
        group: tuple(_column_from_json(column) for column in value[group])
        for group in ("outputs", "features")
    }
    return Floor(
        outputs=columns["outputs"],
        features=columns["features"],
        requests=value["requests"],
        output_mismatch_share=float(value["output_mismatch_share"]),
        feature_mismatch_share=float(value["feature_mismatch_share"]),
        levels=tuple((str(name), float(level)) for name, level in value["levels"]),
        batch_dependent=bool(value.get("batch_dependent", False)),
        batch_rounding=bool(value.get("batch_rounding", False)),
        random=tuple((str(name), str(why)) for name, why in value.get("random", ())),
        orders=OtherOrders(**value["orders"]) if value.get("orders") else None,
        probed_alike=bool(value.get("probed_alike", False)),
    )


@any_size
def noise_of(relative: Floats | float, ordered: Floats | Sequence[float] | float) -> Floats:
    """What noise and the order of sums explain, relative to the scale: eight times what was measured.

    Of the order of sums that is rounding of float32 only, up to `ROUNDED`; where it moves more, nothing is explained:
    few rows may have jumped, and how far the others may be it does not say.

    Args:
      relative: as `ColumnFloor.relative`, any shape.
      ordered: as `ColumnFloor.ordered`, the same shape.
    """
    sums = FLOOR_FACTOR * np.asarray(ordered, dtype=np.float64)
    return np.asarray(
        np.fmax(FLOOR_FACTOR * np.asarray(relative), np.where(sums > ROUNDED, 0.0, sums))
    )


_FIGURES = ("scale", "typical", "relative", "own")


def _column_from_json(value: Mapping[str, Any]) -> ColumnFloor:
    # What is not finite is text in JSON.
    floats = {f.name for f in fields(ColumnFloor) if f.type == "float"}
    value = {name: float(v) if name in floats else v for name, v in value.items()}
    wide = value.get("wide")
    if wide is None:
        return ColumnFloor(**value)
    figures = {name: tuple(map(float, wide[name])) for name in _FIGURES}
    whole = tuple(map(float, wide.get("whole", ())))
    ordered = tuple(map(float, wide.get("ordered", ())))
    floor = WideFloor(**figures, labels=tuple(wide["labels"]), whole=whole, ordered=ordered)
    return ColumnFloor(**{**value, "wide": floor})

"""Which versions there are, what is planted in each, and how each graph is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
import pandas as pd

from harness.core.clock import ts_ns_from_iso
from models.flights import data
from models.flights.exports import draw_zipmap, reexported, unloadable
from models.flights.graphs import Drawing, Reading, draw_decision, draw_features, written
from models.flights.scorers import Logistic, draw_logistic, draw_logistic_half, draw_trees
from models.flights.training import Features, features, fit_forest, fit_logistic, fit_trees, leak

V1_CUTOFF = "2013-05-01T00:00:00Z"
V2_CUTOFF = "2013-07-01T00:00:00Z"
SPANS = {V1_CUTOFF: "2013-01..04", V2_CUTOFF: "2013-01..06"}
THRESHOLD = 0.3
MOVED_THRESHOLD = 0.225
KM_PER_MILE = 1.609344
SEED = 20130701
_PLAIN = Reading(circles=False)
"""What older onnxruntimes compute, too: 1.28 has no sine and cosine in double, 1.31 has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """All that training yields."""

    v1: Logistic
    """January to April."""
    v2: Logistic
    """January to June."""
    leaky: Logistic
    """January to June, on a table that knew the flight's own delay."""
    trees: onnx.NodeProto
    """January to June: the converted ensemble."""
    forest: onnx.NodeProto
    """The same for the random forest, on the features that it uses."""
    appearance: dict[str, tuple[str, ...]]
    """Code feature → words in the order in which the source table first names them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One model file."""

    name: str
    """File stem."""
    what: str
    """What it is, in one sentence."""
    planted: str | None
    """What is wrong with it; None = nothing."""
    draw: Callable[[Fitted], onnx.ModelProto]
    """Builds the file's model."""
    cutoff: str = V2_CUTOFF
    """Everything it was trained on happened before, labels included."""
    scored: bool = True
    """Whether it answers flight requests with probabilities, so that its truth can be computed."""

    @property
    def file(self) -> str:
        """File name beside this module."""
        return f"{self.name}.onnx"


def fit(flights: pd.DataFrame) -> Fitted:
    """Trains everything.

    Args:
      flights: `data.requests()`.
    """
    given = features(flights)
    label = flights["label"].to_numpy()

    def rows(cutoff: str) -> pd.Series[bool]:
        # By the label's time: a cutoff is honest only if nothing later was looked at.
        before = flights["label_event_s"] < ts_ns_from_iso(cutoff, "cutoff") // 1_000_000_000
        return before & flights["label"].notna()

    def trained(cutoff: str, table: Features) -> Logistic:
        chosen = rows(cutoff).to_numpy()
        return fit_logistic({n: v[chosen] for n, v in table.items()}, label[chosen])

    v2 = trained(V2_CUTOFF, given)
    chosen = rows(V2_CUTOFF).to_numpy()
    named_in_order = flights.sort_values("file_row")
    return Fitted(
        v1=trained(V1_CUTOFF, given),
        v2=v2,
        leaky=trained(V2_CUTOFF, leak(flights, given)),
        trees=fit_trees(
            {n: v[chosen] for n, v in given.items()},
            label[chosen],
            v2,
            np.random.default_rng(SEED),
        ),
        forest=fit_forest({n: v[chosen] for n, v in given.items()}, label[chosen], v2, _PLAIN),
        appearance={
            code: tuple(named_in_order[code.removesuffix("_code")].unique())
            for code in data.schema().vocabularies
        },
    )


def _logistic(
    fitted: Logistic,
    reading: Reading,
    *,
    cutoff: str = V2_CUTOFF,
    threshold: float = THRESHOLD,
    zero: bool = False,
    scorer: Callable[[Drawing, Reading, Logistic], None] | None = None,
    zipmap: bool = False,
) -> onnx.ModelProto:
    drawing = Drawing()
    draw_features(drawing, reading)
    (scorer or partial(draw_logistic, zero=zero))(drawing, reading, fitted)
    draw_decision(drawing, threshold)
    outputs = draw_zipmap(drawing) if zipmap else None
    names = data.schema().fitted
    return written(drawing, reading, cutoff=cutoff, fitted=names, outputs=outputs)


def _trees(f: Fitted) -> onnx.ModelProto:
    drawing, reading = Drawing(), Reading()
    draw_features(drawing, reading)
    draw_trees(drawing, reading, f.v2, f.trees)
    draw_decision(drawing, THRESHOLD)
    return written(drawing, reading, cutoff=V2_CUTOFF, fitted=data.schema().fitted[:1])


def _forest(f: Fitted) -> onnx.ModelProto:
    drawing = Drawing()
    draw_features(drawing, _PLAIN)
    draw_trees(drawing, _PLAIN, f.v2, f.forest)
    drawing.node("Identity", ["tree_label"], "label")
    return written(drawing, _PLAIN, cutoff=V2_CUTOFF, fitted=data.schema().fitted[:1])


def _reexport(f: Fitted) -> onnx.ModelProto:
    return reexported(_logistic(f.v2, Reading(), zipmap=True), Reading().features())


_OTHER = Reading(
    renamed_inputs={"distance_miles": "distance_mi"},
    without=(("wind_gust_mph", "wind_gust"),),
)

VERSIONS = (
    Version(
        name="v1",
        what="Logistic scorer trained on January to April: what production runs.",
        planted=None,
        cutoff=V1_CUTOFF,
        draw=lambda f: _logistic(f.v1, Reading(), cutoff=V1_CUTOFF),
    ),
    Version(
        name="v2",
        what="The same, correctly retrained on January to June.",
        planted=None,
        draw=lambda f: _logistic(f.v2, Reading()),
    ),
    Version(
        name="km",
        what="v2 whose distance arrives in kilometres.",
        planted="distance = distance_miles × 1.609344",
        draw=lambda f: _logistic(f.v2, Reading(distance_factor=KM_PER_MILE)),
    ),
    Version(
        name="category_order",
        what="v2 whose carrier and origin codes are numbered by first appearance.",
        planted="carrier_code and origin_code follow another word order than the weights",
        draw=lambda f: _logistic(f.v2, Reading(vocabularies=f.appearance)),
    ),
    Version(
        name="zero_fill",
        what="v2 that fills missing values with 0.",
        planted="imputed: 0 instead of the training mean",
        draw=lambda f: _logistic(f.v2, Reading(), zero=True),
    ),
    Version(
        name="utc_hour",
        what="v2 that reads the hour from UTC.",
        planted="hour (and its sine and cosine) in UTC instead of local time: 4 h later in summer",
        draw=lambda f: _logistic(f.v2, Reading(utc_hour=True)),
    ),
    Version(
        name="weekday",
        what="v2 that counts weekdays from Sunday.",
        planted="weekday = right weekday + 1 modulo 7",
        draw=lambda f: _logistic(f.v2, Reading(weekday_shift=1)),
    ),
    Version(
        name="threshold",
        what="v2 with another decision threshold; probabilities are bit-identical.",
        planted=f"label = probability ≥ {MOVED_THRESHOLD} instead of {THRESHOLD}",
        draw=lambda f: _logistic(f.v2, Reading(), threshold=MOVED_THRESHOLD),
    ),
    Version(
        name="float16",
        what="v2 whose scorer, from the feature matrix on, runs in float16.",
        planted="imputed and all after it in float16; features bit-identical",
        draw=lambda f: _logistic(f.v2, Reading(), scorer=draw_logistic_half),
    ),
    Version(
        name="leaky",
        what="Retrained on January to June from a table that knew the flight's own delay.",
        planted="recent_delay_carrier in training = the flight's own departure delay",
        draw=lambda f: _logistic(f.leaky, Reading()),
    ),
    Version(
        name="gbt",
        what="Gradient-boosted trees, January to June, behind the same features.",
        planted=None,
        draw=_trees,
    ),
    Version(
        name="forest",
        what="A random forest, January to June, whose label is the trees' own; it loads in older runtimes.",
        planted=None,
        draw=_forest,
    ),
    Version(
        name="zipmap",
        what="v2 as scikit-learn's converter declares outputs: label and a list of {class: score}.",
        planted=None,
        draw=lambda f: _logistic(f.v2, Reading(), zipmap=True),
    ),
    Version(
        name="zipmap_reexport",
        what="zipmap as another converter would write it; scores bit-identical.",
        planted=None,
        draw=_reexport,
    ),
    Version(
        name="crash",
        what="v2 that dies on some requests.",
        planted="recent_delay in whole minutes: without a recent departure NaN becomes −2⁶³, and "
        "−2⁶³ / −1 traps (SIGFPE) and kills the process",
        draw=lambda f: _logistic(f.v2, Reading(whole_minutes=True)),
        scored=False,
    ),
    Version(
        name="broken",
        what="A file that does not load.",
        planted="its only operator, com.example.custom::FlightDelayScorer, exists nowhere",
        draw=lambda _: unloadable(),
        scored=False,
    ),
    Version(
        name="other_signature",
        what="v2 that asks for other fields.",
        planted="distance_miles is called distance_mi; wind_gust_mph is not asked for",
        draw=lambda f: _logistic(f.v2, _OTHER),
        scored=False,
    ),
)

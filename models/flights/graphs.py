"""The ONNX graph every version shares: raw fields → named features, and how it is written.

Every feature is its own tensor of shape [N] under its name in features.yaml, so that two versions
can be compared feature by feature. A planted fault is a `Reading` that differs in one field.

Sine and cosine are computed in double and snapped to a grid: onnxruntime's float Sin answers
differently in its vectorised body and in its tail, so that the last bit of a request's score would
depend on the batch it travels in.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.flights.data import schema

DAY_S = 86400
YEAR_S = 31_556_952
"""Mean Gregorian year."""
ML = "ai.onnx.ml"
# onnx writes newer versions by default than any released onnxruntime loads.
IR_VERSION = 8
OPSETS = {"": 15, ML: 3}
_TYPES = {
    "INT64": TensorProto.INT64,
    "FP32": TensorProto.FLOAT,
    "BYTES": TensorProto.STRING,
}
_PASSED_ON = {
    "temp": "temp_f",
    "dewp": "dewp_f",
    "humid": "humid_pct",
    "wind_speed": "wind_speed_mph",
    "wind_gust": "wind_gust_mph",
    "precip": "precip_in",
    "pressure": "pressure_mb",
    "visib": "visib_miles",
    "seats": "plane_seats",
}
CIRCLES = ("hour_sin", "hour_cos", "wind_north", "wind_east")
"""Features that are a sine or cosine."""
# Adding and taking away 1024 leaves multiples of 2⁻⁴²: sin(π) becomes 0 on every path.
_SNAP = 1024.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a version reads raw fields; the defaults are right, every other value is a fault."""

    distance_factor: float = 1.0
    """Distance in miles times this."""
    utc_hour: bool = False
    """The hour is taken from UTC instead of local time."""
    weekday_shift: int = 0
    """Days added to the weekday, modulo 7."""
    vocabularies: dict[str, tuple[str, ...]] = field(
        default_factory=lambda: dict(schema().vocabularies)
    )
    """Code feature → words in code order."""
    whole_minutes: bool = False
    """recent_delay goes through 64-bit integers, where "no departure" (NaN) becomes −2⁶³."""
    renamed_inputs: dict[str, str] = field(default_factory=dict)
    """Input → the name this version has for it."""
    without: tuple[tuple[str, str], ...] = ()
    """(input, feature) pairs this version does not know."""
    circles: bool = True
    """False: no feature that is a sine or cosine, which older runtimes do not compute in double."""

    def inputs(self) -> dict[str, str]:
        """This version's input name → datatype."""
        dropped = {name for name, _ in self.without}
        kinds = schema().inputs.items()
        return {self.renamed_inputs.get(n, n): kind for n, kind in kinds if n not in dropped}

    def features(self) -> tuple[str, ...]:
        """Tensors computed from raw fields only."""
        dropped = {feature for _, feature in self.without}
        if not self.circles:
            dropped |= set(CIRCLES)
        return tuple(f.name for f in schema().features if f.name not in dropped)

    def entering(self, how: str) -> tuple[str, ...]:
        """Features that enter the scorer as number or onehot, in column order."""
        return tuple(n for n in schema().names(how) if n in self.features())


class Drawing:
    """Nodes and constants of a graph in the making; a node is named after its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(
        self, operator: str, inputs: list[str], output: str, domain: str = "", **given: object
    ) -> str:
        """Adds an operator with one output and returns the output's name."""
        node = helper.make_node(operator, inputs, [output], name=output, domain=domain)
        node.attribute.extend(helper.make_attribute(k, v) for k, v in sorted(given.items()))
        self.nodes.append(node)
        return output

    def constant(self, name: str, value: npt.ArrayLike, dtype: npt.DTypeLike) -> str:
        """Adds an initializer once and returns its name."""
        if all(c.name != name for c in self.constants):
            self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def cast(self, tensor: str, to: int, output: str) -> str:
        """Adds a cast."""
        return self.node("Cast", [tensor], output, to=to)


def draw_features(drawing: Drawing, reading: Reading) -> None:
    """Draws every feature tensor that `reading` names."""
    _draw_clock(drawing, reading)
    _draw_travel(drawing, reading)
    _draw_delays(drawing, reading)
    if reading.circles:
        _draw_wind(drawing)
    for feature, source in _PASSED_ON.items():
        if feature in reading.features():
            drawing.node("Identity", [reading.renamed_inputs.get(source, source)], feature)
    for code, words in reading.vocabularies.items():
        drawing.node(
            "LabelEncoder",
            [code.removesuffix("_code")],
            code,
            domain=ML,
            keys_strings=list(words),
            values_int64s=list(range(len(words))),
            default_int64=-1,
        )


def _draw_clock(drawing: Drawing, reading: Reading) -> None:
    day = drawing.constant("day_s", DAY_S, np.int64)
    local = drawing.node("Add", ["scheduled_departure_s", "utc_offset_s"], "local_s")
    clock = "scheduled_departure_s" if reading.utc_hour else local
    second = drawing.node("Mod", [clock, day], "second_of_day")
    drawing.node(
        "Div",
        [
            drawing.cast(second, TensorProto.FLOAT, "second_f"),
            drawing.constant("hour_s", 3600, np.float32),
        ],
        "hour",
    )
    if reading.circles:
        _draw_hour_circle(drawing, second)
    # 1970-01-01 was a Thursday: 3 counted from Monday.
    days = drawing.node("Div", [local, day], "days")
    shifted = drawing.node(
        "Add", [days, drawing.constant("thursday", 3 + reading.weekday_shift, np.int64)], "weekdays"
    )
    drawing.node("Mod", [shifted, drawing.constant("week", 7, np.int64)], "weekday")


def _draw_hour_circle(drawing: Drawing, second: str) -> None:
    turn = drawing.constant("radians_per_s", 2 * math.pi / DAY_S, np.float64)
    angle = drawing.node(
        "Mul", [drawing.cast(second, TensorProto.DOUBLE, "second_d"), turn], "hour_angle"
    )
    for operator, feature in (("Sin", "hour_sin"), ("Cos", "hour_cos")):
        drawing.cast(_circle(drawing, operator, angle, feature), TensorProto.FLOAT, feature)


def _circle(drawing: Drawing, operator: str, angle: str, stem: str) -> str:
    snap = drawing.constant("snap", _SNAP, np.float64)
    raw = drawing.node(operator, [angle], f"{stem}_raw")
    return drawing.node("Sub", [drawing.node("Add", [raw, snap], f"{stem}_up"), snap], f"{stem}_d")


def _draw_travel(drawing: Drawing, reading: Reading) -> None:
    seconds = drawing.node("Sub", ["scheduled_arrival_s", "scheduled_departure_s"], "elapsed_s")
    minutes = drawing.constant("minute_s", 60, np.float32)
    drawing.node("Div", [drawing.cast(seconds, TensorProto.FLOAT, "elapsed_f"), minutes], "elapsed")
    miles = reading.renamed_inputs.get("distance_miles", "distance_miles")
    if reading.distance_factor == 1.0:
        drawing.node("Identity", [miles], "distance")
    else:
        factor = drawing.constant("distance_factor", reading.distance_factor, np.float32)
        drawing.node("Mul", [miles, factor], "distance")
    departure = drawing.cast("scheduled_departure_s", TensorProto.DOUBLE, "departure_d")
    years = drawing.node(
        "Div", [departure, drawing.constant("year_s", YEAR_S, np.float64)], "years"
    )
    built = drawing.node(
        "Sub",
        [
            drawing.cast("plane_year", TensorProto.DOUBLE, "built"),
            drawing.constant("epoch", 1970, np.float64),
        ],
        "built_since",
    )
    drawing.cast(drawing.node("Sub", [years, built], "plane_age_d"), TensorProto.FLOAT, "plane_age")


def _draw_delays(drawing: Drawing, reading: Reading) -> None:
    for stem, feature in (("delay", "recent_delay"), ("carrier_delay", "recent_delay_carrier")):
        total = drawing.cast(f"{stem}_sum_min", TensorProto.FLOAT, f"{stem}_sum")
        count = drawing.cast(f"{stem}_count", TensorProto.FLOAT, f"{stem}_n")
        if feature == "recent_delay" and reading.whole_minutes:
            mean = drawing.node("Div", [total, count], "mean_delay")
            late = drawing.cast(mean, TensorProto.INT64, "late_min")
            # −2⁶³ / −1 does not fit 64 bits: the processor traps and the process dies.
            early = drawing.node(
                "Div", [late, drawing.constant("minus_one", -1, np.int64)], "early_min"
            )
            drawing.cast(drawing.node("Neg", [early], "delay_min"), TensorProto.FLOAT, feature)
        else:
            # 0 / 0 is NaN: nothing left in the last three hours, so nothing is known.
            drawing.node("Div", [total, count], feature)


def _draw_wind(drawing: Drawing) -> None:
    degrees = drawing.cast("wind_dir_deg", TensorProto.DOUBLE, "wind_dir_d")
    radians = drawing.constant("radians", math.pi / 180, np.float64)
    angle = drawing.node("Mul", [degrees, radians], "wind_angle")
    speed = drawing.cast("wind_speed_mph", TensorProto.DOUBLE, "wind_speed_d")
    for operator, feature in (("Cos", "wind_north"), ("Sin", "wind_east")):
        part = _circle(drawing, operator, angle, feature)
        along = drawing.node("Mul", [speed, part], f"{feature}_mph")
        drawing.cast(along, TensorProto.FLOAT, feature)


def draw_decision(drawing: Drawing, threshold: float) -> None:
    """Draws label = 1 where probability ≥ threshold."""
    limit = drawing.constant("threshold", threshold, np.float32)
    late = drawing.node("GreaterOrEqual", ["probability", limit], "late")
    drawing.cast(late, TensorProto.INT64, "label")


def written(
    drawing: Drawing,
    reading: Reading,
    *,
    cutoff: str,
    fitted: tuple[str, ...],
    outputs: list[onnx.ValueInfoProto] | None = None,
) -> onnx.ModelProto:
    """Closes a drawing into a model with the metadata the gate reads.

    Args:
      drawing: nodes and constants, in topological order.
      reading: how raw fields are read; names inputs and vocabularies.
      cutoff: ISO time of the last instant whose data the version was trained on.
      fitted: tensors after fitted constants, in this graph's names.
      outputs: graph outputs; None = probability and label, each [N].
    """
    inputs = [
        helper.make_tensor_value_info(name, _TYPES[kind], ["N"])
        for name, kind in reading.inputs().items()
    ]
    plain = [
        helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N"]),
        helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
    ]
    graph = helper.make_graph(drawing.nodes, "flights", inputs, outputs or plain, drawing.constants)
    model = helper.make_model(
        graph,
        producer_name="flights",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid(d, v) for d, v in OPSETS.items()],
    )
    said = {
        "harness.features": json.dumps(list(reading.features())),
        "harness.fitted": json.dumps(list(fitted)),
        "harness.training_cutoff": cutoff,
    }
    for code, words in reading.vocabularies.items():
        said[f"harness.vocabulary.{code}"] = json.dumps(list(words))
    helper.set_model_props(model, said)
    return model

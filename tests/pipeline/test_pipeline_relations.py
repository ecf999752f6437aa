"""Every relation that has a name, planted in real models and read off by `compare_models`.

One pair of models holds all faults, each in a feature with an input of its own, and a second pair
holds a near miss of each: something that looks alike and must not get the name.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from feature_models import Drawing, Formula, feature_model, same

from harness.core.policies import GraphPolicy
from harness.pipeline.compare import compare_models
from harness.pipeline.compare_result import CompareResult

N = 3000
WORDS = ("AA", "B6", "DL", "EV", "UA")
PERMUTED = ("UA", "AA", "B6", "DL", "EV")
OWN_FILL = 41.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What the candidate makes of one input, and what must be said about it."""

    after: Formula
    relation: str
    words: str
    value: float | None = None
    before: Formula = same
    input: str = "spread"


def _times(factor: float) -> Formula:
    return lambda d, x: d("Mul", x, factor)


def _plus(shift: float) -> Formula:
    return lambda d, x: d("Add", x, shift)


def _modulo(shift: float, period: float) -> Formula:
    return lambda d, x: d("Mod", d("Add", x, shift), period, fmod=1)


def _filled(value: float, formula: Formula = same) -> Formula:
    return lambda d, x: d("Where", d("IsNaN", x), value, formula(d, x))


def _where_odd(formula: Formula) -> Formula:
    """The formula in 3 % of the rows, the value itself in the others."""
    return lambda d, x: d("Where", d("Greater", "odd", 0.0), formula(d, x), x)


def _line(slope: float, intercept: float) -> Formula:
    return lambda d, x: d("Add", d("Mul", x, slope), intercept)


def _bent(formula: Formula) -> Formula:
    """The formula and a part that no relation names."""
    return lambda d, x: d("Add", formula(d, x), d("Mul", d("Sin", x), 5.0))


def _codes(*words: str) -> Formula:
    return lambda d, x: d.codes(x, words)


def _half(d: Drawing, x: str) -> str:
    return d("Cast", d("Cast", x, to=10), to=1)


FAULTS = {
    "miles": Case(after=_times(1.609344), relation="scaled", value=1.609344, words="miles → kilometres"),
    "minutes": Case(after=_times(60), relation="scaled", value=60, words="minutes → seconds"),
    "seconds": Case(after=_times(1000), relation="scaled", value=1000, words="milliseconds"),
    "celsius": Case(after=_line(1.8, 32), relation="affine", value=1.8, words="°C → °F"),
    "offset": Case(after=_plus(7.5), relation="shifted", value=7.5, words="+ 7.5"),
    "carrier": Case(before=_codes(*WORDS), after=_codes(*PERMUTED), input="word",
                    relation="permuted", words="AA 0 → 1"),
    "clock": Case(after=_modulo(4, 24), input="hour", relation="cyclic_shift", value=4, words="UTC"),
    "weekday": Case(after=_modulo(1, 7), input="day", relation="cyclic_shift", value=1, words="modulo 7"),
    "unfilled": Case(after=_filled(0), input="holes", relation="filled_with_zero", value=0,
                     words="candidate is 0 where the baseline has no value, in 20 %"),
    "refilled": Case(before=_filled(OWN_FILL), after=_filled(0), input="holes", relation="filled_with_zero",
                     value=0, words="wherever the baseline is 41.5"),
    "whole": Case(after=lambda d, x: d("Round", x), relation="precision", words="rounded to whole numbers"),
    "half": Case(after=_half, relation="precision", words="rounded to float16"),
    "copied": Case(after=lambda d, _: d("Identity", "earlier"), input="series", relation="stale",
                   value=1, words="1 row earlier"),
    "negated": Case(after=lambda d, x: d("Neg", x), relation="sign", value=-1, words="−baseline"),
    "unsigned": Case(after=lambda d, x: d("Abs", x), input="signed", relation="sign", value=-1,
                     words="sign lost"),
    "bounded": Case(after=lambda d, x: d("Min", x, 60.0), relation="clipped", value=60, words="at 60"),
    "floored": Case(after=lambda d, x: d("Max", x, 30.0), relation="clipped", value=30, words="below at 30"),
    "sparse": Case(after=_where_odd(_times(1.609344)), relation="scaled", value=1.609344, words="in 3 % of"),
    "gone": Case(after=_where_odd(lambda d, x: d("Log", d("Neg", x))), relation="missing", words="in 3 %"),
    "two": Case(after=_filled(0, _times(60)), input="holes", relation="scaled", value=60,
                words="elsewhere candidate is 0 where the baseline has no value"),
}  # fmt: skip

NEAR = {
    "miles": Case(after=_times(1.63), relation="scaled", value=1.63, words="× 1.63, in"),
    "minutes": Case(after=_times(61), relation="scaled", value=61, words="× 61, in"),
    "seconds": Case(after=_times(990), relation="scaled", value=990, words="× 990, in"),
    "celsius": Case(after=_line(1.8, 30), relation="affine", value=1.8, words="× 1.8 + 30, in"),
    "offset": Case(after=_bent(_plus(7.5)), relation="other", words="no simple relation"),
    # Two words in one code: no permutation, as nothing tells them apart any more.
    "carrier": Case(before=_codes(*WORDS), input="word", relation="other", words="no simple relation",
                    after=lambda d, x: d("LabelEncoder", x, domain="ai.onnx.ml", keys_strings=list(WORDS),
                                         values_int64s=[1, 0, 0, 4, 3], default_int64=-1)),
    "clock": Case(after=_plus(4), input="hour", relation="shifted", value=4, words="+ 4, in"),
    "weekday": Case(after=_modulo(0.5, 7), input="day", relation="shifted", value=0.5, words="+ 0.5, in"),
    "unfilled": Case(after=_filled(3), input="holes", relation="filled_with_constant", value=3, words="is 3 where"),
    "refilled": Case(before=_filled(OWN_FILL), after=_filled(40), input="holes", relation="filled_with_constant",
                     value=40, words="40 wherever the baseline is 41.5"),
    "whole": Case(after=_bent(lambda d, x: d("Round", x)), relation="other", words="no simple relation"),
    "half": Case(after=_bent(_half), relation="other", words="no simple relation"),
    "copied": Case(after=lambda d, _: d("Mul", "earlier", 1.05), input="series", relation="other", words="no simple relation"),
    "negated": Case(after=_bent(lambda d, x: d("Neg", x)), relation="other", words="no simple relation"),
    "unsigned": Case(after=_bent(lambda d, x: d("Abs", x)), input="signed", relation="other", words="no simple relation"),
    "bounded": Case(after=lambda d, x: d("Where", d("Greater", x, 60.0), _bent(same)(d, x), x), relation="other",
                    words="no simple relation"),
    "floored": Case(after=lambda d, x: d("Where", d("Less", x, 30.0), _bent(same)(d, x), x), relation="other",
                    words="no simple relation"),
    "sparse": Case(after=_where_odd(_bent(same)), relation="other", words="in 3 % of"),
    "gone": Case(after=_where_odd(lambda d, x: d("Mul", x, 0.5)), relation="scaled", value=0.5, words="in 3 %"),
    "two": Case(after=_filled(0, _bent(same)), input="holes", relation="other",
                words="elsewhere candidate is 0 where the baseline has no value"),
}  # fmt: skip


def _inputs(cases: dict[str, Case]) -> dict[str, np.ndarray]:
    """An input a feature, so that no feature follows from another."""
    rng = np.random.default_rng(11)
    series = rng.normal(50, 20, N + 1).astype(np.float32)
    made = {"odd": (np.arange(N) % 33 == 0).astype(np.float32), "earlier": series[:-1]}
    for name, case in cases.items():
        x = rng.uniform(10, 90, N).astype(np.float32)
        match case.input:
            case "word":
                x = np.array(WORDS, object)[rng.integers(0, len(WORDS), N)]
            case "hour":
                x = (rng.integers(0, 96, N) / 4).astype(np.float32)
            case "day":
                x = rng.integers(0, 7, N).astype(np.float32)
            case "holes":
                x[rng.permutation(N)[: N // 5]] = np.nan
            case "signed":
                x = rng.normal(0, 20, N).astype(np.float32)
            case "series":
                x = series[1:]
        made[f"x_{name}"] = x
    return made


def _compared(cases: dict[str, Case], folder, windows) -> CompareResult:
    inputs = _inputs(cases)
    old = {n: (f"x_{n}", c.before) for n, c in cases.items()}
    new = {n: (f"x_{n}", c.after) for n, c in cases.items()}
    words = {"carrier": WORDS}
    np.savez(
        folder / "rows.npz", **{n: v.astype("U") if v.dtype == object else v for n, v in inputs.items()}
    )  # fmt: skip
    return compare_models(
        str(feature_model(folder / "old.onnx", inputs, old, vocabularies=words)),
        str(feature_model(folder / "new.onnx", inputs, new)),
        inputs=[folder / "rows.npz"], cache_dir=windows, looked_into=GraphPolicy(requests=0),
    )  # fmt: skip


@pytest.fixture(scope="module")
def faults(tmp_path_factory, windows):
    return _compared(FAULTS, tmp_path_factory.mktemp("faults"), windows)


@pytest.fixture(scope="module")
def near(tmp_path_factory, windows):
    return _compared(NEAR, tmp_path_factory.mktemp("near"), windows)


def _check(result: CompareResult, name: str, case: Case) -> None:
    (found,) = [f for f in result.findings if f.where == name]
    assert (found.kind, found.relation) == ("feature_changed", case.relation), found.what
    assert case.words in found.what
    if case.value is None:
        assert found.value is None
    else:
        assert found.value == pytest.approx(case.value, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_with_its_feature_its_relation_and_its_constant(name, faults):
    _check(faults, name, FAULTS[name])


@pytest.mark.parametrize("name", NEAR)
def test_a_near_miss_does_not_get_the_name(name, near):
    _check(near, name, NEAR[name])

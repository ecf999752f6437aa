"""Fitted constants through real models: listed with their values when refitted, told when they look forgotten."""

import numpy as np
import pytest
from feature_models import Drawing, feature_model, same
from gates import MODELS

from harness.core.findings import Severity
from harness.core.policies import GraphPolicy
from harness.pipeline.compare import compare_models

N = 2000
WORDS = ("AA", "DL", "UA")


def _scaler(fill, offset, scale):
    def formula(d: Drawing, x: str) -> str:
        filled = d("Where", d("IsNaN", x), fill, x)
        return d("Div", d("Sub", filled, offset), scale)

    return formula


def _imputer(fill):
    return lambda d, x: d("Where", d("IsNaN", x), fill, x)


@pytest.fixture
def compared(tmp_path, windows):
    rng = np.random.default_rng(4)
    temp = rng.uniform(0, 40, N).astype(np.float32)
    temp[::7] = np.nan
    word = np.array([*WORDS, "WN"], object)[rng.integers(0, 4, N)]
    inputs = {"x": temp, "word": word}
    np.savez(tmp_path / "rows.npz", x=temp, word=word.astype("U"))

    def compare(old, new, words=(WORDS, WORDS), fault=same):
        paths = []
        for name, fitted, known, raw in (
            ("old", old, words[0], same),
            ("new", new, words[1], fault),
        ):
            features = {
                "temp": ("x", raw),
                "carrier": ("word", lambda d, x, known=known: d.codes(x, known)),
            }
            paths.append(
                feature_model(
                    tmp_path / f"{name}.onnx", inputs, features, vocabularies={"carrier": known},
                    fitted={n: ("temp", formula) for n, formula in fitted.items()},
                )
            )  # fmt: skip
        return compare_models(
            *map(str, paths),
            inputs=[tmp_path / "rows.npz"],
            cache_dir=windows,
            looked_into=GraphPolicy(requests=0),
        )

    return compare


def _listed(result):
    return {
        (r["feature"], r["role"]): (r["baseline"], r["candidate"])
        for r in result.intermediates["refits"]
    }


def _kinds(result):
    """What is said of features; where the graphs part is said besides."""
    return {f.kind for f in result.findings if not f.kind.startswith("first_divergence")}


def test_fill_offset_and_scale_are_listed_old_and_new(compared):
    result = compared({"scaled": _scaler(20, 19, 8)}, {"scaled": _scaler(21.5, 18.25, 8.5)})
    wanted = {"fill": (20, 21.5), "offset": (19, 18.25), "scale": (8, 8.5)}
    found = _listed(result)
    assert found.keys() == {("temp", role) for role in wanted}
    for role, values in wanted.items():
        assert found["temp", role] == pytest.approx(values, rel=1e-4)
    assert _kinds(result) == {"refitted"}
    assert "refitted: 3 constants (temp fill 20 → 21.5" in result.findings[0].what


def test_only_the_constant_that_moved_is_listed(compared):
    result = compared({"filled": _imputer(20)}, {"filled": _imputer(21)})
    assert _listed(result) == {("temp", "fill"): (20.0, 21.0)}


def test_the_same_constants_are_no_refit(compared):
    result = compared({"scaled": _scaler(20, 19, 8)}, {"scaled": _scaler(20, 19, 8)})
    assert (_listed(result), _kinds(result)) == ({}, set())


def test_a_fault_upstream_is_no_refit(compared):
    fault = lambda d, x: d("Mul", x, 1.8)  # noqa: E731 - a formula
    result = compared({"scaled": _scaler(20, 19, 8)}, {"scaled": _scaler(20, 19, 8)}, fault=fault)
    assert _listed(result) == {}
    assert "feature_changed" in _kinds(result)


def test_zero_in_place_of_the_mean_is_suspicious(compared):
    result = compared({"filled": _imputer(20)}, {"filled": _imputer(0)})
    (found,) = [f for f in result.findings if f.kind == "filled_with_zero"]
    assert found.severity is Severity.WARNING
    (listed,) = result.intermediates["refits"]
    assert "forgotten?" in listed["suspicious"]
    assert "refitted" not in _kinds(result)


def test_zero_behind_a_scaler_is_suspicious_too(compared):
    result = compared({"scaled": _scaler(20, 19, 8)}, {"scaled": _scaler(0, 18, 8)})
    (found,) = [f for f in result.findings if f.kind == "suspicious_refit"]
    assert found.what.startswith("temp fill 20 → ")
    assert "0 stands for a missing value" in found.what


def test_a_scaler_that_is_gone_is_suspicious(compared):
    result = compared({"scaled": _scaler(20, 19, 8)}, {"scaled": _imputer(20)})
    assert "the candidate does not scale it" in {
        r["suspicious"].split(":")[0] for r in result.intermediates["refits"]
    }


def test_a_vocabulary_that_only_gained_words_is_a_refit(compared):
    result = compared({}, {}, words=(WORDS, (*WORDS, "WN")))
    assert _kinds(result) == {"refitted"}
    (listed,) = result.intermediates["refits"]
    assert (listed["baseline"], listed["candidate"]) == ("3 words", "4 words, new: WN")
    assert result.equal


@pytest.mark.parametrize(
    "words",
    [
        ("DL", "AA", "UA", "WN"),
        # Two places change, as above.
        pytest.param(("AA", "DL", "WN", "UA"), marks=pytest.mark.long),
        ("AA", "DL"),
    ],
)
def test_codes_that_moved_or_words_that_went_are_a_fault(words, compared):
    result = compared({}, {}, words=(WORDS, words))
    assert "feature_changed" in _kinds(result)
    assert not result.equal


def test_the_retrained_flight_model_lists_its_constants(windows, some_flights):
    result = compare_models(
        str(MODELS / "v1.onnx"),
        str(MODELS / "v2.onnx"),
        inputs=[some_flights],
        cache_dir=windows,
        looked_into=GraphPolicy(requests=0),
    )
    v1, v2 = (_constants(MODELS / f"{n}.onnx") for n in ("v1", "v2"))
    found = _listed(result)
    assert found["wind_gust", "fill"] == pytest.approx((v1["wind_gust"], v2["wind_gust"]), rel=1e-4)
    assert len(found) >= 30


def _constants(path):
    """Feature → the mean that fills its gaps, as the graph holds it."""
    import onnx

    model = onnx.load(path)
    concat = next(n for n in model.graph.node if n.op_type == "Concat" and len(n.input) > 5)
    imputer = next(n for n in model.graph.node if n.op_type == "Imputer")
    fills = next(a for a in imputer.attribute if a.name == "imputed_value_floats").floats
    names = [i.split("_column")[0] for i in concat.input]
    return dict(zip(names, map(float, fills), strict=True))

"""What `harness compare` answers, from whatever the inputs come."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gates import FLIGHTS, MODELS, tiny_model, tiny_traffic

N = 40


@pytest.fixture
def model(tmp_path):
    return tiny_model(tmp_path / "old.onnx")


@pytest.fixture
def x():
    return np.random.default_rng(3).normal(size=N).astype(np.float32)


def inputs(kind, folder, x):
    path = folder / f"inputs.{kind}"
    match kind:
        case "npz":
            np.savez(path, x=x)
        case "parquet":
            pq.write_table(pa.table({"x": x}), path)
        case "jsonl":
            path.write_text("\n".join(json.dumps({"x": float(v)}) for v in x))
        case _:
            tiny_traffic(path, values=x)
    return path


@pytest.mark.parametrize("kind", ["npz", "parquet", "jsonl", "folder"])
def test_the_same_model_is_equal_on_inputs_of_every_kind(kind, model, x, harness, tmp_path):
    ran = harness("compare", model, model, "-i", inputs(kind, tmp_path, x), "--json")
    told = json.loads(ran.out)
    assert (ran.code, told["exit_code"], told["equal"]) == (0, 0, True)
    assert (told["compared"], told["asked"], told["available"]) == (N, N, N)


def test_another_answer_is_a_divergence(model, x, harness, tmp_path):
    other = tiny_model(tmp_path / "new.onnx", raised="Abs({x})")
    ran = harness("compare", model, other, "-i", inputs("npz", tmp_path, x), "--json")
    told = json.loads(ran.out)
    assert ran.code == 1
    assert told["intermediates"]["compared"]["output_mismatches"] == int((x < 0).sum())
    assert told["intermediates"]["compared"]["feature_mismatches"] == 0


def test_a_divergence_is_told_first(model, x, harness, tmp_path):
    other = tiny_model(tmp_path / "new.onnx", raised="Abs({x})")
    ran = harness("compare", model, other, "-i", inputs("npz", tmp_path, x), "-q")
    assert ran.out.startswith("DIVERGED: old (")


def test_the_utc_hour_is_named(harness):
    ran = harness(
        "compare", MODELS / "v2.onnx", MODELS / "utc_hour.onnx", "-i", FLIGHTS, "--limit", 2000,
        "--json",
    )  # fmt: skip
    assert ran.code == 1
    hour = next(f for f in json.loads(ran.out)["findings"] if f["where"] == "hour")
    assert (hour["relation"], hour["value"]) == ("cyclic_shift", 4.0)


def test_another_signature_is_not_comparable(model, x, harness, tmp_path):
    other = tiny_model(tmp_path / "new.onnx", x="z")
    ran = harness("compare", model, other, "-i", inputs("npz", tmp_path, x))
    assert ran.code == 2
    assert "x FP32[?]" in ran.err
    assert "z FP32[?]" in ran.err


def test_a_mapping_bridges_the_signatures(model, x, harness, tmp_path):
    other = tiny_model(tmp_path / "new.onnx", x="z")
    ran = harness("compare", model, other, "-i", inputs("npz", tmp_path, x), "--map", "inputs:x=z")
    assert ran.code == 0


@pytest.mark.parametrize("side", ["old", "new"])
def test_nan_on_one_side_is_a_divergence(side, model, x, harness, tmp_path):
    nan = tiny_model(tmp_path / "nan.onnx", raised="Log({x})")
    pair = (nan, model) if side == "old" else (model, nan)
    assert harness("compare", *pair, "-i", inputs("npz", tmp_path, x)).code == 1


def test_nan_on_both_sides_is_equal(x, harness, tmp_path):
    nan = tiny_model(tmp_path / "nan.onnx", raised="Log({x})")
    assert harness("compare", nan, nan, "-i", inputs("npz", tmp_path, x)).code == 0


def test_no_requests_are_not_comparable(model, harness, tmp_path):
    empty = inputs("npz", tmp_path, np.empty(0, np.float32))
    assert harness("compare", model, model, "-i", empty).code == 2


def test_the_same_comparison_says_the_same_twice(harness):
    words = ("compare", MODELS / "v1.onnx", MODELS / "v2.onnx", "-i", FLIGHTS, "--limit", 1500,
             "--json")  # fmt: skip
    first, second = (json.loads(harness(*words).out) for _ in range(2))
    for told in (first, second):
        for pinned in told["models"]:
            del pinned["path"]  # a folder of the comparison's own
    assert first == second
    assert first["compared"] == 1500


def test_a_comparison_leaves_nothing_behind(model, x, harness, tmp_path):
    harness("compare", model, model, "-i", inputs("npz", tmp_path, x))
    assert list((tmp_path / "work").iterdir()) == []

"""Which type holds another one's numbers, against numpy's and ml_dtypes' own casts, over all pairs."""

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

from harness.sandbox.graph_rounding import exact_tensors
from harness.sandbox.graph_types import DOUBLE, FLOATS, SINGLE, STRING, WHOLE, holds

NUMBERS = {
    name: kind
    for name, kind in TensorProto.DataType.items()
    if kind in {*FLOATS, *WHOLE, DOUBLE} - {STRING}
}
_BITS = {"float4_e2m1fn": 4, "float6_e2m3fn": 6, "float6_e3m2fn": 6}


def ends(low, high):
    """Whole numbers near the ends, and near every power of 2."""
    near = {s * (1 << k) + d for k in range(64) for d in (-1, 0, 1) for s in (-1, 1)}
    return [value for value in {low, high, *near, 0} if low <= value <= high]


def every(dtype):
    """All values of a small type, and of a large one those that another may not hold; as float64, or None."""
    dtype = np.dtype(dtype)
    if dtype == np.bool_:
        return np.array([0.0, 1.0])
    if dtype.kind in "iu" or "int" in dtype.name:
        info = ml_dtypes.iinfo(dtype)
        values = ends(int(info.min), int(info.max))
        return np.array(values, float) if all(int(float(v)) == v for v in values) else None
    if dtype.itemsize <= 2:
        wide = np.uint8 if dtype.itemsize == 1 else np.uint16
        bits = _BITS.get(dtype.name, 8 * dtype.itemsize)
        values = np.arange(1 << bits).astype(wide).view(dtype).astype(np.float64)
    else:
        info = np.finfo(dtype)
        powers = np.exp2(np.arange(info.minexp - info.nmant, info.maxexp, dtype=np.float64))
        values = np.concatenate([powers, powers * (1 + np.float64(info.eps)), [info.max, 0.0]])
        values = np.concatenate([values, -values]).astype(dtype).astype(np.float64)
    return values[np.isfinite(values)]


def kept(given, kind):
    values = every(helper.tensor_dtype_to_np_dtype(given))
    if values is None:
        return False
    made = values.astype(helper.tensor_dtype_to_np_dtype(kind)).astype(np.float64)
    return np.array_equal(made, values) and np.array_equal(np.signbit(made), np.signbit(values))


FLOATING = {name: kind for name, kind in NUMBERS.items() if kind in {*FLOATS, DOUBLE}}


@pytest.mark.parametrize("given", NUMBERS)
def test_a_type_holds_what_its_cast_keeps(given):
    with np.errstate(all="ignore"):
        expected = {name for name, kind in FLOATING.items() if kept(NUMBERS[given], kind)}
    assert {n for n, kind in FLOATING.items() if holds(kind, NUMBERS[given])} == expected


def exact(given, kind):
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Cast", ["x"], ["y"], to=kind)],
            "g",
            [helper.make_tensor_value_info("x", given, [None])],
            [helper.make_tensor_value_info("y", kind, [None])],
        )
    )
    return "y" in exact_tensors(model)


@pytest.mark.parametrize("given", FLOATING)
def test_a_cast_of_a_float_is_exact_where_its_type_holds_it(given):
    found = {name for name, kind in FLOATING.items() if exact(FLOATING[given], kind)}
    assert found == {name for name, kind in FLOATING.items() if holds(kind, FLOATING[given])}


def test_whole_numbers_are_the_same_float32_anywhere_and_not_the_same_float16():
    assert all(exact(kind, SINGLE) and exact(kind, DOUBLE) for kind in WHOLE)
    assert not exact(NUMBERS["INT16"], NUMBERS["FLOAT16"])
    assert exact(NUMBERS["INT8"], NUMBERS["FLOAT16"])


def test_what_has_no_number_or_is_unknown_is_not_held():
    assert not holds(0, 0)
    assert not holds(SINGLE, STRING)
    assert not holds(SINGLE, 14)

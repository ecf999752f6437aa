"""Tables as traffic: the same inputs come back, cast only when nothing is lost."""

import json
import pickle
import time
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from exchanges_made import exchange
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import TrafficError
from harness.core.tensors import Signature, TensorSpec
from harness.store.blocks import CONTEXT
from harness.store.casting import cast_lossless
from harness.store.table_pieces import PIECE_ROWS
from harness.store.tables import open_traffic
from harness.store.traffic import TrafficSource, TrafficWriter
from harness.store.windows import seal
from harness.wire.messages import request_bytes
from harness.wire.rows import requests_from_rows


def spec(name, datatype, *shape):
    return TensorSpec(name=name, datatype=datatype, shape=shape)


def opened(path, specs=None, rows=()):
    taken = None if specs is None else Signature(inputs=tuple(specs), outputs=(), rows=rows)
    window = open_traffic([path], path.parent / "cache", taken)
    order = np.argsort(window.index().seq())
    return window, window.read(order)


def npz(folder, **arrays):
    path = folder / "t.npz"
    np.savez(path, **arrays)
    return path


def parquet(folder, table):
    path = folder / "t.parquet"
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), path)
    return path


def jsonl(folder, *lines):
    path = folder / "t.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return path


def refused(path, specs=None):
    with pytest.raises(TrafficError) as caught:
        opened(path, specs)
    assert caught.value.remedy
    return f"{caught.value.where}: {caught.value.what}"


# .npz


def test_npz_arrays_that_share_their_first_axis_are_that_many_requests(tmp_path):
    x, s = np.arange(6.0).reshape(3, 2), np.array(["a", "é", ""])
    window, batch = opened(npz(tmp_path, x=x, s=s))
    assert window.info.count == 3
    assert batch.request_id.tolist() == ["row-0", "row-1", "row-2"]
    assert batch.inputs["x"].tolist() == x.tolist()
    assert batch.inputs["s"].tolist() == s.tolist()
    assert not batch.answered.any()
    assert window.info.not_answered == (("no response recorded", 3),)


def test_npz_arrays_without_a_shared_axis_are_one_request(tmp_path):
    window, batch = opened(npz(tmp_path, x=np.zeros(3), y=np.ones((2, 2))))
    assert window.info.count == 1
    assert batch.inputs["x"].shape == (1, 3)
    assert batch.inputs["y"].shape == (1, 2, 2)


def test_npz_arrays_without_the_batch_axis_the_model_has_are_one_request(tmp_path):
    path = npz(tmp_path, x=np.zeros(3, np.float32), y=np.ones(3, np.float32))
    window, batch = opened(path, [spec("x", "FP32", 3), spec("y", "FP32", None)])
    assert window.info.count == 1
    assert batch.inputs["y"].shape == (1, 3)


def test_npz_times_ids_and_context(tmp_path):
    path = npz(
        tmp_path,
        x=np.zeros(2),
        ts_ns=np.array([5, 6]),
        request_id=np.array(["a", "b"]),
        **{"cx:origin": np.array(["JFK", "EWR"])},
    )
    window, batch = opened(path)
    assert batch.ts_ns.tolist() == [5, 6]
    assert batch.request_id.tolist() == ["a", "b"]
    assert batch.context["origin"].tolist() == ["JFK", "EWR"]
    assert [i.name for i in window.info.inputs] == ["x"]


def test_context_of_one_column_is_one_value_a_request(tmp_path):
    side = {"feature:km": np.array([[1.5], [2.5]]), "cx:origin": np.array([["JFK"], ["EWR"]])}
    _, batch = opened(npz(tmp_path, x=np.zeros((2, 1)), **side))
    assert batch.context["feature:km"].tolist() == ["1.5", "2.5"]
    assert batch.context["origin"].tolist() == ["JFK", "EWR"]


def test_context_of_several_values_a_request_is_refused(tmp_path):
    message = refused(npz(tmp_path, x=np.zeros(2), **{"cx:km": np.full((2, 30), 1.25)}))
    assert "column 'cx:km' holds lists, such as [1.25, 1.25, 1.25, 1.25, 1.25, 1.25, …]" in message


def test_a_logged_feature_of_several_columns_is_a_list_a_request(tmp_path):
    logged = np.array([[1.5, np.nan, 0.1], [2.5, np.inf, -0.0]])
    _, batch = opened(npz(tmp_path, x=np.zeros(2), **{"feature:km": logged}))
    assert batch.context["feature:km"].tolist() == ["[1.5, NaN, 0.1]", "[2.5, Infinity, -0.0]"]


def test_npz_with_python_objects_is_refused_and_not_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pickle.loads, (b"never",))

    message = refused(npz(tmp_path, x=np.array([Bomb()], object)))
    assert "Python objects" in message


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.zeros(2, complex)}, "numpy type complex128"),
        ({"x": np.zeros(2), "ts_ns": np.zeros(3, int)}, "'ts_ns' has 3 values for 2 requests"),
        ({"x": np.zeros(2), "ts_ns": np.zeros(2)}, "'ts_ns' is not all integers"),
        ({"ts_ns": np.zeros(2, int)}, "no input columns"),
    ],
)
def test_npz_that_is_no_table_is_named(tmp_path, arrays, said):
    assert said in refused(npz(tmp_path, **arrays))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.zeros((2, 3))}, "no column for the model's input 'y'"),
        ({"x": np.zeros((2, 3)), "z": np.zeros(2)}, "'z' is no input of the model"),
        ({"x": np.zeros((2, 4)), "y": np.zeros(2)}, "rows of shape [4] where the model takes x"),
        ({"x": np.zeros((2, 3)), "y": np.zeros(3)}, "different numbers of rows: x 2, y 3"),
    ],
)
def test_npz_that_does_not_fit_the_model_is_named(tmp_path, arrays, said):
    assert said in refused(npz(tmp_path, **arrays), [spec("x", "FP64", 3), spec("y", "FP64")])


def test_damaged_npz_is_named(tmp_path):
    path = npz(tmp_path, x=np.arange(1000.0))
    path.write_bytes(path.read_bytes()[:500])
    assert "t.npz: cannot be read as .npz" in refused(path)
    np.save(tmp_path / "one", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    assert "one bare array" in refused(tmp_path / "one.npz")


# .parquet


def test_pandas_tables_are_cast_to_what_the_model_takes(tmp_path):
    frame = pd.DataFrame(
        {"f": [0.5, np.nan, -2.0], "i": [1, 2, 3], "s": ["a", "b", "a"], "b": [True, False, True]}
    )
    frame.to_parquet(tmp_path / "t.parquet")
    specs = [spec("f", "FP32"), spec("i", "INT32"), spec("s", "BYTES"), spec("b", "BOOL")]
    _, batch = opened(tmp_path / "t.parquet", specs)
    assert batch.inputs["f"].dtype == np.float32
    assert batch.inputs["i"].dtype == np.int32
    np.testing.assert_array_equal(batch.inputs["f"], np.float32([0.5, np.nan, -2.0]))
    assert batch.inputs["i"].tolist() == [1, 2, 3]
    assert batch.inputs["s"].tolist() == ["a", "b", "a"]
    assert batch.inputs["b"].tolist() == [True, False, True]


def test_parquet_lists_are_rows_or_trailing_dimensions_as_declared(tmp_path):
    table = {"v": [[1.0, 2.0], [3.0, 4.0]], "r": [[1], [2]], "m": [[[1, 2]], [[3, 4]]]}
    path = parquet(tmp_path, table)
    specs = [spec("v", "FP32", 2), spec("r", "INT64"), spec("m", "INT64", 2)]
    _, batch = opened(path, specs)
    assert batch.rows.tolist() == [1, 1]
    assert batch.inputs["v"].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert batch.inputs["r"].tolist() == [1, 2]
    assert batch.inputs["m"].tolist() == [[1, 2], [3, 4]]


def test_requests_of_several_rows(tmp_path):
    path = parquet(tmp_path, {"x": [[1.0, 2.0, 3.0], [4.0]], "y": [[1, 2, 3], [4]]})
    _, batch = opened(path, [spec("x", "FP64"), spec("y", "INT64")])
    assert batch.rows.tolist() == [3, 1]
    assert batch.inputs["x"].tolist() == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("table", "datatype", "said"),
    [
        ({"x": [0.1]}, "FP32", "holds 0.1 (float64), which FP32 cannot hold exactly"),
        ({"x": [300]}, "INT8", "holds 300 (int64)"),
        ({"x": [0.5]}, "INT64", "holds 0.5"),
        ({"x": [-1]}, "UINT64", "holds -1"),
        ({"x": ["a"]}, "FP32", "holds text where the model takes FP32"),
        ({"x": [1]}, "BYTES", "holds int64 where the model takes BYTES"),
        ({"x": [1]}, "BOOL", "holds int64 where the model takes BOOL"),
        ({"x": [1, None]}, "INT64", "has 1 empty value, in row 1 (from 0)"),
        ({"x": ["a", None]}, "BYTES", "has 1 empty value, in row 1 (from 0)"),
        ({"x": [None, "a", None]}, "BYTES", "has 2 empty values, the first in row 0 (from 0)"),
        ({"x": [["a"], ["b", None]]}, "BYTES", "has 1 empty value, in row 1 (from 0)"),
        (
            {"x": pa.array([["a"], None], pa.list_(pa.dictionary(pa.int8(), pa.string())))},
            "BYTES",
            "in row 1",
        ),
        ({"x": [["a"], None]}, "BYTES", "has 1 empty value, in row 1 (from 0)"),
        ({"x": pa.array([0], pa.timestamp("ms"))}, "INT64", "holds timestamp[ms]"),
        ({"x": [{"a": 1}]}, "INT64", "holds struct<a: int64>"),
        ({"x": [[{"a": 1}]]}, "INT64", "holds list<element: struct<a: int64>>"),
        (
            {"x": pa.array([[0]], pa.list_(pa.date32()))},
            "INT64",
            "holds list<element: date32[day]>",
        ),
        ({"x": [[1.0, 2.0]]}, "OTHER:sequence", "is sequence, which no recorded request can carry"),
    ],
)
def test_values_that_would_change_are_refused(tmp_path, table, datatype, said):
    shape = (2,) if datatype.startswith("OTHER") else ()
    message = refused(parquet(tmp_path, table), [spec("x", datatype, *shape)])
    assert "t.parquet: " in message
    assert "'x'" in message
    assert said in message


def test_empty_cells_are_counted_and_named_by_the_row_of_the_file(tmp_path):
    words = ["a"] * (2 * PIECE_ROWS + 5)
    words[PIECE_ROWS + 3] = words[2 * PIECE_ROWS + 1] = None
    path = parquet(tmp_path, {"x": pa.array(words).dictionary_encode()})
    message = refused(path, [spec("x", "BYTES")])
    assert f"has 2 empty values, the first in row {PIECE_ROWS + 3:,} (from 0)" in message


def as_text(words):
    """Bytes in a column that says it is text; nothing but the reader looks at them."""
    raw = pa.array(words, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(words), raw.buffers())


@pytest.mark.parametrize("name", ["x", "cx:user", "request_id"])
@pytest.mark.parametrize("form", ["plain", "dictionary", "listed"])
def test_bytes_that_are_no_text_are_named_by_column_and_row(tmp_path, name, form):
    words = [b"a"] * (PIECE_ROWS + 5)
    words[PIECE_ROWS + 3] = b"\xff\xfeA"
    column = as_text(words)
    if form == "dictionary":
        places = pa.array([0] * (PIECE_ROWS + 3) + [1, 0], pa.int32())
        column = pa.DictionaryArray.from_arrays(places, as_text([b"a", b"\xff\xfeA"]))
    if form == "listed":
        column = pa.ListArray.from_arrays(np.arange(len(words) + 1), column)
    plain = pa.array(["a"] * len(words))
    path = parquet(tmp_path, {"x": plain} | {name: column})
    message = refused(path, [spec("x", "BYTES", *([1] if (form, name) == ("listed", "x") else []))])
    said = f"column '{name}' holds bytes that are no UTF-8 text, in row {PIECE_ROWS + 3:,} (from 0)"
    assert said in message


# .jsonl


def test_jsonl_scalars_and_lists(tmp_path):
    path = jsonl(
        tmp_path,
        {"x": 0.1, "v": [1, 2], "s": "a", "b": True, "ts_ns": 7, "cx:user": "u"},
        {"x": 2, "v": [3, 4], "s": "b", "b": False, "ts_ns": 8, "cx:user": None},
    )
    window, batch = opened(path)
    assert batch.inputs["x"].tolist() == [0.1, 2.0]
    assert batch.inputs["v"].tolist() == [[1, 2], [3, 4]]
    assert batch.inputs["s"].tolist() == ["a", "b"]
    assert batch.inputs["b"].tolist() == [True, False]
    assert batch.ts_ns.tolist() == [7, 8]
    assert batch.context["user"].tolist() == ["u", ""]
    assert [i.datatype for i in window.info.inputs] == ["FP64", "INT64", "BYTES", "BOOL"]


def test_json_decimals_become_the_nearest_declared_float(tmp_path):
    path = jsonl(tmp_path, {"x": 0.1}, {"x": None}, {"x": 3})
    _, batch = opened(path, [spec("x", "FP32")])
    np.testing.assert_array_equal(batch.inputs["x"], np.float32([0.1, np.nan, 3]))


def test_jsonl_requests_of_several_rows(tmp_path):
    path = jsonl(tmp_path, {"x": [1, 2], "v": [[1], [2]]}, {"x": [3], "v": [[3]]})
    _, batch = opened(path, [spec("x", "INT64"), spec("v", "INT64", 1)])
    assert batch.rows.tolist() == [2, 1]
    assert batch.inputs["v"].tolist() == [[1], [2], [3]]


WITHOUT_ROWS = {"f": [], "s": [], "b": [], "m": []}
ROWS = {"f": [[1, 2, 3, 4]], "s": ["a"], "b": [True], "m": [[[1], [2]]]}


@pytest.mark.parametrize("lines", [[WITHOUT_ROWS, ROWS, WITHOUT_ROWS], [WITHOUT_ROWS]])
@pytest.mark.parametrize("make", [jsonl, lambda folder, *lines: parquet(folder, rowwise(lines))])
def test_empty_lists_are_a_request_without_a_row(tmp_path, lines, make):
    """JSON cannot say a shape of (0, 4); the model's own says what the list leaves out."""
    specs = [
        spec("f", "FP32", 4),
        spec("s", "BYTES"),
        spec("b", "BOOL", 1),
        spec("m", "INT64", 2, 1),
    ]
    window, batch = opened(make(tmp_path, *lines), specs)
    assert window.info.count == len(lines)
    assert batch.rows.tolist() == [len(line["f"]) for line in lines]
    found = {name: (values.dtype, values.shape[1:]) for name, values in batch.inputs.items()}
    assert found == {
        "f": (np.float32, (4,)), "s": (object, ()), "b": (bool, (1,)), "m": (np.int64, (2, 1)),
    }  # fmt: skip


def rowwise(lines):
    """One value a line of each column, with the types of columns that hold any."""
    kinds = pa.Table.from_pylist([ROWS]).schema
    return pa.Table.from_pylist(list(lines), kinds)


def test_only_some_inputs_without_rows_are_unequal_rows(tmp_path):
    path = jsonl(tmp_path, {"x": [], "y": [1.0]}, {"x": [[1, 2]], "y": [1.0]})
    window, batch = opened(path, [spec("x", "FP32", 2), spec("y", "FP32")])
    assert batch.rows.tolist() == [1]
    assert window.info.not_sealed == (("tensors disagree on the number of rows: [0, 1]", 1),)


@pytest.mark.parametrize(
    ("shape", "value"), [((None, 4), []), ((2, None), []), ((4,), [[]]), ((None, 4), [[]])]
)
def test_lists_without_values_of_no_shape_are_left_out(tmp_path, shape, value):
    row = np.ones([1, *(d or 3 for d in shape)], int).tolist()
    with pytest.raises(TrafficError, match=r"t.jsonl:2: column 'x' has rows of shape") as caught:
        opened(jsonl(tmp_path, {"x": row}, {"x": value}), [spec("x", "INT64", *shape)])
    assert caught.value.remedy.startswith("Leave this request out")


@pytest.mark.parametrize(
    ("lines", "datatype", "said"),
    [
        ([{"x": 1}, {"y": 1}], "INT64", "t.jsonl:2: other columns than line 1: x, y"),
        (
            [{"x": 1}, {"x": "a"}],
            "INT64",
            "t.jsonl:2: column 'x' holds text where the model takes INT64",
        ),
        (
            [{"x": "a"}, {"x": None}],
            "BYTES",
            "t.jsonl:2: column 'x' holds null, which no value of BYTES",
        ),
        ([{"x": 1}, {"x": None}], "INT64", "t.jsonl:2: column 'x' holds null"),
        ([{"x": {"a": 1}}], "INT64", "'x' holds objects"),
        ([{"x": 2**40}], "INT32", "'x' holds 1099511627776"),
        ([{"x": 1e300}], "FP32", "'x' holds 1e+300"),
        ([{"x": True}], "FP32", "'x' holds booleans where the model takes FP32"),
        ([{"x": [[1], [2, 3]]}], "INT64", "lists of different lengths"),
    ],
)
def test_json_that_does_not_fit_is_named(tmp_path, lines, datatype, said):
    assert said in refused(jsonl(tmp_path, *lines), [spec("x", datatype)])


@pytest.mark.parametrize(
    ("value", "datatype", "remedy"),
    [
        ("a", "FP32", "Write the column as numbers, of type FP32."),
        (1.5, "BYTES", "Write the column as text."),
        (1.5, "BOOL", "Write the column as booleans."),
        (2**60 + 1, "FP32", "Round it yourself, or write it with a decimal point"),
    ],
)
def test_the_remedy_fits_what_is_wrong(tmp_path, value, datatype, remedy):
    with pytest.raises(TrafficError) as caught:
        opened(jsonl(tmp_path, {"x": value}), [spec("x", datatype)])
    assert caught.value.remedy.startswith(remedy)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["a", "b", None], "t.jsonl:3: column 'x' holds null, which no value of BYTES"),
        ([1, 2, "a"], "t.jsonl:3: column 'x' holds numbers and text"),
        ([["a"], [None]], "t.jsonl:2: column 'x' holds null"),
    ],
)
def test_the_odd_line_is_named_where_no_model_says_what_it_takes(tmp_path, values, said):
    assert said in refused(jsonl(tmp_path, *({"x": v} for v in values)))


def test_lines_that_are_no_objects_are_named(tmp_path):
    path = tmp_path / "t.jsonl"
    for text in ('{"x": 1}\n{"x": ', "[1]\n", "[" * 100_000):
        path.write_text(text)
        assert "no JSON object" in refused(path)
    path.write_text("\n")
    assert "no input columns" in refused(path)


# any kind


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"x": 1.5}\n{"x": 1e400}', "t.jsonl:2: holds 1e400, which no float can hold"),
        ('{"x": 1, "x": 2}', "t.jsonl:1: names 'x' twice"),
    ],
)
def test_json_that_a_reader_would_take_for_something_else_is_named(tmp_path, text, said):
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    assert said in refused(path, [spec("x", "FP32")])


@pytest.mark.parametrize(
    ("value", "datatype"),
    [(2**24 + 1, "FP32"), (2**53 + 1, "FP64"), (2**11 + 1, "FP16"), (10**400, "FP64")],
)
def test_json_integers_that_a_float_would_round_are_refused(tmp_path, value, datatype):
    assert "cannot hold exactly" in refused(
        jsonl(tmp_path, {"x": value}, {"x": 0.5}), [spec("x", datatype)]
    )


def test_json_integers_that_a_float_holds_are_kept_however_large(tmp_path):
    _, batch = opened(jsonl(tmp_path, {"x": 2**60}), [spec("x", "FP32")])
    assert batch.inputs["x"].tolist() == [2.0**60]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"ts_ns": 10**20}, "column 'ts_ns' holds 100000000000000000000"),
        ({"ts_ns": -(10**20)}, "column 'ts_ns' holds -100000000000000000000"),
        ({"request_id": "a\ud800"}, "column 'request_id' holds 'a\\ud800', which is no Unicode"),
        ({f"{CONTEXT}a": "\ud800"}, f"column '{CONTEXT}a' holds '\\ud800', which is no Unicode"),
        ({f"{CONTEXT}\ud800": "a"}, f"a column is called '{CONTEXT}\\ud800', which is no Unicode"),
        ({"\ud800": 1}, "a column is called '\\ud800', which is no Unicode"),
    ],
)
def test_times_and_texts_that_no_request_can_carry_are_named(tmp_path, line, said):
    assert said in refused(jsonl(tmp_path, {"x": 1.0, **line}))


def test_two_columns_of_one_name_are_refused(tmp_path):
    column = pa.array([1.0])
    table = pa.Table.from_arrays([column, column], names=["x", "x"])
    assert "two columns are called 'x'" in refused(parquet(tmp_path, table), [spec("x", "FP64")])


def test_two_rows_with_one_id_are_refused_wherever_they_stand(tmp_path):
    n = 3000
    ids = [f"r{i}" for i in range(n)]
    ids[2500] = "r7"
    path = parquet(tmp_path, {"x": np.zeros(n), "request_id": ids})
    assert "rows 7 and 2500 (from 0) have the same request_id 'r7'" in refused(path)


def test_long_tables_are_read_in_pieces(tmp_path):
    x = np.arange(2500.0)
    window, batch = opened(npz(tmp_path, x=x))
    assert batch.inputs["x"].tolist() == x.tolist()
    assert batch.request_id[2499] == "row-2499"
    assert window.info.not_sealed == ()


def test_several_tables_are_one_sequence(tmp_path):
    first, second = jsonl(tmp_path, {"x": 1.5}), npz(tmp_path, x=np.array([2.5]))
    window = open_traffic([first, second], tmp_path / "cache")
    batch = window.read(np.argsort(window.index().seq()))
    assert batch.inputs["x"].tolist() == [1.5, 2.5]
    assert batch.request_id.tolist() == ["row-0", "row-1"]


def test_other_declared_types_are_another_window(tmp_path):
    path = npz(tmp_path, x=np.array([1, 2]))
    single, _ = opened(path, [spec("x", "FP32")])
    double, _ = opened(path, [spec("x", "FP64")])
    assert single.info.inputs[0].datatype == "FP32"
    assert double.info.inputs[0].datatype == "FP64"


def test_recorded_traffic_and_sealed_windows_are_opened(tmp_path):
    with TrafficWriter(tmp_path / "t") as writer:
        writer.write(exchange(i) for i in range(5))
    assert open_traffic([tmp_path / "t"], tmp_path / "cache").info.count == 5
    assert open_traffic([writer.files[0]], tmp_path / "cache").info.count == 5
    window = seal(TrafficSource.open([tmp_path / "t"]), tmp_path / "w", seed=1)
    assert open_traffic([tmp_path / "w"], tmp_path / "cache").info == window.info


def test_windows_below_a_traffic_folder_are_no_traffic(tmp_path):
    with TrafficWriter(tmp_path / "t") as writer:
        writer.write([exchange(1)])
    open_traffic([tmp_path / "t"], tmp_path / "t" / "cache")
    assert len(TrafficSource.open([tmp_path / "t"])) == 1


def test_the_window_does_not_depend_on_the_working_folder(tmp_path, monkeypatch):
    path = npz(tmp_path, x=np.zeros(2))
    monkeypatch.chdir(tmp_path)
    window = open_traffic([path], tmp_path.__class__("cache"))
    assert window.path.is_absolute()


def test_mixtures_and_unknown_files_are_refused(tmp_path):
    table = npz(tmp_path, x=np.zeros(2))
    with TrafficWriter(tmp_path / "t") as writer:
        writer.write([exchange(1)])
    seal(TrafficSource.open([tmp_path / "t"]), tmp_path / "w", seed=1)
    (tmp_path / "a.csv").touch()
    for paths, said in [
        ([table, tmp_path / "t"], "a table beside recorded traffic"),
        ([tmp_path / "w", tmp_path / "t"], "a sealed window beside other traffic"),
        ([tmp_path / "a.csv"], "neither traffic nor a table"),
        ([tmp_path / "gone"], "no such file or folder"),
    ]:
        with pytest.raises(TrafficError, match=said):
            open_traffic(paths, tmp_path / "cache")


NUMBERS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=True))


@settings(deadline=None, max_examples=200)
@given(NUMBERS, st.sampled_from(["INT8", "INT64", "UINT8", "UINT64", "FP16", "FP32", "FP64"]))
def test_a_cast_keeps_the_value_or_is_refused(value, datatype):
    array = np.array([value])
    try:
        cast = cast_lossless("t", "x", array, datatype)
    except TrafficError:
        return
    before, after = array.tolist()[0], cast.tolist()[0]
    # Python compares int and float exactly.
    assert after == before or (np.isnan(before) and np.isnan(after))


def test_the_smallest_integer_is_no_infinity():
    with pytest.raises(TrafficError, match="cannot hold exactly"):
        cast_lossless("t", "x", np.array([-(2**63)]), "FP16")


@pytest.mark.parametrize("width", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_infinity_is_no_integer(value, width):
    with pytest.raises(TrafficError, match="cannot hold exactly"):
        cast_lossless("t", "x", np.array([value], width), "INT64")


def test_small_numbers_are_not_refused_for_nothing():
    for datatype in ("INT8", "UINT8", "INT64", "UINT64", "FP16", "FP32", "FP64"):
        for array in (np.array([3]), np.array([3.0]), np.array([3], np.uint8)):
            assert cast_lossless("t", "x", array, datatype).tolist() == [3]


def test_rows_are_the_same_bytes_as_requests_one_by_one():
    columns = {
        "x": np.arange(3, dtype=np.float32),
        "s": np.array([["a", "b"], ["", "é"], ["x" * 300, "y"]], object),
        "v": np.arange(12).reshape(3, 2, 2),
        "b": np.array([True, False, True]),
    }
    ids = ["row-0", "", "row-2"]
    assert requests_from_rows("m", columns, ids) == [
        request_bytes("m", {n: c[i : i + 1] for n, c in columns.items()}, ids[i]) for i in range(3)
    ]


@pytest.mark.parametrize(
    ("descr", "value", "said"),
    [
        ("<U1", b"\x00\x00\x11\x00", "no Unicode"),
        ("<U1", b"\x00\xd8\x00\x00", "no Unicode"),
        ("<f8", b"", "claims 1 values of float64 and has 0 bytes"),
    ],
)
def test_npz_with_values_that_are_none_is_named(tmp_path, descr, value, said):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': (1,), }}\n".encode()
    path = tmp_path / "t.npz"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(
            "x.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + value
        )
    assert said in refused(path)


# One value a row: (N,) is taken for (N, 1)


@pytest.mark.parametrize(
    ("made", "datatype"),
    [
        (lambda f: jsonl(f, {"c": "a"}, {"c": "b"}), "BYTES"),
        (lambda f: jsonl(f, {"c": ["a"]}, {"c": ["b"]}), "BYTES"),
        (lambda f: jsonl(f, {"c": [["a"]]}, {"c": "b"}), "BYTES"),
        (lambda f: jsonl(f, {"c": 1.5}, {"c": [[2.5]]}), "FP32"),
        (lambda f: parquet(f, {"c": ["a", "b"]}), "BYTES"),
        (lambda f: parquet(f, {"c": [1.5, 2.5]}), "FP32"),
        (lambda f: npz(f, c=np.array(["a", "b"])), "BYTES"),
        (lambda f: npz(f, c=np.array([1.5, 2.5])), "FP32"),
    ],
)
def test_flat_values_are_rows_of_one_where_the_model_takes_these(tmp_path, made, datatype):
    window, batch = opened(made(tmp_path), [spec("c", datatype, 1)])
    assert window.info.count == 2
    expected = [["a"], ["b"]] if datatype == "BYTES" else [[1.5], [2.5]]
    assert batch.inputs["c"].tolist() == expected


def test_a_flat_column_of_several_rows_a_request_is_rows_of_one(tmp_path):
    path = jsonl(tmp_path, {"c": ["a", "b"]}, {"c": "d"})
    _, batch = opened(path, [spec("c", "BYTES", 1)])
    assert batch.rows.tolist() == [2, 1]
    assert batch.inputs["c"].tolist() == [["a"], ["b"], ["d"]]


def test_a_single_text_where_rows_of_several_are_taken_is_refused(tmp_path):
    path = jsonl(tmp_path, {"c": "a"}, {"c": ["a", "b"]})
    assert "has a single value where the model takes c" in refused(path, [spec("c", "BYTES", 2)])


@pytest.mark.parametrize(
    ("taken", "found", "remedy"),
    [
        (TensorSpec(name="s", datatype="FP64", shape=(), any_rank=True), "takes rows of s FP64", "[rows, …]"),
        (TensorSpec(name="s", datatype="FP64", shape=(None, 2)), "takes s FP64[?, ?, 2]", "[rows, any, 2]"),
    ],
)  # fmt: skip
def test_a_single_value_beside_rows_is_refused_with_the_shape_that_is_taken(
    tmp_path, taken, found, remedy
):
    path = npz(tmp_path, x=np.zeros((3, 2)), s=np.float64(2))
    with pytest.raises(TrafficError) as caught:
        opened(path, [spec("x", "FP64", 2), taken])
    assert "'s' has a single value where the model " + found in caught.value.what
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("kind", ["npz", "parquet", "jsonl"])
def test_an_input_of_undeclared_rank_is_one_row_a_request_of_any_shape(tmp_path, kind):
    anything = TensorSpec(name="x", datatype="FP64", shape=(), any_rank=True)
    values, more = [[[1.0, 2.0]], [[3.0, 4.0]]], [5.0, 6.0]
    path = {
        "npz": lambda: npz(tmp_path, x=np.array(values), z=np.array(more)),
        "parquet": lambda: parquet(tmp_path, {"x": values, "z": more}),
        "jsonl": lambda: jsonl(
            tmp_path, *({"x": x, "z": z} for x, z in zip(values, more, strict=True))
        ),
    }[kind]()
    _, batch = opened(path, [anything, spec("z", "FP64")])
    assert batch.rows.tolist() == [1, 1]
    assert batch.inputs["x"].tolist() == values
    assert batch.inputs["z"].tolist() == more


def test_arrays_of_undeclared_rank_that_share_their_first_axis_are_that_many_requests(tmp_path):
    specs = [TensorSpec(name=n, datatype="FP64", shape=(), any_rank=True) for n in "xz"]
    shared = npz(tmp_path, x=np.ones((3, 2)), z=np.ones(3))
    assert opened(shared, specs)[1].inputs["x"].shape == (3, 2)
    other = npz(tmp_path, x=np.ones((3, 2)), z=np.ones(4))
    assert opened(other, specs)[1].inputs["x"].shape == (1, 3, 2)


@pytest.mark.parametrize(
    ("count", "rows"),
    [(8, [[0, 1, 2, 3], [4, 5, 6, 7]]), (6, [[0, 1, 2, 3], [4, 5, 0, 1]]), (3, [[0, 1, 2, 0]])],
)
@pytest.mark.parametrize("kind", ["npz", "parquet", "jsonl"])
def test_bare_rows_are_put_together_for_a_model_of_batches_of_one_size(tmp_path, kind, count, rows):
    x = np.arange(count, dtype=np.float64)
    path = {
        "npz": lambda: npz(tmp_path, x=x),
        "parquet": lambda: parquet(tmp_path, {"x": x.tolist()}),
        "jsonl": lambda: jsonl(tmp_path, *({"x": value} for value in x.tolist())),
    }[kind]()
    window, batch = opened(path, [spec("x", "FP64")], rows=(("x", 4),))
    assert batch.inputs["x"].reshape(-1, 4).tolist() == rows
    assert batch.rows.tolist() == [4] * len(rows)
    assert list(batch.request_id) == [f"row-{4 * i}" for i in range(len(rows))]
    assert (window.info.together, window.index().of_other_rows(4)) == (4, 0)


def test_rows_are_put_together_across_pieces_and_texts_too(tmp_path):
    words = np.array([f"w{i % 7}" for i in range(2500)])
    _, batch = opened(npz(tmp_path, x=words), [spec("x", "BYTES")], rows=(("x", 7),))
    assert batch.inputs["x"][:2500].tolist() == words.tolist()
    assert batch.inputs["x"][2500:].tolist() == words[: 7 * 358 - 2500].tolist()


@pytest.mark.parametrize("value", [True, 1.0, "x" * 1000])
def test_a_batch_far_larger_than_the_table_is_refused(tmp_path, value):
    kind = {bool: "BOOL", float: "FP64", str: "BYTES"}[type(value)]
    path = npz(tmp_path, x=np.array([value] * 3))
    rows = 300_000 if kind == "BYTES" else 10_000_000
    with pytest.raises(TrafficError) as error:
        opened(path, [spec("x", kind)], rows=(("x", rows),))
    assert f"batches of {rows:,} rows and no others, and there are 3 rows" in str(error.value)
    assert "free number of rows" in str(error.value)


@pytest.mark.parametrize(
    "more", [{"request_id": ["a", "b"]}, {"ts_ns": [1, 2]}, {"cx:c": ["u", "v"]}, {"x": [[1.0, 2.0], [3.0]]}]
)  # fmt: skip
def test_rows_of_which_a_table_says_more_stay_requests_of_their_own(tmp_path, more):
    path = parquet(tmp_path, {"x": [1.0, 2.0]} | more)
    window, batch = opened(path, [spec("x", "FP64")], rows=(("x", 4),))
    assert len(batch) == 2
    assert (window.info.together, window.index().of_other_rows(4)) == (0, 2)
    assert window.index().of_other_rows(1) == ("x" in more)


def test_a_line_of_many_names_is_read_quickly(tmp_path):
    path = tmp_path / "t.jsonl"
    names = ",".join(f'"k{i}": 1' for i in range(30_000))
    path.write_text(f'{{{names}, "k29999": 2}}')
    start = time.process_time()
    assert "names 'k29999' twice" in refused(path)
    assert time.process_time() - start < 3.0

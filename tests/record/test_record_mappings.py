"""A mapping says names and types of bodies, where no model is at hand: for every format the same file."""

import json

import logs_made as made
import numpy as np
import pytest
from test_record_importers import traffic, write_source

from harness.cli.entry import run
from harness.record.importers.columns import BodyMapping, TensorColumn
from harness.record.importers.parts import Payload, PayloadError
from harness.record.importers.payloads import Messages
from harness.wire.messages import request_bytes, tensors_from_request, tensors_from_response

MAPPING = """
version: 1
inputs:
  - {name: carrier, datatype: BYTES}
  - {name: distance, datatype: FP32}
  - {name: hour, datatype: INT64}
outputs: [{name: p, datatype: FP32}]
"""


def imported(kind, source, folder, mapping, *more):
    file = folder / "mapping.yaml"
    file.write_text(mapping)
    return run(["traffic", "import", kind, str(source), "--to", str(folder / "t"), "--json",
                "--mapping", str(file), *more])  # fmt: skip


@pytest.mark.parametrize(
    ("form", "kind"),
    [("kserve.parquet", "kserve"), ("kserve.csv", "kserve"), ("sagemaker.CSV", "sagemaker"),
     ("sagemaker.JSON", "sagemaker"), ("databricks.old", "databricks"), ("databricks.new", "mlflow"),
     ("seldon.kcat", "seldon"), ("seldon.parquet", "seldon")],
)  # fmt: skip
def test_a_mapping_gives_what_the_models_signature_gives(form, kind, tmp_path, capsys):
    recorded = [made.exchange(i, rows=1 + i % 2) for i in range(4)]
    write_source(form, tmp_path / "logs", recorded)
    assert imported(kind, tmp_path / "logs", tmp_path, MAPPING, "--wait", "0s") == 0
    assert json.loads(capsys.readouterr().out)["joined"] == 4
    made.same(traffic(tmp_path / "t"), recorded)


BODIES = BodyMapping(
    inputs=(
        TensorColumn(name="x", column="from", datatype="FP32", shape=(1,)),
        TensorColumn(name="n", column="n", datatype="INT32"),
    ),
    outputs=(TensorColumn(name="y", column="y", datatype="FP32"),),
)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"instances": [[0.1, 2], [0.3, 4]]}', "application/json"),
        (b'{"instances": [{"n": 2, "from": 0.1}, {"n": 4, "from": 0.3}]}', ""),
        (b'{"inputs": {"from": [0.1, 0.3], "n": [2, 4]}}', ""),
        (b'{"dataframe_split": {"columns": ["n", "from"], "data": [[2, 0.1], [4, 0.3]]}}', ""),
        (b"0.1,2\n0.3,4\n", "text/csv"),
        (b"n,from\n2,0.1\n4,0.3\n", "text/csv"),
    ],
)
def test_values_get_the_names_types_and_shapes_of_the_mapping(body, kind):
    message = Messages(BODIES).request(Payload(content=body, content_type=kind), "m", "a")
    found = tensors_from_request(message)
    assert found["x"].tolist() == np.array([[0.1], [0.3]], np.float32).tolist()
    assert (found["n"].dtype, found["n"].tolist()) == (np.int32, [2, 4])


def test_an_answer_without_names_gets_them_from_the_mapping():
    message = Messages(BODIES).response(Payload(content=b'{"predictions": [1, 2]}'), "m", "1", "a")
    found = tensors_from_response(message)["y"]
    assert (found.dtype, found.tolist()) == (np.float32, [1.0, 2.0])


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"x": np.ones((1, 1))}, "its own 'x' is float64 where the mapping says FP32"),
        ({"z": np.ones(1, np.float32)}, "none is the mapping's 'x': z"),
    ],
)
def test_bodies_with_names_of_their_own_must_agree_with_the_mapping(tensors, said):
    document = {"inputs": [
        {"name": n, "datatype": f"FP{a.itemsize * 8}", "shape": list(a.shape), "data": a.ravel().tolist()}
        for n, a in tensors.items()
    ]}  # fmt: skip
    for content in (request_bytes("m", tensors, "a"), json.dumps(document).encode()):
        with pytest.raises(PayloadError, match=said):
            Messages(BODIES).request(Payload(content=content), "m", "a")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("version: 1", "version: 1\ntime: {column: ts, unit: ms}", "time: is for tables: logs of sagemaker"),
        ("outputs:", "output:", "Did you mean 'outputs'"),
        ("datatype: FP32}\n", "datatype: float}\n", "is 'float'"),
        ("{name: hour, ", "{name: hour, column: carrier, ", "has a column twice"),
        ("name: distance, datatype: FP32", "name: distance, datatype: FP32, shape: [0]", "whole numbers above 0"),
        ("  - {name: hour, datatype: INT64}\n", "", "3 values a line where the model takes 2"),
        ("name: hour, datatype: INT64", "name: hour, datatype: BOOL", "no BOOL"),
        ("name: distance, datatype: FP32", "name: distance, datatype: FP32, shape: [2]", "has the shape [1]"),
    ],
)  # fmt: skip
def test_a_wrong_mapping_is_a_usage_error_that_says_what_is_right(old, new, said, tmp_path, capsys):
    (tmp_path / "x.jsonl").write_text(made.capture(made.exchange(0)))
    assert old in MAPPING
    wrong = MAPPING.replace(old, new)
    assert imported("sagemaker", tmp_path / "x.jsonl", tmp_path, wrong) == 2
    assert said in capsys.readouterr().err


def test_a_mapping_that_no_message_agrees_with_is_a_usage_error(tmp_path, capsys):
    write_source("seldon.kcat", tmp_path / "logs", [made.exchange(0)])
    wrong = MAPPING.replace("FP32", "FP64")
    assert imported("seldon", tmp_path / "logs", tmp_path, wrong) == 2
    assert "its own 'distance' is float32 where the mapping says FP64" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mapping", "said"),
    [("version: 1", "inputs: is missing"), (MAPPING, "--mapping: stands beside --model")],
)
def test_a_mapping_of_nothing_or_beside_a_model_is_refused(mapping, said, tmp_path, capsys):
    (tmp_path / "x.jsonl").write_text(made.capture(made.exchange(0)))
    more = ["--model", "m.onnx"] if mapping is MAPPING else []
    assert imported("mlflow", tmp_path / "x.jsonl", tmp_path, mapping, *more) == 2
    assert said in capsys.readouterr().err


def test_a_tables_column_takes_the_shape_of_the_mapping(tmp_path):
    (tmp_path / "t.jsonl").write_text(json.dumps({"id": "a", "at": 1, "x": 1.5}))
    mapping = """
version: 1
request_id: id
time: {column: at, unit: ms}
model: m
inputs: [{name: x, datatype: FP32, shape: [1]}]
"""
    assert imported("table", tmp_path / "t.jsonl", tmp_path, mapping) == 0
    (exchange,) = traffic(tmp_path / "t")
    assert tensors_from_request(exchange.request)["x"].tolist() == [[1.5]]

"""`harness traffic import`: what a user gets, and what a mistake says."""

import json

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper

from harness.cli.entry import run
from harness.store.traffic import TrafficSource
from harness.wire.messages import tensors_from_request, tensors_from_response

MAPPING = """
version: 1
request_id: id
time: {column: at, unit: ms}
model: m
inputs: [{name: x, datatype: FP32}]
outputs: [{name: y, datatype: FP32}]
"""


@pytest.fixture
def model(tmp_path):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, str(tmp_path / "m.onnx"))
    return tmp_path / "m.onnx"


def table(tmp_path, mapping=MAPPING):
    (tmp_path / "m.yaml").write_text(mapping)
    rows = [{"id": f"r{i}", "at": 1000 + i, "x": i / 2, "y": i} for i in range(5)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return ["traffic", "import", "table", str(tmp_path / "t.jsonl"), "--to", str(tmp_path / "t"),
            "--mapping", str(tmp_path / "m.yaml")]  # fmt: skip


def test_a_table_becomes_traffic(tmp_path, capsys):
    assert run([*table(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["joined"], report["written"]) == (5, 5)
    assert len(TrafficSource.open([tmp_path / "t"])) == 5
    assert run(["traffic", "show", str(tmp_path / "t"), "--model", "m"]) == 0
    assert "5 exchanges" in capsys.readouterr().out


def test_a_signature_comes_from_the_model(tmp_path, model, capsys):
    row = {"captureData": {"endpointInput": {"observedContentType": "text/csv", "mode": "INPUT", "data": "1,2\n3,4",
           "encoding": "CSV"}}, "eventMetadata": {"eventId": "a", "inferenceTime": "2024-01-01T00:00:00Z"}}  # fmt: skip
    (tmp_path / "c.jsonl").write_text(json.dumps(row))
    arguments = [
        "traffic",
        "import",
        "sagemaker",
        str(tmp_path / "c.jsonl"),
        "--to",
        str(tmp_path / "t"),
    ]
    code = run([*arguments, "--model", str(model), "--model-name", "m", "--allow-lower-isolation"])
    assert code == 0, capsys.readouterr().err
    (exchange,) = TrafficSource.open([tmp_path / "t"]).exchanges()
    x = tensors_from_request(exchange.request)["x"]
    assert x.dtype == np.float32
    assert x.tolist() == [[1, 2], [3, 4]]


def test_a_delta_folder_gives_its_present_rows_only(tmp_path, capsys):
    table, log = tmp_path / "payload", tmp_path / "payload" / "_delta_log"
    log.mkdir(parents=True)
    for name, score in (("old", 1.0), ("new", 2.0)):
        row = {"databricks_request_id": "a", "client_request_id": None, "timestamp_ms": 1_700_000_000_000, "status_code": 200,
               "execution_time_ms": 3, "request": '{"inputs": {"x": [1.5]}}', "response": json.dumps({"predictions": [score]}),
               "request_metadata": {"model_name": "m", "model_version": "4"}}  # fmt: skip
        pq.write_table(pa.Table.from_pylist([row]), table / f"{name}.parquet")
    actions = [
        {"add": {"path": "old.parquet"}},
        {"remove": {"path": "old.parquet"}},
        {"add": {"path": "new.parquet"}},
    ]
    for version, action in enumerate(actions):
        (log / f"{version:020d}.json").write_text(json.dumps(action))
    assert (
        run(["traffic", "import", "databricks", str(table), "--to", str(tmp_path / "t"), "--json"])
        == 0
    )
    report = json.loads(capsys.readouterr().out)
    (exchange,) = TrafficSource.open([tmp_path / "t"]).exchanges()
    assert (report["duplicates"], exchange.version, exchange.latency_ns) == (0, "4", 3_000_000)
    assert tensors_from_response(exchange.response)["output-0"].tolist() == [2.0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("request_id", "request-id", "Did you mean 'request_id'"),
        ("unit: ms", "unit: msec", "did you mean 'ms'"),
        ("version: 1", "version: 2", "is not 1"),
        ("datatype: FP32}]\noutputs", "datatype: float32}]\noutputs", "FP32"),
        ("model: m\n", "", "model: is missing"),
        ("column: at", "column: att", "did you mean 'at'"),
        ("inputs: [{name: x, datatype: FP32}]", "", "inputs: is missing"),
    ],
)
def test_a_wrong_mapping_is_a_usage_error_that_says_what_is_right(old, new, said, tmp_path, capsys):
    assert run(table(tmp_path, MAPPING.replace(old, new))) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["kserv", "x"], "did you mean 'kserve'"),
        (["x.jsonl"], "x.jsonl: is no format (known: databricks, kserve"),
        (["kserve", "is-not-there"], "no such file or folder"),
        (["table", "."], "needs a mapping"),
        (["seldon", "gs://bucket/x"], "no place this can read"),
        (["seldon", ".", "--wait", "soon"], "no duration"),
    ],
)
def test_usage_errors_say_what_is_right(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.jsonl").write_text("{}")
    assert run(["traffic", "import", *words, "--to", str(tmp_path / "t")]) == 2
    assert said in capsys.readouterr().err


def test_a_failure_of_an_import_is_not_called_the_gates(tmp_path, capsys, monkeypatch):
    from harness.pipeline import imports

    monkeypatch.delattr(imports, "import_traffic")
    assert run(table(tmp_path)) == 4
    said = capsys.readouterr().err
    assert "harness traffic import failed: ImportError" in said
    assert "verdict" not in said

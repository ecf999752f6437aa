"""Exchanges written the way other systems log them."""

import base64
import json

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from harness.core.tensors import Signature, TensorSpec
from harness.core.traffic import Exchange
from harness.wire import MODEL_INFER
from harness.wire.messages import (
    request_bytes,
    response_bytes,
    tensors_from_request,
    tensors_from_response,
)

START_NS = 1_372_636_800_000_000_000
SECOND = 1_000_000_000
SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="carrier", datatype="BYTES", shape=()),
        TensorSpec(name="distance", datatype="FP32", shape=()),
        TensorSpec(name="hour", datatype="INT64", shape=()),
    ),
    outputs=(TensorSpec(name="p", datatype="FP32", shape=()),),
)


def exchange(i, *, rows=1, seed=0, step_ns=SECOND, **changes):
    rng = np.random.default_rng([seed, i])
    inputs = {
        "carrier": np.array([["AA", "UA", "Ä,\"'"][k] for k in rng.integers(3, size=rows)], object),
        "distance": rng.normal(1000, 300, rows).astype(np.float32),
        "hour": rng.integers(0, 24, rows),
    }
    id_ = f"r-{i:06d}"
    fields = {
        "ts_ns": START_NS + i * step_ns, "latency_ns": 5_000_000, "code": 0, "method": MODEL_INFER,
        "model": "flights", "version": "1", "request_id": id_,
        "request": request_bytes("flights", inputs, id_),
        "response": response_bytes("flights", "1", {"p": rng.random(rows).astype(np.float32)}, id_),
    }  # fmt: skip
    return Exchange(**{**fields, **changes})


def inputs_of(e):
    return {n: a.tolist() for n, a in tensors_from_request(e.request).items()}


def outputs_of(e):
    return {n: a.tolist() for n, a in tensors_from_response(e.response).items()}


def v1_request(e):
    found = inputs_of(e)
    rows = zip(*found.values(), strict=True)
    return json.dumps({"instances": [dict(zip(found, row, strict=True)) for row in rows]}).encode()


def v1_response(e):
    return json.dumps({"predictions": outputs_of(e)["p"]}).encode()


def v2(e, side):
    tensors = inputs_of(e) if side == "inputs" else outputs_of(e)
    types = {s.name: s.datatype for s in (*SIGNATURE.inputs, *SIGNATURE.outputs)}
    return json.dumps(
        {"id": e.request_id, side: [
            {"name": n, "datatype": types[n], "shape": [len(v)], "data": v} for n, v in tensors.items()
        ]}
    ).encode()  # fmt: skip


def kserve_rows(e, *, sides=("request", "response"), component="predictor"):
    bodies = {"request": v1_request(e), "response": v1_response(e)}
    return [
        {
            "url": "s3://logs", "bytes": base64.b64encode(bodies[side]).decode(),
            "contentType": "application/x-www-form-urlencoded",
            "reqType": f"org.kubeflow.serving.inference.{side}", "id": e.request_id,
            "sourceUri": "http://localhost:9081/", "inferenceService": "flights",
            "namespace": "default", "component": component, "endpoint": "", "metadata": "{}",
            "annotations": "", "certName": "", "tlsSkipVerify": False,
        }
        for side in sides
    ]  # fmt: skip


def write_table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)


def capture(e, *, encoding="CSV", **event):
    sides = {
        "CSV": (_csv(inputs_of(e)), _csv(outputs_of(e))),
        "JSON": (v2(e, "inputs").decode(), v2(e, "outputs").decode()),
        "BASE64": tuple(base64.b64encode(b).decode() for b in (e.request, e.response)),
    }[encoding]
    kinds = {"CSV": "text/csv", "JSON": "application/json", "BASE64": "application/x-protobuf"}
    return json.dumps(
        {
            "captureData": {
                f"endpoint{side}": {"observedContentType": kinds[encoding], "mode": mode, "data": data,
                                    "encoding": encoding}
                for side, mode, data in zip(("Input", "Output"), ("INPUT", "OUTPUT"), sides, strict=True)
            },
            "eventMetadata": {"eventId": e.request_id, "inferenceTime": iso_of(e.ts_ns), **event},
            "eventVersion": "0",
        }
    )  # fmt: skip


def _csv(tensors):
    def cell(v):
        return '"' + v.replace('"', '""') + '"' if isinstance(v, str) else repr(v)

    return "\n".join(",".join(map(cell, row)) for row in zip(*tensors.values(), strict=True))


def iso_of(ts_ns):
    return str(np.datetime64(ts_ns, "ns").astype("datetime64[us]")) + "Z"


def inference_row(e, *, newer=False, **changes):
    row = {
        "databricks_request_id": e.request_id, "client_request_id": None, "status_code": 200,
        "request": json.dumps({"inputs": inputs_of(e)}), "response": v1_response(e).decode(),
    }  # fmt: skip
    if newer:
        row |= {"request_date": None, "request_time": np.datetime64(e.ts_ns // 1000, "us").item(),
                "execution_duration_ms": 5, "served_entity_id": "flights", "logging_error_codes": None,
                "requester": "someone"}  # fmt: skip
    else:
        row |= {"timestamp_ms": e.ts_ns // 1_000_000, "execution_time_ms": 5, "sampling_fraction": 1.0,
                "request_metadata": {"model_name": "flights", "model_version": "1"}}  # fmt: skip
    return {**row, **changes}


def kafka_rows(e):
    return [
        {"key": e.request_id.encode(), "value": value, "topic": f"seldon.prod.model.flights.{side}",
         "timestamp": (e.ts_ns + after) // 1_000_000}
        for side, value, after in (("inputs", e.request, 0), ("outputs", e.response, e.latency_ns))
    ]  # fmt: skip


def kcat(rows):
    return b"".join(
        b"\t".join([r["topic"].encode(), str(r["timestamp"]).encode(), r["key"], str(len(r["value"])).encode()])
        + b"\n" + r["value"] + b"\n"
        for r in rows
    )  # fmt: skip


def same(read, recorded):
    """Compares what a replay needs; JSON and CSV bodies are told apart from messages by their tensors only."""
    assert [e.request_id for e in read] == [e.request_id for e in recorded]
    for a, b in zip(read, recorded, strict=True):
        assert (a.ts_ns, a.code, a.model) == (b.ts_ns, b.code, b.model)
        assert inputs_of(a) == inputs_of(b)
        assert outputs_of(a) == outputs_of(b)
        for mine, theirs in ((tensors_from_request(a.request), tensors_from_request(b.request)),
                             (tensors_from_response(a.response), tensors_from_response(b.response))):  # fmt: skip
            assert {n: v.dtype for n, v in mine.items()} == {n: v.dtype for n, v in theirs.items()}

"""Run by a Python with tritonclient: says everything that a client sees of a server, as JSON.

python triton_client.py ADDRESS MODEL INPUTS [stream]    INPUTS: JSON, name → {kind: numpy's, values}
"""

import json
import queue
import sys

import numpy as np
import tritonclient.grpc as triton
from google.protobuf import json_format


def said(call, *words, **named):
    try:
        found = call(*words, **named)
    except triton.InferenceServerException as error:
        return {"status": error.status(), "message": error.message()}
    response = found.get_response() if isinstance(found, triton.InferResult) else found
    if isinstance(response, bool):
        return response
    message = json_format.MessageToDict(response, preserving_proto_field_name=True)
    return {"message": message, "bytes": response.SerializeToString(deterministic=True).hex()}


def inputs(given):
    made = []
    for name, values in given.items():
        kind = (
            "BYTES"
            if values.dtype.kind == "O"
            else {"f4": "FP32", "f8": "FP64", "i8": "INT64"}[values.dtype.str[1:]]
        )
        one = triton.InferInput(name, list(values.shape), kind)
        one.set_data_from_numpy(values)
        made.append(one)
    return made


def streamed(client, model, given):
    answers = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    found, names = [], [model, "nobody", model]
    for i in range(3):
        try:
            client.async_stream_infer(names[i], inputs(given), request_id=f"s{i}")
        except triton.InferenceServerException as ended:
            found.append(ended.message())
            break
        result, error = answers.get(timeout=20)
        found.append(
            [error.status(), error.message()]
            if error
            else result.get_response().SerializeToString(deterministic=True).hex()
        )
    client.stop_stream()
    return found


def main():
    address, model, given = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    arrays = {
        n: np.array(v["values"], object if v["kind"] == "O" else v["kind"])
        for n, v in given.items()
    }
    client = triton.InferenceServerClient(address)
    wrong = {n: v for n, v in arrays.items() if n != next(iter(arrays))}
    seen = {
        "live": said(client.is_server_live),
        "ready": said(client.is_server_ready),
        "model ready": said(client.is_model_ready, model),
        "unknown ready": said(client.is_model_ready, "nobody"),
        "metadata": said(client.get_model_metadata, model),
        "server metadata": said(client.get_server_metadata),
        "infer": said(
            client.infer, model, inputs(arrays), request_id="r1", headers={"x-user": "u"}
        ),
        "sequence": said(
            client.infer,
            model,
            inputs(arrays),
            request_id="r2",
            sequence_id=7,
            sequence_start=True,
            priority=1,
        ),
        "no input": said(client.infer, model, inputs(wrong), request_id="r3"),
        "unknown model": said(client.infer, "nobody", inputs(arrays), request_id="r4"),
    }
    if sys.argv[4:] == ["stream"]:
        seen["stream"] = streamed(client, model, arrays)
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main()

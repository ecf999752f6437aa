"""A small real model server: onnxruntime behind the Open Inference gRPC service.

It stands for production while traffic is recorded.

python scenarios/traffic/serving.py --model models/flights/v1.onnx --name flights --version 1
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

# As a script, the repository root is not on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness.wire import SERVICE
from harness.wire.facts import request_facts
from harness.wire.messages import MessageError, response_bytes, streamed_bytes, tensors_from_request

READY = b"\x08\x01"
"""ServerReadyResponse, ServerLiveResponse and ModelReadyResponse alike: true."""


class RefusalError(Exception):
    """A request without an answer."""

    def __init__(self, code: grpc.StatusCode, what: str, request_id: str) -> None:
        super().__init__(what)
        self.code = code
        self.request_id = request_id


class ModelServer:
    """Answers ModelInfer with one model version.

    Args:
      model: path of the .onnx file.
      name: model name in responses.
      version: version in responses.
    """

    def __init__(self, model: Path, name: str, version: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(
            model.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        self._outputs = [o.name for o in self._session.get_outputs()]
        self._name = name
        self._version = version

    def stream(self, requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
        """Answers a stream of them in order; a failure is told in-band."""
        for request in requests:
            try:
                yield streamed_bytes(self.answer(request))
            except RefusalError as refusal:
                yield streamed_bytes(
                    response_bytes(self._name, "", {}, refusal.request_id), str(refusal)
                )

    def infer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        """Answers one serialized ModelInferRequest."""
        try:
            return self.answer(request)
        except RefusalError as refusal:
            context.abort(refusal.code, str(refusal))
            raise

    def answer(self, request: bytes) -> bytes:
        """The serialized answer to a serialized request.

        Raises:
          RefusalError: it has none.
        """
        wrong = grpc.StatusCode.INVALID_ARGUMENT
        try:
            facts = request_facts(request)
        except MessageError as error:
            raise RefusalError(wrong, error.reason, "") from None
        if facts.model != self._name or facts.version not in ("", self._version):
            what = f"no model '{facts.model}' {facts.version}".rstrip()
            raise RefusalError(grpc.StatusCode.NOT_FOUND, what, facts.request_id)
        try:
            found = self._session.run(self._outputs, tensors_from_request(request))
        except (MessageError, ort_errors.InvalidArgument, ort_errors.Fail, ValueError) as error:
            raise RefusalError(wrong, str(error), facts.request_id) from None
        outputs = {n: np.asarray(v) for n, v in zip(self._outputs, found, strict=True)}
        return response_bytes(self._name, self._version, outputs, facts.request_id)


def serve(model: ModelServer, listen: str) -> None:
    """Serves until the process is ended; prints the port once it is ready."""

    def ready(_: bytes, __: grpc.ServicerContext) -> bytes:
        return READY

    methods = {
        "ModelInfer": model.infer,
        "ServerLive": ready,
        "ServerReady": ready,
        "ModelReady": ready,
    }
    handlers = {name: grpc.unary_unary_rpc_method_handler(m) for name, m in methods.items()}
    handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(model.stream)
    host = grpc.server(
        ThreadPoolExecutor(2),
        handlers=[grpc.method_handlers_generic_handler(SERVICE, handlers)],
        options=[("grpc.so_reuseport", 0)],
    )
    port = host.add_insecure_port(listen)
    host.start()
    print(f"serving on port {port}", flush=True)
    host.wait_for_termination()


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, required=True, help="an .onnx file")
    parser.add_argument("--name", required=True, help="its name in requests")
    parser.add_argument("--version", default="1", help="its version in responses")
    parser.add_argument("--listen", default="127.0.0.1:0", help="host:port; port 0 = any free one")
    given = parser.parse_args()
    serve(ModelServer(given.model, given.name, given.version), given.listen)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

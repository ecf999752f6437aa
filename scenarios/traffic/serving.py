"""A small real model server: onnxruntime behind the Open Inference gRPC service.

It stands for production while traffic is recorded. Bytes in, bytes out: the handler is generic, so
what travels is exactly what is recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import onnxruntime as ort

from harness.wire.gen import open_inference_pb2
from harness.wire.messages import MessageError, response_bytes, tensors_from_request

SERVICE = "inference.GRPCInferenceService"
METHOD = f"/{SERVICE}/ModelInfer"


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

    def infer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        """Answers one serialized ModelInferRequest."""
        try:
            inputs = tensors_from_request(request)
        except MessageError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.reason)
            raise
        request_id = open_inference_pb2.ModelInferRequest.FromString(request).id
        found = self._session.run(self._outputs, inputs)
        outputs = dict(zip(self._outputs, found, strict=True))
        return response_bytes(self._name, self._version, outputs, request_id)


@contextmanager
def serving(server: ModelServer) -> Iterator[grpc.UnaryUnaryMultiCallable]:
    """Serves on a port the system chooses and yields a client call that takes and returns bytes."""
    method = grpc.unary_unary_rpc_method_handler(server.infer)
    handler = grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": method})
    host = grpc.server(
        ThreadPoolExecutor(1), handlers=[handler], options=[("grpc.so_reuseport", 0)]
    )
    port = host.add_insecure_port("127.0.0.1:0")
    host.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel.unary_unary(METHOD)
    finally:
        host.stop(grace=None).wait()

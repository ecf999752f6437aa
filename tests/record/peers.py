"""Servers and clients of their own, in processes of their own, for the proxy's tests.

`python peers.py [MS]` serves a generic gRPC service that answers as the request says, and prints its
port. It ends every connection after so many milliseconds, with whatever is under way.
"""

import contextlib
import os
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import grpc

from harness.wire import MODEL_STREAM_INFER, SERVICE

ROOT = Path(__file__).resolve().parents[2]
INFER = f"/{SERVICE}/ModelInfer"
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@contextlib.contextmanager
def process(*command, says="", wait_s=120.0, **environment):
    """A process that has printed a line which begins with `says`; yields (process, line)."""
    child = subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        cwd=ROOT,
    )
    try:
        yield child, line_of(child, says, wait_s)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def line_of(child, says, wait_s=120.0):
    until = time.perf_counter() + wait_s
    seen = ""
    while time.perf_counter() < until:
        if not select.select([child.stdout], [], [], 0.2)[0]:
            continue
        line = child.stdout.readline().decode()
        seen += line
        if line.startswith(says):
            return line.strip()
        if not line:
            break
    raise AssertionError(f"no line '{says}' in: {seen}")


@contextlib.contextmanager
def peer(*options):
    """The server below; yields its address."""
    with process(__file__, *options, says="port") as (_, line):
        yield f"127.0.0.1:{line.split()[1]}"


def outcome(address, request, *, method=INFER, timeout=60.0, metadata=(), ready=False):
    """All that a client can see of one unary call.

    With `ready` its time begins when the connection stands: it reaches the server, however short it is."""
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        if ready:
            grpc.channel_ready_future(channel).result(60)
        call = channel.unary_unary(method)
        try:
            response, done = call.with_call(request, timeout=timeout, metadata=metadata)
        except grpc.RpcError as error:
            return {
                "code": error.code(),
                "details": error.details(),
                "initial": pairs(error.initial_metadata()),
                "trailing": pairs(error.trailing_metadata()),
            }
        return {
            "response": response,
            "code": done.code(),
            "details": done.details() or "",
            "initial": pairs(done.initial_metadata()),
            "trailing": pairs(done.trailing_metadata()),
        }


def pairs(metadata):
    return sorted((k, v) for k, v in metadata or () if k != "user-agent")


def _unary(request, context):
    asked = dict(
        re.findall(rb"(seen|begun|initial|trailing|sleep|code|mark|empty)=([^;]*);", request[:300])
    )
    _tell_begun(asked)
    if b"empty" in asked:
        return b""
    if b"seen" in asked:
        seen = pairs(context.invocation_metadata())
        return repr((seen, None if context.time_remaining() > 1e6 else "deadline")).encode()
    if b"initial" in asked:
        context.send_initial_metadata((("x-begin", "one"), ("x-begin-bin", b"\x00\xff")))
    if b"trailing" in asked:
        context.set_trailing_metadata((("x-end", "two"), ("x-end-bin", b"\x01\xfe")))
    if b"sleep" in asked:
        time.sleep(float(asked[b"sleep"]))
    if b"code" in asked:
        context.set_trailing_metadata(
            (("grpc-status-details-bin", b"\x08\x05\x12\x03abc"), ("x-why", "because"))
        )
        code = next(c for c in grpc.StatusCode if c.value[0] == int(asked[b"code"]))
        context.abort(code, "what went wrong: ü and\nmore")
    if b"mark" in asked:
        Path(asked[b"mark"].decode()).write_text("cancelled" if _waits(context) else "done")
    return request


def _tell_begun(asked):
    if b"begun" in asked:
        Path(asked[b"begun"].decode()).touch()


def _waits(context):
    """Until the call is ended, five seconds at most."""
    for _ in range(100):
        if not context.is_active():
            return True
        time.sleep(0.05)
    return False


def _echoes(requests, context):
    context.send_initial_metadata((("x-stream", "yes"),))
    for request in requests:
        if request == b"end":
            context.set_trailing_metadata((("x-end", "stream"),))
            context.abort(grpc.StatusCode.DATA_LOSS, "the stream broke")
        yield request


def _infers(requests, context):
    """ModelStreamInfer: requests in pairs are answered in the other order, `bad` ones in-band."""
    from harness.wire.gen import open_inference_pb2 as pb

    held = []
    for request in requests:
        parsed = pb.ModelInferRequest.FromString(request)
        answer = pb.ModelInferResponse(model_name=parsed.model_name, id=parsed.id)
        if parsed.model_name == "silent":
            continue
        if parsed.model_name == "dies":
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        inner = answer.SerializeToString()
        error = b"\x0a\x04oops" if parsed.model_name == "bad" else b""
        message = error + b"\x12" + bytes([len(inner)]) + inner
        if parsed.model_name == "pair":
            held.append(message)
            if len(held) == 2:
                yield held.pop()
                yield held.pop()
        else:
            yield message
            if parsed.model_name == "twice":
                yield message


class _Any(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == MODEL_STREAM_INFER:
            return grpc.stream_stream_rpc_method_handler(_infers)
        if details.method == "/other.Service/Echoes":
            return grpc.stream_stream_rpc_method_handler(_echoes)
        if details.method.endswith("/Nothing"):
            return None
        return grpc.unary_unary_rpc_method_handler(_unary)


def _serve(age_ms=None):
    from concurrent.futures import ThreadPoolExecutor

    options = [("grpc.so_reuseport", 0), *OPTIONS]
    if age_ms is not None:
        options += [
            ("grpc.max_connection_age_ms", age_ms), ("grpc.max_connection_age_grace_ms", 0),
        ]  # fmt: skip
    server = grpc.server(ThreadPoolExecutor(64), handlers=[_Any()], options=options)
    sys.stdout.write(f"port {server.add_insecure_port('127.0.0.1:0')}\n")
    sys.stdout.flush()
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    _serve(*map(int, sys.argv[1:]))

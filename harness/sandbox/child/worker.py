"""One version of a model in its own process: reads requests from a pipe, answers on another.

Order of events: configuration frame → lock → imports → "ready" frame → "load" frame from the parent →
model bytes → "hello" frame → one answer per request frame, until the pipe closes. The model is not
looked at before the parent has seen the lock and said "load".
"""

from __future__ import annotations

import faulthandler
import os
import sys
from typing import TYPE_CHECKING, Any

from harness.sandbox.child import frames, lockdown

if TYPE_CHECKING:
    from harness.sandbox.child.columns import Array
    from harness.sandbox.child.sessions import TraceSession, VerdictSession

MAX_MESSAGE = 2000


def main(arguments: list[str]) -> None:
    """Runs until the parent closes its end.

    Args:
      arguments: descriptors of the request pipe, the answer pipe, the model, the probed model and
        the external data (−1 for none).
    """
    requests, answers, *model_fds = (int(a) for a in arguments)
    faulthandler.enable()
    config, _ = frames.read_frame(requests, 0)
    layers = lockdown.stage_a(
        config["parent"], config["memory_bytes"], die_with_parent=config["die_with_parent"]
    )
    # Only now: the lock must be on before anything third-party is imported.
    import numpy as np
    import onnxruntime

    versions = {
        "python": sys.version.split(maxsplit=1)[0],
        "numpy": np.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    send(answers, {"kind": "ready", "layers": layers, "versions": versions})
    frames.read_frame(requests, 0)
    loaded = _loaded(answers, model_fds, config)
    if loaded is not None:
        _serve(requests, answers, config["memory_bytes"], loaded)


def send(fd: int, header: frames.Header, buffers: list[memoryview] | None = None) -> None:
    """Writes one frame."""
    frames.write_all(fd, frames.packed(header, buffers or []))


def bytes_from_fd(fd: int) -> bytes:
    """The whole content of a sealed memory file; closes it.

    Read from its start by position: other processes share the descriptor's offset.
    """
    try:
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)


def shown(error: Exception) -> str:
    """An exception as one short line for the parent."""
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text}"[:MAX_MESSAGE]


def _loaded(
    answers: int, model_fds: list[int], config: frames.Header
) -> tuple[VerdictSession, TraceSession | None] | None:
    """Both sessions, announced by a hello frame; None when the model does not load.

    A probed copy that does not load is no fault of the model: the hello says so, and goes on.
    """
    from harness.sandbox.child import external, sessions

    model_fd, trace_fd, external_fd = model_fds
    try:
        files = external.files_from_fd(external_fd, config["external"])
        verdict = sessions.VerdictSession(bytes_from_fd(model_fd), files)
    except sessions.RUNTIME_ERRORS as error:
        send(answers, {"kind": "hello", "ok": False, "error": shown(error)})
        return None
    hello = verdict.signature()
    trace = None
    if trace_fd >= 0:
        outputs = [o["name"] for o in hello["outputs"]]
        try:
            model = bytes_from_fd(trace_fd)
            trace = sessions.TraceSession(model, files, config["trace_tensors"], outputs)
            hello["trace_missing"] = trace.missing
        except sessions.RUNTIME_ERRORS as error:
            hello["trace_error"] = shown(error)
    send(answers, {"kind": "hello", "ok": True, **hello})
    return verdict, trace


def _serve(
    requests: int, answers: int, max_body: int, loaded: tuple[VerdictSession, TraceSession | None]
) -> None:
    """Answers requests in order until the pipe closes."""
    from harness.sandbox.child import columns, sessions

    verdict, trace = loaded
    while True:
        try:
            request, body = frames.read_frame(requests, max_body)
        except EOFError:
            return
        answer: dict[str, Any] = {"kind": "answer", "seq": request["seq"], "ok": True}
        try:
            feeds, _ = columns.decoded(request["tensors"], body)
            outputs, keys = verdict.run(feeds)
            groups = {"outputs": outputs}
            answer["keys"] = keys
            if request["trace"]:
                groups |= _traced(trace, feeds, answer)
            buffers = _described(groups, request["rows"], answer)
            send(answers, answer, buffers)
        except sessions.RUNTIME_ERRORS as error:
            send(
                answers,
                {"kind": "answer", "seq": request["seq"], "ok": False, "error": shown(error)},
            )


def _traced(
    trace: TraceSession | None, feeds: dict[str, Array], answer: dict[str, Any]
) -> dict[str, dict[str, Array]]:
    """A trace that raises, or was never loaded, takes nothing from the verdict: it is told apart."""
    from harness.sandbox.child import sessions

    if trace is None:
        answer["trace_error"] = "there is no trace session"
        return {}
    try:
        features, outputs = trace.run(feeds)
    except sessions.RUNTIME_ERRORS as error:
        answer["trace_error"] = shown(error)
        return {}
    return {"features": features, "trace_outputs": outputs}


def _described(
    groups: dict[str, dict[str, Array]], rows: int, answer: dict[str, Any]
) -> list[memoryview]:
    """Writes what is sent into the header; a scalar or a tensor with no row per input row stays here.

    Outputs with an axis are always sent: the parent is the one to say that their rows are wrong.
    """
    from harness.sandbox.child import columns

    buffers: list[memoryview] = []
    left_out = []
    for group, arrays in groups.items():
        sent = {}
        for name, array in arrays.items():
            batched = array.ndim > 0 and (group == "outputs" or array.shape[0] == rows)
            if batched:
                sent[name] = array
            else:
                left_out.append(name)
        answer[group], parts = columns.encoded(sent)
        buffers.extend(parts)
    answer["left_out"] = left_out
    return buffers


if __name__ == "__main__":
    main(sys.argv[1:])

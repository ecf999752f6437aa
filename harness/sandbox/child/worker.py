"""One version of a model in its own process: reads requests from a pipe, answers on another.

Order of events: configuration frame → first stage of the lock → imports → second stage → "ready" frame
→ "load" frame from the parent → model bytes → "hello" frame → one answer per request frame, until the
pipe closes. There is no model to look at before the parent has seen the lock and said "load". After the
second stage nothing can be imported.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.sandbox.child import frames, program, ring

if TYPE_CHECKING:
    from harness.sandbox.child import columns
    from harness.sandbox.child.columns import Array
    from harness.sandbox.child.sessions import Features, Returned, TraceSession, VerdictSession

_FEATURES, _BESIDE = _BETWEEN = (object(), object())
"""Stand between the names of outputs, features and the trace session's outputs."""


def main(arguments: list[str]) -> None:
    """Runs until the parent closes its end.

    Args:
      arguments: descriptors of the request pipe, the answer pipe, the ring, the mailbox that the model
        will lie in, and the external data (−1 for none).
    """
    requests, answers, ring_fd, mailbox, external_fd = (int(a) for a in arguments)
    reader, config, layers = program.begun(requests)
    # Only now: the lock must be on before anything third-party is imported.
    import numpy as np
    import onnxruntime

    from harness.sandbox.child import columns, external, sessions, usual  # noqa: F401 - not after the lock

    slots = ring.Ring(ring_fd)
    os.close(ring_fd)
    versions = {
        "python": sys.version.split(maxsplit=1)[0],
        "numpy": np.__version__,
        "onnxruntime": onnxruntime.__version__,
        **sessions.pinned(),
    }
    load = program.locked(reader, answers, config["parent"], layers, versions)
    loaded = _loaded(answers, mailbox, external_fd, load)
    if loaded is not None:
        _Server(reader, answers, slots, config["memory_bytes"], loaded).serve()


def _models(mailbox: int, sizes: list[int]) -> list[bytes]:
    """The model, its probed copy and the cut one, as far as there are any; closes the mailbox."""
    try:
        ends = list(itertools.accumulate(sizes))
        return [os.pread(mailbox, n, end - n) for n, end in zip(sizes, ends, strict=True)]
    finally:
        os.close(mailbox)


class _Sessions(NamedTuple):
    """What answers."""

    verdict: VerdictSession
    trace: TraceSession | None
    """The probed copy."""
    cut: TraceSession | None
    """The copy that computes features and nothing else."""


def _loaded(answers: int, mailbox: int, external_fd: int, load: frames.Header) -> _Sessions | None:
    """All sessions, announced by a hello frame; None when the model does not load.

    A probed copy that does not load is no fault of the model: the hello says so, and goes on.
    """
    from harness.sandbox.child import external, sessions

    try:
        models = _models(mailbox, load["sizes"])
        files = external.files_from_fd(external_fd, load["external"])
        verdict = sessions.VerdictSession(models.pop(0), files)
    except sessions.RUNTIME_ERRORS as error:
        program.send(answers, {"kind": "hello", "ok": False, "error": program.shown(error)})
        return None
    hello = verdict.signature()
    trace = cut = None
    if models:
        outputs = [o["name"] for o in hello["outputs"]]
        try:
            tensors = load["trace_tensors"]
            trace = sessions.TraceSession(models.pop(0), files, tensors, outputs)
            hello["trace_missing"] = trace.missing
            # Without it the probed copy gives the features in every batch.
            with contextlib.suppress(*sessions.RUNTIME_ERRORS):
                cut = sessions.TraceSession(models.pop(), files, tensors, ()) if models else None
        except sessions.RUNTIME_ERRORS as error:
            hello["trace_error"] = program.shown(error)
    program.send(answers, {"kind": "hello", "ok": True, **hello})
    return _Sessions(verdict, trace, cut)


class _Request(NamedTuple):
    """What a request's header says."""

    rows: int
    trace: bool
    alone: bool
    """The trace session is to answer alone."""
    cut: bool
    """The cut copy is to give the features, where there is one."""
    tensors: tuple[columns.Entry, ...]


def _request_from_text(text: bytes) -> _Request:
    from harness.sandbox.child import columns

    header = frames.header_from_bytes(text)
    tensors = columns.layout(header["tensors"])[0]
    return _Request(header["rows"], header["trace"], header["alone"], header["cut"], tensors)


def _plain_header(outputs: str) -> bytes:
    """The header of an answer that has outputs and nothing else to say."""
    return frames.header_text({"kind": "answer", "ok": True}, {"outputs": outputs})


class _Server:
    """Answers requests in order until the pipe closes.

    Args:
      reader: the request pipe.
      answers: the answer pipe.
      slots: where bodies lie that have room there.
      max_body: bytes a request's body may have.
      loaded: the sessions.
    """

    def __init__(
        self,
        reader: frames.Reader,
        answers: int,
        slots: ring.Ring,
        max_body: int,
        loaded: _Sessions,
    ) -> None:
        from harness.sandbox.child import columns, usual

        self._reader, self._answers, self._slots = reader, answers, slots
        self._max_body = max_body
        self._verdict, self._trace, self._cut = loaded
        self._as_bytes = self._verdict.takes_bytes
        self._alike = self._trace is not None and self._trace.kinds == self._verdict.kinds
        self._request = frames.memo(_request_from_text)
        self._plain = frames.memo(_plain_header)
        self._usual = usual.UsualAnswers(slots, answers)
        self._values, self._encoded = columns.values, columns.encoded

    def serve(self) -> None:
        """Until the parent closes its end."""
        from harness.sandbox.child import sessions

        while True:
            try:
                frame = frames.read_frame(self._reader, self._max_body)
            except EOFError:
                return
            try:
                answer = self._answer(frame)
            except sessions.RUNTIME_ERRORS as error:
                answer = {"kind": "answer", "ok": False, "error": program.shown(error)}, []
            if answer is not None:
                self._send(*answer, frame.prefix)

    def _answer(self, frame: frames.Frame) -> tuple[frames.Header | bytes, list[memoryview]] | None:
        """What is to be sent; None when it has been sent."""
        request = self._request(frame.text)
        prefix = frame.prefix
        body = frame.body
        if prefix.flags & frames.IN_SLOT:
            body = self._slots.request(prefix.number, prefix.body)
        feeds = self._values(request.tensors, body, as_bytes=self._as_bytes)
        traced = self._run_alone(feeds) if request.alone else None
        if traced is not None:
            said: dict[str, Any] = {"kind": "answer", "ok": True, "alone": True}
            return self._told(traced[1], (traced[0], None), said, frame, request.rows)
        found = self._verdict.run(feeds)
        outputs = found.arrays
        bare = not (found.keys or found.forms or request.trace)
        if bare and self._usual.sent(frame, [*outputs], outputs.values()):
            return None
        if bare:
            described, buffers = self._encoded(outputs)
            text = self._plain(described)
            self._usual.learn(frame.text, [*outputs], outputs.values(), text, buffers)
            return text, buffers
        answer: dict[str, Any] = {"kind": "answer", "ok": True}
        traced = None
        if request.trace:
            trace = self._cut if request.cut and self._cut is not None else self._trace
            traced = _traced(trace, feeds, answer)
        return self._told(found, traced, answer, frame, request.rows)

    def _run_alone(self, feeds: dict[str, Array]) -> tuple[Features, Returned] | None:
        """Features and outputs of the trace session; None when it has not all, or raises: the model answers."""
        from harness.sandbox.child import sessions

        if self._trace is None or not self._alike:
            return None
        try:
            return self._trace.run(feeds)
        except sessions.RUNTIME_ERRORS:
            return None

    def _told(
        self,
        found: Returned,
        traced: tuple[Features, Returned | None] | None,
        answer: dict[str, Any],
        frame: frames.Frame,
        rows: int,
    ) -> tuple[bytes, list[memoryview]] | None:
        """What is to be sent; None when it has been sent.

        Args:
          found: the outputs.
          traced: features, and the trace session's own outputs unless these are what was found.
          answer: what else there is to say.
          frame: the request.
          rows: of the batch.
        """
        names: list[Any] = [*found.arrays]
        arrays = [*found.arrays.values()]
        if traced is not None:
            features, beside = traced
            names += [_FEATURES, *features.labels]
            arrays += features.blocks
            if beside is not None:
                names += [_BESIDE, *beside.arrays]
                arrays += beside.arrays.values()
        bare = not (found.keys or found.forms or "trace_error" in answer)
        if bare and self._usual.sent(frame, names, arrays):
            return None
        groups = {"outputs": found.arrays}
        if traced is not None:
            groups["features"] = traced[0].arrays()
            groups["trace_outputs"] = {} if traced[1] is None else traced[1].arrays
        if found.keys:
            answer["keys"] = found.keys
        if found.forms:
            answer["forms"] = found.forms
            groups["leaves"] = columns_of(found.leaves)
        text, buffers = self._described(groups, rows, answer)
        if bare and "left_out" not in answer:
            counts = [len(n) if isinstance(n, tuple) else 1 for n in names if n not in _BETWEEN]
            self._usual.learn(frame.text, names, arrays, text, buffers, packed=counts)
        return text, buffers

    def _described(
        self, groups: dict[str, dict[str, Array]], rows: int, answer: dict[str, Any]
    ) -> tuple[bytes, list[memoryview]]:
        """The header, and what is sent; a feature that is a scalar or has no row per input row stays here.

        Outputs are always sent: the parent is the one to say that their rows are wrong.
        """
        buffers: list[memoryview] = []
        lists: dict[str, str] = {}
        left_out = []
        alike = {name: array.shape for name, array in groups["outputs"].items()}
        for group, arrays in groups.items():
            sent = {}
            for name, array in arrays.items():
                whole = group in {"leaves", "outputs"} or (
                    group == "trace_outputs" and array.shape in ((), alike.get(name))
                )
                if whole or array.shape[:1] == (rows,):
                    sent[name] = array
                else:
                    left_out.append(name)
            lists[group], parts = self._encoded(sent)
            buffers.extend(parts)
        if left_out:
            answer["left_out"] = left_out
        return frames.header_text(answer, lists), buffers

    def _send(
        self, header: frames.Header | bytes, buffers: list[memoryview], asked: frames.Prefix
    ) -> None:
        """An answer, in its slot when it fits and nobody needs what lies there."""
        size = sum(b.nbytes for b in buffers)
        if asked.flags & frames.SLOT_FREE and size <= self._slots.slot_bytes:
            ring.fill(self._slots.answer(asked.number, size), buffers)
            parts = frames.packed(header, number=asked.number, in_slot=size)
            if parts[0].nbytes <= select.PIPE_BUF:
                # Written whole or not at all, and quicker than writev.
                os.write(self._answers, parts[0])
                return
        else:
            parts = frames.packed(header, buffers, number=asked.number)
        frames.write_all(self._answers, parts)


def columns_of(leaves: list[Array]) -> dict[str, Array]:
    """Tensors of sequences and optionals under the names that they are sent by: their places."""
    return {str(place): leaf for place, leaf in enumerate(leaves)}


def _traced(
    trace: TraceSession | None, feeds: dict[str, Array], answer: dict[str, Any]
) -> tuple[Features, Returned] | None:
    """A trace that raises, or was never loaded, takes nothing from the verdict: it is told apart."""
    from harness.sandbox.child import sessions

    if trace is None:
        answer["trace_error"] = "there is no trace session"
        return None
    try:
        return trace.run(feeds)
    except sessions.RUNTIME_ERRORS as error:
        answer["trace_error"] = program.shown(error)
        return None


if __name__ == "__main__":
    main(sys.argv[1:])

"""One copy of a model in its own process: answers with every tensor that the copy returns, whole.

Unlike the worker it knows no rows: shapes of intermediate tensors are nobody's promise. Order of events
as there, with a "traced" frame for the "hello".
"""

from __future__ import annotations

from typing import Any

from harness.sandbox.child import frames, program, worker


def main(arguments: list[str]) -> None:
    """Runs until the parent closes its end.

    Args:
      arguments: descriptors of the request pipe, the answer pipe, the model and the external data
        (−1 for none).
    """
    requests, answers, model_fd, external_fd = (int(a) for a in arguments)
    reader, config, layers = program.begun(requests)
    from harness.sandbox.child import columns, external, nested, sessions

    program.locked(reader, answers, config["parent"], layers)
    try:
        files = external.files_from_fd(external_fd, config["external"])
        data = program.bytes_from_fd(model_fd)
        session = sessions.open_session(data, files, optimise=config["optimise"])
        del data
    except sessions.RUNTIME_ERRORS as error:
        program.send(answers, {"kind": "traced", "ok": False, "error": program.shown(error)})
        return
    outputs = {o.name: o.type for o in session.get_outputs()}
    usable = {n: kind for n, kind in outputs.items() if sessions.readable(kind)}
    inputs = {i.name for i in session.get_inputs()}
    program.send(answers, {"kind": "traced", "ok": True, "tensors": list(usable)})
    while True:
        try:
            frame = frames.read_frame(reader, config["memory_bytes"])
        except EOFError:
            return
        request = frame.header
        answer: dict[str, Any] = {"kind": "traced", "seq": request["seq"], "ok": True}
        try:
            given, at = columns.layout(request["tensors"])
            parts = columns.values(columns.layout(request["leaves"], at)[0], frame.body)
            feeds: dict[str, Any] = columns.values(given, frame.body)
            feeds |= nested.put_together(request["forms"], parts.values())
            wanted = {n: usable[n] for n in request["wanted"] if n in usable}
            fed = {n: a for n, a in feeds.items() if n in inputs}
            values = session.run(list(wanted), fed) if wanted else []
            found = sessions.returned(wanted, values)
            answer["keys"], answer["forms"] = found.keys, found.forms
            tensors, buffers = columns.encoded(found.arrays)
            leaves, more = columns.encoded(worker.columns_of(found.leaves))
            said = frames.header_text(answer, {"tensors": tensors, "leaves": leaves})
            program.send(answers, said, [*buffers, *more])
        except sessions.RUNTIME_ERRORS as error:
            text = program.shown(error)
            program.send(
                answers,
                {"kind": "traced", "seq": request["seq"], "ok": False, "error": text},
            )

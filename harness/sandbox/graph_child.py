"""A look at a model's graph, in a process of its own: what is inside, or a copy that returns more.

Runs in the parent's environment, with `onnx`; like `child.worker` it locks itself in two stages and waits
for the parent's word before it looks at the model. Its answer is a frame of JSON,
and when a copy is wanted a second one with the new model's bytes. External data are never needed to read a graph; onnxruntime gets them, and a copy goes on referring to them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from harness.sandbox.child import program

if TYPE_CHECKING:
    import onnx

    from harness.sandbox.child.external import Files

FEATURES = "harness.features"
FITTED = "harness.fitted"
_METADATA = "harness."


def main(arguments: list[str]) -> None:
    """Answers one question about one model: what is inside, then a copy if one is wanted.

    Args:
      arguments: descriptors of the request pipe, the answer pipe, the model and the external data
        (−1 for none).
    """
    requests, answers, model_fd, external_fd = (int(a) for a in arguments)
    reader, config, layers = program.begun(requests)
    # Only now: the lock must be on before anything third-party is imported.
    # Nothing can be imported after the lock: what is named here is needed later.
    import onnx  # noqa: F401
    from google.protobuf.message import DecodeError

    from harness.sandbox import (  # noqa: F401
        graph_bodies,
        graph_called,
        graph_cut,
        graph_defaults,
        graph_description,
        graph_edits,
        graph_function,
        graph_names,
        graph_nodes,
        graph_numbers,
        graph_orders,
        graph_pack,
        graph_precision,
        graph_random,
        graph_rounding,
        graph_running,
        graph_types,
    )
    from harness.sandbox.child import external, sessions

    program.locked(reader, answers, config["parent"], layers)
    refusals: tuple[type[Exception], ...] = (DecodeError, *sessions.RUNTIME_ERRORS)
    ours = False
    try:
        data = program.bytes_from_fd(model_fd)
        files = external.files_from_fd(external_fd, config["external"])
        # onnxruntime first: its word on what a model is counts, and onnx parses almost anything. A
        # version with a runtime of its own is asked there.
        session = sessions.open_session(data, files, optimise=True) if config["session"] else None
        # From here on a failure is this look's own: onnxruntime has taken the model.
        ours = True
        model = parsed(data)
        answer = inspected(model, session)
        if config["numbers"]:
            answer |= numbers_of(model, files)
        del session, data
        _tell(answers, answer)
        if config["edit"] is not None:
            answer, graph, copy = edited_model(model, files, config["edit"])
            text = json.dumps(graph, separators=(",", ":")).encode()
            _tell(answers, answer, text)
            _tell(answers, {"ok": True}, copy)
        for order in config["orders"]:
            _tell(answers, *reordered_model(model, **order))
        if config["copy"]:
            tensors = config["tensors"]
            wanted = declared_tensors(model) if tensors is None else tensors
            answer, probed = probed_model(model, files, wanted)
            _tell(answers, answer, probed)
    except refusals as error:
        said = {"kind": "graph", "ok": False, "error": program.shown(error), "ours": ours}
        program.send(answers, said)


def parsed(data: bytes) -> onnx.ModelProto:
    """A model with its nodes in the order in which they run, as all that looks into it takes them to be.

    Raises:
      DecodeError: a name in it cannot be read.
    """
    import onnx
    from google.protobuf.message import DecodeError

    from harness.sandbox.graph_names import fault_of_names
    from harness.sandbox.graph_running import put_in_order

    model = onnx.load_model_from_string(data)
    if fault := fault_of_names(model):
        raise DecodeError(fault)
    put_in_order(model)
    return model


def _tell(answers: int, answer: Mapping[str, Any], content: bytes = b"") -> None:
    """Sends an answer and what comes with it, both as the body: its lists outgrow a header."""
    told = json.dumps(answer, separators=(",", ":")).encode()
    buffers = [memoryview(told), memoryview(content)]
    program.send(answers, {"kind": "graph", "ok": True, "told": len(told)}, buffers)


def declared_tensors(model: onnx.ModelProto) -> list[str]:
    """Features and fitted tensors as the metadata list them; the parent judges lists that are none."""
    metadata = {p.key: p.value for p in model.metadata_props}
    found: list[str] = []
    for key in (FEATURES, FITTED):
        try:
            names = json.loads(metadata.get(key, "[]"))
        except (ValueError, RecursionError):
            continue
        if isinstance(names, list):
            found += [n for n in names if isinstance(n, str)]
    return found


def inspected(model: onnx.ModelProto, session: Any) -> dict[str, Any]:  # noqa: ANN401
    """Signature (unless there is no session), declared features, intermediate tensors, random operators."""
    import onnxruntime

    from harness.sandbox.child import sessions
    from harness.sandbox.graph_edits import intermediate_names
    from harness.sandbox.graph_precision import doubles_from_singles
    from harness.sandbox.graph_random import RandomNodes
    from harness.sandbox.graph_rounding import exact_tensors, handed_on, smooth_tensors

    random = RandomNodes(model)
    signature = session and {
        "inputs": sessions.described(session.get_inputs()),
        "outputs": sessions.described(session.get_outputs()),
    }
    return {
        "ok": True,
        **(signature or {}),
        "metadata": {p.key: p.value for p in model.metadata_props if p.key.startswith(_METADATA)},
        "tensors": intermediate_names(model),
        "random": random.operators(),
        "random_tensors": random.tensors(),
        "coarse": doubles_from_singles(model),
        "exact": exact_tensors(model),
        "handed_on": handed_on(model),
        "smooth": smooth_tensors(model),
        "runtime": onnxruntime.__version__,
    }


def numbers_of(model: onnx.ModelProto, files: Files) -> dict[str, str]:
    """Which numbers a model holds, how they are arranged, and what it computes of them, as digests."""
    from harness.sandbox.graph_description import described_graph
    from harness.sandbox.graph_function import function_of
    from harness.sandbox.graph_numbers import arrangement, held_numbers

    return {
        "function": function_of(model, files, declared_tensors(model)),
        "numbers": held_numbers(model, files),
        "arrangement": arrangement(described_graph(model, files)),
    }


def reordered_model(
    model: onnx.ModelProto, *, seed: int, halved: bool, returned: bool
) -> tuple[dict[str, Any], bytes]:
    """A copy whose sums go in another order, and how many they are."""
    import onnx

    from harness.sandbox.graph_orders import reordered

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    count = reordered(copy, seed, halved=halved, returned=returned)
    return {"ok": True, "sums": count}, copy.SerializeToString() if count else b""


def probed_model(
    model: onnx.ModelProto, files: Files, tensors: Sequence[str]
) -> tuple[dict[str, Any], bytes]:
    """The model with more outputs: the answer, and two new models' bytes, one after the other.

    The second returns nothing but the tensors, and computes nothing else; it has no bytes where that is
    the whole model.
    """
    from harness.sandbox.child.sessions import CAST_SUFFIX
    from harness.sandbox.graph_cut import cut
    from harness.sandbox.graph_edits import described_outputs, exposed
    from harness.sandbox.graph_pack import pack

    outputs = {v.name for v in model.graph.output}
    found = exposed(model, tensors, files, sketch=False, by_rows=True)
    cast = set(found.cast)
    returned = [name + CAST_SUFFIX if name in cast else name for name in found.exposed]
    pack(model, returned, described_outputs(model, files) if returned else {})
    whole = model.SerializeToString()
    added = [v.name for v in model.graph.output if v.name not in outputs]
    part = model.SerializeToString() if added and cut(model, added) else b""
    return {"ok": True, **asdict(found), "whole": len(whole)}, whole + part


def edited_model(
    model: onnx.ModelProto, files: Files, edit: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """A copy with branches laid open, tensors fed and tensors returned.

    Args:
      model: changed in place.
      files: external data.
      edit: taken, patched, tensors and sketch, as the functions of `graph_edits` take them, and most:
        of a graph that computes more than so many tensors, none is returned where all are wanted.

    Returns:
      The answer, the graph before anything was added to it, the new model's bytes.
    """
    from harness.sandbox import graph_edits
    from harness.sandbox.graph_description import described_graph
    from harness.sandbox.graph_precision import doubles_from_singles
    from harness.sandbox.graph_random import RandomNodes
    from harness.sandbox.graph_rounding import exact_tensors, handed_on, smooth_tensors

    left = graph_edits.flattened(model, edit["taken"])
    graph = described_graph(model, files) | {
        "random": RandomNodes(model).tensors(),
        "coarse": doubles_from_singles(model),
        "exact": exact_tensors(model),
        "handed_on": handed_on(model),
        "smooth": smooth_tensors(model),
    }
    unknown = {
        "branches": graph_edits.branches(model),
        "closed": graph_edits.closed(model),
        "left": left,
    }
    fed = graph_edits.patched(model, edit["patched"], files)
    wanted, most = edit["tensors"], edit["most"]
    computed = len(graph_edits.intermediate_names(model))
    withheld = wanted is None and most is not None and computed > most
    found = graph_edits.exposed(model, [] if withheld else wanted, files, sketch=edit["sketch"])
    answer = {"ok": True, **asdict(found), **unknown, "fed": fed, "withheld": withheld}
    return answer, graph, model.SerializeToString()

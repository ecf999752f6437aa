"""What is inside a model, and a copy of it that returns its intermediate tensors.

The parent never parses model bytes: a short-lived process (`graph_child`) does. It runs in the
parent's environment, which has `onnx`. Where a version has an environment of its own, whether it loads
and its signature come from a second process, in the version's own runtime.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from harness.core.errors import UsageError
from harness.core.models import ModelGraph
from harness.core.policies import SandboxPolicy
from harness.sandbox.bundle import GRAPHS
from harness.sandbox.child.frames import FrameError, Header, header_from_bytes
from harness.sandbox.child_process import ChildProcess
from harness.sandbox.child_texts import expect_kind, texts_from
from harness.sandbox.deadlines import received
from harness.sandbox.graph_answers import Own, graph_from_header
from harness.sandbox.graph_names import MAX_NAME
from harness.sandbox.graph_values import pairs_from
from harness.sandbox.hello import LoadFailure, refused
from harness.sandbox.isolation import Isolation, weakest
from harness.sandbox.model_files import ModelFiles
from harness.sandbox.starting import (
    PIPE_ERRORS,
    Start,
    admission,
    admitted,
    load_failure_from_child,
    refuse_broken_environment,
    with_limit,
)

_CUT = ".cut.onnx"
_MOST_TOLD = 64 << 20
"""Bytes of JSON that are read of an answer about a graph: they take many times that as objects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What a probed copy returns besides the model's outputs."""

    path: Path
    """The copy."""
    exposed: tuple[str, ...]
    """Tensors it returns: what `Sandbox.start` takes as trace_tensors."""
    cast: tuple[str, ...]
    """Of these: cast to float32, because numpy has no type for them."""
    skipped: tuple[tuple[str, str], ...]
    """(tensor, why) of those that were asked for and cannot be returned."""
    cut: Path | None = None
    """A second copy, which computes them and nothing else; None where they need the whole model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A question about one model."""

    model: Path
    """The .onnx file."""
    external: tuple[str, ...] = ()
    """Names of its external data files relative to its folder, as pinned."""
    copy: Path | None = None
    """Where a copy goes that returns the tensors which the model declares; None = make none."""
    python: Path | None = None
    """Interpreter of the version's own environment; None = the running one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """The answer to a look at a model that loads."""

    graph: ModelGraph
    """What is inside."""
    probe: ProbeResult | LoadFailure | None
    """The copy, or why there is none; None when none was asked for or the model declares nothing."""
    isolation: Isolation
    """The least that a process was closed in which was given the model to look at it."""


def look(
    looks: Sequence[Look], limits: SandboxPolicy, *, allow_weaker: bool = False
) -> list[Looked | LoadFailure]:
    """Looks at several models at the same time, each in a process of its own.

    Args:
      looks: the models.
      limits: memory, the deadlines and the isolation that is required.
      allow_weaker: go on when less isolation than required was obtained.

    Raises:
      UsageError: a file cannot be read, or the isolation is weaker than required.
      SandboxError: an interpreter or a version's own environment does not work.
    """
    with ExitStack() as stack:
        children = [stack.enter_context(_asked(w, limits, None)) for w in looks]
        own = [_own_start(w, limits, stack, allow_weaker=allow_weaker) for w in looks]
        inside = [admission(child, limits, allow_weaker=allow_weaker) for child in children]
        return [
            found if isinstance(found, LoadFailure) else _answered(w, child, start, limits, found)
            for w, child, start, found in zip(looks, children, own, inside, strict=True)
        ]


def probe(
    model: Path,
    tensors: Sequence[str],
    out: Path,
    limits: SandboxPolicy,
    *,
    external: tuple[str, ...] = (),
    python: Path | None = None,
    allow_weaker: bool = False,
) -> ProbeResult | LoadFailure:
    """Writes a copy of a model that also returns the named tensors.

    Args:
      model: the .onnx file.
      tensors: names as `ModelGraph.tensors` has them; unknown ones are skipped and listed.
      out: where the copy goes; it refers to the same external data.
      limits: memory, the deadlines and the isolation that is required.
      external: names of its external data files.
      python: interpreter of the version's own environment, in which it is known to load; None = the running one.
      allow_weaker: go on when less isolation than required was obtained.

    Raises:
      UsageError: the file cannot be read, or the isolation is weaker than required.
    """
    wanted = Look(model=model, external=external, copy=out, python=python)
    with _asked(wanted, limits, list(tensors)) as child:
        refused = admitted(child, limits, allow_weaker=allow_weaker)
        answer = refused or received_graph(child, limits)
        return answer if isinstance(answer, LoadFailure) else _probed(child, tensors, out, limits)


@contextmanager
def asked_graphs(
    model: Path, external: Sequence[str], limits: SandboxPolicy, **question: object
) -> Iterator[ChildProcess]:
    """A process that has a question about a graph; ended when the answer is no longer awaited.

    Args:
      model: the .onnx file.
      external: names of its external data files.
      limits: memory.
      question: what differs from a mere look, as `graph_child.main` reads it.
    """
    with ModelFiles(model, external=external) as files:
        child = ChildProcess.started(
            GRAPHS,
            python=None,
            fds=[files.model_fd, files.external_fd],
            config={
                "memory_bytes": limits.memory_bytes,
                "external": files.external,
                "copy": False,
                "tensors": None,
                "edit": None,
                "numbers": False,
                "orders": [],
                "session": True,
                **question,
            },
            max_body=limits.memory_bytes,
            memory_bytes=limits.memory_bytes,
        )
    try:
        yield child
    finally:
        child.close()


def _asked(
    wanted: Look, limits: SandboxPolicy, tensors: list[str] | None
) -> AbstractContextManager[ChildProcess]:
    """A process that was asked for a look.

    Args:
      wanted: the model.
      limits: memory.
      tensors: what the copy returns; None = what the model declares.
    """
    return asked_graphs(
        wanted.model,
        wanted.external,
        limits,
        copy=wanted.copy is not None,
        tensors=tensors,
        session=wanted.python is None,
        numbers=True,
    )


def _own_start(
    wanted: Look, limits: SandboxPolicy, stack: ExitStack, *, allow_weaker: bool
) -> Start | None:
    """The model on its way into its version's own runtime; None when that is the running one."""
    if wanted.python is None:
        return None
    files = stack.enter_context(ModelFiles(wanted.model, external=wanted.external))
    start = Start(files, limits=limits, python=wanted.python, allow_weaker=allow_weaker)
    stack.callback(start.close)
    return start


def _own_answer(
    start: Start | None, python: Path | None
) -> tuple[Own, Isolation] | LoadFailure | None:
    """Its word on the model, and what it is closed in; None when there was nobody to ask."""
    if start is None:
        return None
    loaded = start.finish()
    if isinstance(loaded, LoadFailure):
        refuse_broken_environment(loaded, python, start.limits)
        return loaded
    loaded.child.close()
    own = Own(signature=loaded.hello.signature, runtime=loaded.versions["onnxruntime"])
    return own, loaded.isolation


def _answered(
    wanted: Look,
    child: ChildProcess,
    start: Start | None,
    limits: SandboxPolicy,
    isolation: Isolation,
) -> Looked | LoadFailure:
    """Both parts of an answer; a copy that cannot be made takes nothing from the first."""
    answer = _own_answer(start, wanted.python)
    if isinstance(answer, LoadFailure):
        return answer
    own, inside = answer or (None, isolation)
    found = _graph_answered(wanted, child, own, limits)
    if isinstance(found, LoadFailure):
        return replace(found, isolation=isolation)
    graph, copy = found
    return Looked(graph=graph, probe=copy, isolation=weakest((isolation, inside)))


def _graph_answered(
    wanted: Look, child: ChildProcess, own: Own | None, limits: SandboxPolicy
) -> tuple[ModelGraph, ProbeResult | LoadFailure | None] | LoadFailure:
    """What the look gives, as `Looked` has it."""
    answer = received_graph(child, limits)
    if isinstance(answer, LoadFailure):
        return answer
    try:
        graph = graph_from_header(answer[0], own)
    except FrameError as error:
        return LoadFailure(kind="invalid", message=f"broke the protocol: {error}")
    except UsageError as error:
        return LoadFailure(
            kind="metadata", message=f"{error.where}: {error.what}", remedy=error.remedy
        )
    declared = (*graph.features, *graph.fitted)
    if wanted.copy is None or not declared:
        return graph, None
    return graph, _probed(child, declared, wanted.copy, limits)


def _probed(
    child: ChildProcess, tensors: Sequence[str], out: Path, limits: SandboxPolicy
) -> ProbeResult | LoadFailure:
    """The second part of an answer, saved."""
    answer = received_graph(child, limits)
    if isinstance(answer, LoadFailure):
        return answer
    header, body = answer
    try:
        exposed = texts_from(header.get("exposed"), MAX_NAME)
        cast = texts_from(header.get("cast"), MAX_NAME)
        skipped = pairs_from(header.get("skipped"))
        whole = _length_from(header.get("whole"), body.nbytes)
    except FrameError as error:
        return LoadFailure(kind="invalid", message=f"broke the protocol: {error}")
    if not set(exposed) <= set(tensors):
        return LoadFailure(kind="invalid", message="the probe returns tensors nobody asked for")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(body[:whole])
    part = out.with_suffix(_CUT) if body.nbytes > whole else None
    if part is not None:
        part.write_bytes(body[whole:])
    return ProbeResult(path=out, exposed=exposed, cast=cast, skipped=skipped, cut=part)


def _length_from(value: object, most: int) -> int:
    """Bytes of a copy, or FrameError."""
    if type(value) is not int or not 0 <= value <= most:
        msg = "a copy has no valid length"
        raise FrameError(msg)
    return value


def received_graph(
    child: ChildProcess, limits: SandboxPolicy
) -> tuple[Header, memoryview] | LoadFailure:
    """The next frame of a graph child's answer: what it says, and the content that came with it.

    Raises:
      UsageError: it says more than is read of one model.
    """
    try:
        frame = received(child, limits.load_deadline_s)
        header = frame.header
        expect_kind(header, "graph")
        if header.get("ok") is not True:
            kind = "look" if header.get("ours") is True else "load"
            return with_limit(refused(kind, header.get("error")), limits)
        told = header.get("told")
        if type(told) is not int or not 0 <= told <= frame.body.nbytes:
            msg = "an answer about a graph has no valid length"
            raise FrameError(msg)
        if told > _MOST_TOLD:
            child.close()
            raise UsageError(
                "graph",
                f"the model's names and metadata take {told:,} bytes, and the gate reads at most"
                f" {_MOST_TOLD:,}",
                "Shorten the names of its tensors, or export it without debug names.",
            )
        return header_from_bytes(bytes(frame.body[:told])), frame.body[told:]
    except PIPE_ERRORS as error:
        return load_failure_from_child(child, error, limits)

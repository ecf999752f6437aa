"""A version looked into: copies of its graph that return and take any tensor, and runs of them.

Editing a graph needs `onnx` and happens in the parent's environment, running it in the version's own;
both in processes of their own. Nothing of either answer is trusted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from harness.core.graphs import Graph
from harness.core.policies import SandboxPolicy
from harness.core.tensors import Array, Nested, Tensors
from harness.sandbox.bundle import TRACER
from harness.sandbox.child import columns
from harness.sandbox.child.frames import FrameError, header_text
from harness.sandbox.child_process import ChildProcess
from harness.sandbox.child_texts import expect_kind, reason_from, texts_from
from harness.sandbox.deadlines import received
from harness.sandbox.graph_names import MAX_NAME
from harness.sandbox.graph_values import graph_from_description, pairs_from
from harness.sandbox.graphs import asked_graphs, received_graph
from harness.sandbox.hello import LoadFailure, refused
from harness.sandbox.model_files import ModelFiles
from harness.sandbox.nested_values import forms_from, nested_from
from harness.sandbox.starting import (
    PIPE_ERRORS,
    admitted,
    load_failure_from_child,
    with_limit,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """What a copy of a model is to return and to take."""

    taken: tuple[tuple[str, bool], ...] = ()
    """First output of an If → the value of its condition: that branch is laid open."""
    patched: tuple[str, ...] = ()
    """Computed tensors that callers feed, as `name#patched`."""
    tensors: tuple[str, ...] | None = None
    """Tensors to return; None = all."""
    sketch: bool = False
    """Return floats as sketches, `name#sketch`: smallest, largest, length and a sample."""
    most: int | None = None
    """Where all are wanted and the graph computes more than so many, none is returned; None = no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edited:
    """A copy of a model."""

    path: Path
    """Where it lies; it refers to the same external data."""
    graph: Graph
    """The graph with branches laid open, before anything was added to it."""
    exposed: tuple[str, ...]
    """Tensors that the copy returns besides the model's outputs."""
    cast: tuple[str, ...]
    """Of these: as `name#float32`."""
    sketched: tuple[str, ...]
    """Of these: as `name#sketch`."""
    skipped: tuple[tuple[str, str], ...]
    """(tensor, why) of those that cannot be returned."""
    branches: tuple[tuple[str, str], ...]
    """(first output, condition) of every If that is still closed."""
    closed: tuple[tuple[str, str], ...]
    """(operator, first output) of loops and the like: their bodies are not looked into."""
    left: tuple[tuple[str, str], ...]
    """(first output, which branch and how large) of every If laid open: the branch that was not taken."""
    fed: tuple[str, ...]
    """Tensors that callers may feed."""
    withheld: bool
    """The graph computes more tensors than `Edit.most`, so none is returned."""

    def returned(self, tensor: str) -> str:
        """Under which name the copy returns a tensor."""
        if tensor in self.sketched:
            return f"{tensor}#sketch"
        return f"{tensor}#float32" if tensor in self.cast else tensor


def edit(
    model: Path,
    wanted: Edit,
    out: Path,
    limits: SandboxPolicy,
    *,
    external: Sequence[str] = (),
    allow_weaker: bool = False,
) -> Edited | LoadFailure:
    """Writes a copy of a model.

    Args:
      model: the .onnx file; never parsed here.
      wanted: what the copy returns and takes.
      out: where it goes; its folder needs the external data only when it is run.
      limits: memory, the deadlines and the isolation that is required.
      external: names of its external data files.
      allow_weaker: go on when less isolation than required was obtained.

    Raises:
      UsageError: the file cannot be read, or the isolation is weaker than required.
    """
    question = {
        "taken": dict(wanted.taken),
        "patched": list(wanted.patched),
        "tensors": None if wanted.tensors is None else list(wanted.tensors),
        "sketch": wanted.sketch,
        "most": wanted.most,
    }
    try:
        # No session on the model itself: whoever edits it has seen it load, and a large one takes seconds.
        with asked_graphs(model, external, limits, edit=question, session=False) as child:
            if failure := admitted(child, limits, allow_weaker=allow_weaker):
                return failure
            answers = []
            for _ in ("what is inside", "the graph", "the copy"):
                answer = received_graph(child, limits)
                if isinstance(answer, LoadFailure):
                    return answer
                answers.append(answer)
            (header, described), (_, copy) = answers[1:]
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_bytes(copy)
            return Edited(
                path=out,
                graph=graph_from_description(bytes(described)),
                exposed=texts_from(header.get("exposed"), MAX_NAME),
                cast=texts_from(header.get("cast"), MAX_NAME),
                sketched=texts_from(header.get("sketched"), MAX_NAME),
                skipped=pairs_from(header.get("skipped")),
                branches=pairs_from(header.get("branches")),
                closed=pairs_from(header.get("closed")),
                left=pairs_from(header.get("left")),
                fed=texts_from(header.get("fed"), MAX_NAME),
                withheld=header.get("withheld") is True,
            )
    except FrameError as error:
        return LoadFailure(kind="invalid", message=f"broke the protocol: {error}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """What one run of a copy returned."""

    tensors: Tensors
    """Name as the copy calls it → values, whole."""
    keys: dict[str, tuple[str, ...]]
    """Class names of ZipMap tensors."""
    nested: dict[str, Nested] = field(default_factory=dict)
    """Sequences and optionals, whole."""
    failure: str = ""
    """Why there is nothing; the process may still run."""

    def value(self, name: str) -> Array | Nested | None:
        """One of its values; None where it is not there."""
        found = self.tensors.get(name)
        return self.nested.get(name) if found is None else found


class Tracer:
    """A copy of a model in a process of its own, run with graph optimisation off.

    Use a with-statement: leaving it ends the process.
    """

    def __init__(self, child: ChildProcess, limits: SandboxPolicy, tensors: Sequence[str]) -> None:
        self.tensors = tuple(tensors)
        """Everything that it can return."""
        self._child = child
        self._limits = limits
        self._seq = 0
        self._dead = ""

    @classmethod
    def start(
        cls,
        copy: Path,
        *,
        limits: SandboxPolicy,
        folder: Path | None = None,
        external: Sequence[str] = (),
        python: Path | None = None,
        optimise: bool = False,
        allow_weaker: bool = False,
    ) -> Tracer | LoadFailure:
        """Starts a process and loads the copy in it.

        Args:
          copy: the .onnx file.
          limits: memory, deadlines and the isolation that is required.
          folder: where the external data lie; None = beside the copy.
          external: names of external data files.
          python: interpreter of the version's own environment; None for the parent's.
          optimise: as production runs it.
          allow_weaker: go on when less isolation than required was obtained.

        Raises:
          UsageError: a file cannot be read, or the isolation is weaker than required.
        """
        with ModelFiles(copy, external=external, folder=folder) as files:
            child = ChildProcess.started(
                TRACER,
                python=python,
                fds=[files.model_fd, files.external_fd],
                config={
                    "memory_bytes": limits.memory_bytes,
                    "external": files.external,
                    "optimise": optimise,
                },
                max_body=limits.memory_bytes,
                memory_bytes=limits.memory_bytes,
            )
        try:
            if failure := admitted(child, limits, allow_weaker=allow_weaker):
                return failure
            header = received(child, limits.load_deadline_s).header
            expect_kind(header, "traced")
            if header.get("ok") is not True:
                child.close()
                return with_limit(refused("load", header.get("error")), limits)
            return cls(child, limits, texts_from(header.get("tensors"), MAX_NAME))
        except PIPE_ERRORS as error:
            return load_failure_from_child(child, error, limits)
        except BaseException:
            child.close()
            raise

    def run(self, feeds: Mapping[str, Array | Nested], wanted: Sequence[str]) -> Traced:
        """Runs the copy once.

        Args:
          feeds: inputs by name; patched tensors and sequences by `name#patched`. Others are ignored.
          wanted: what to return, of `tensors`.
        """
        if self._dead:
            return Traced(tensors={}, keys={}, failure=self._dead)
        self._seq += 1
        try:
            described, buffers = columns.encoded(
                {n: a for n, a in feeds.items() if not isinstance(a, Nested)}
            )
            lists = {n: a for n, a in feeds.items() if isinstance(a, Nested)}
            parts = [leaf for value in lists.values() for leaf in value.leaves]
            leaves_described, more = columns.encoded({str(i): a for i, a in enumerate(parts)})
        except (TypeError, UnicodeEncodeError) as error:
            return Traced(tensors={}, keys={}, failure=f"cannot be given to a model: {error}")
        forms = {name: value.form for name, value in lists.items()}
        asked = {"seq": self._seq, "wanted": list(wanted), "forms": forms}
        text = header_text(asked, {"tensors": described, "leaves": leaves_described})
        self._child.channel.send(text, [*buffers, *more])
        try:
            frame = received(self._child, self._limits.batch_deadline_s)
            header = frame.header
            expect_kind(header, "traced")
            if header.get("seq") != self._seq:
                msg = "answered another question"
                raise FrameError(msg)
            if header.get("ok") is not True:
                return Traced(tensors={}, keys={}, failure=reason_from(header.get("error")))
            entries, at = columns.layout(header.get("tensors"))
            leaves, end = columns.layout(header.get("leaves"), at)
            told = forms_from(header.get("forms"), leaves)
            names = [*(e.name for e in entries), *dict(told)]
            if end != frame.body.nbytes or len({*names} & {*wanted}) != len(names):
                msg = "the answer holds something else than was asked for"
                raise FrameError(msg)
            tensors = columns.values(entries, frame.body)
            return Traced(
                tensors=tensors,
                keys=keys_from(header.get("keys"), tensors),
                nested=nested_from(told, columns.values(leaves, frame.body).values()),
            )
        except PIPE_ERRORS as error:
            _, self._dead = self._child.explain(error)
            return Traced(tensors={}, keys={}, failure=self._dead)

    def close(self) -> None:
        """Ends the process."""
        self._dead = self._dead or "was closed"
        self._child.close()

    def __enter__(self) -> Tracer:
        """The tracer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the process."""
        self.close()


def keys_from(given: object, tensors: Tensors) -> dict[str, tuple[str, ...]]:
    """Class names of ZipMap tensors, or FrameError."""
    if not isinstance(given, dict) or not set(given) <= set(tensors):
        msg = "class names are missing"
        raise FrameError(msg)
    keys = {name: texts_from(names, MAX_NAME) for name, names in given.items()}
    if any(tensors[name].shape[1:] != (len(names),) for name, names in keys.items()):
        msg = "class names do not fit their scores"
        raise FrameError(msg)
    return keys

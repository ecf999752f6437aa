"""A version's copy with branches laid open and tensors returned, and its traced batches."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

import numpy as np

from harness.core.policies import SandboxPolicy
from harness.core.tensors import Array, Nested, Tensors
from harness.core.traffic import RequestBatch
from harness.sandbox.hello import LoadFailure
from harness.sandbox.reordering import reordered
from harness.sandbox.tracing import Edit, Edited, Traced, Tracer, edit

T = TypeVar("T")

_MOST_ROUNDS = 16
"""Branches within branches that are laid open, at most."""


class Runner(Protocol):
    """A copy that is loaded and can be run; leaving it ends it."""

    tensors: tuple[str, ...]
    """Everything that it can return."""

    def run(self, feeds: Mapping[str, Array | Nested], wanted: Sequence[str]) -> Traced:
        """Runs the copy once, as `sandbox.tracing.Tracer.run`."""

    def close(self) -> None:
        """Ends it."""

    def __enter__(self) -> Self:
        """Itself."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends it."""


class Opener(Protocol):
    """How a version's graph is copied and its copies are run."""

    def edited(self, version: Version, wanted: Edit, out: Path) -> Edited | LoadFailure:
        """Writes a copy, as `sandbox.tracing.edit`."""

    def started(self, version: Version, copy: Edited) -> Runner | LoadFailure:
        """Loads a copy, as `sandbox.tracing.Tracer.start`."""

    def reordered(
        self, version: Version, copy: Edited, folder: Path
    ) -> tuple[Path, ...] | LoadFailure:
        """Writes copies of a copy whose sums go in other orders, as `sandbox.reordering.reordered`."""


class Sandboxed:
    """Each copy is made, and run, in a locked-down process of its own: for models of others."""

    def edited(self, version: Version, wanted: Edit, out: Path) -> Edited | LoadFailure:
        """In the parent's environment, which has `onnx`."""
        return edit(
            version.model, wanted, out, version.limits,
            external=version.external, allow_weaker=version.allow_weaker,
        )  # fmt: skip

    def started(self, version: Version, copy: Edited) -> Runner | LoadFailure:
        """In the version's own environment."""
        return Tracer.start(
            copy.path,
            limits=version.limits,
            folder=version.model.parent,
            external=version.external,
            python=version.python,
            allow_weaker=version.allow_weaker,
        )

    def reordered(
        self, version: Version, copy: Edited, folder: Path
    ) -> tuple[Path, ...] | LoadFailure:
        """In the parent's environment."""
        return reordered(
            copy.path, folder, version.limits, returned=True, allow_weaker=version.allow_weaker
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One side, as the graph pass needs it."""

    role: str
    """baseline or candidate."""
    model: Path
    """The pinned .onnx file."""
    external: tuple[str, ...]
    """Names of its external data files, as pinned."""
    limits: SandboxPolicy
    """The policy's."""
    input_names: tuple[tuple[str, str], ...] = ()
    """(name in the traffic, this version's name) of every input."""
    python: Path | None = None
    """Interpreter of the version's own environment."""
    allow_weaker: bool = False
    """Go on below the required isolation."""
    opener: Opener = field(default_factory=Sandboxed)
    """Where its graph is copied and run."""

    def feeds(self, batch: RequestBatch) -> Tensors:
        """A batch's inputs under this version's names."""
        names = dict(self.input_names)
        return {names.get(name, name): column for name, column in batch.inputs.items()}


class GraphPassError(Exception):
    """A version cannot be traced; the message says why."""


class RunError(GraphPassError):
    """A copy was made and loaded, and fails on the requests."""


class TimeLimit:
    """How long the whole look may take; every single step has a deadline of its own.

    Args:
      limit_s: from now on.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._until = time.perf_counter() + limit_s

    def check(self, ahead_s: float = 0.0) -> None:
        """Raises GraphPassError when the time is over, or when so many seconds more do not fit what is left."""
        left_s = self._until - time.perf_counter()
        if left_s < ahead_s or left_s < 0:
            took = "took" if left_s < 0 else "would take"
            msg = (
                f"it {took} more than {self._limit_s:g} s (allow more: `graph: {{deadline: ...}}` in a policy, "
                "`--graph-deadline` of compare)"
            )
            raise GraphPassError(msg)

    def each(self, steps: Iterable[T]) -> Iterator[T]:
        """Hands on steps one by one, as long as another that takes as long as the one before fits what is left.

        Raises:
          GraphPassError: it does not.
        """
        ahead_s = 0.0
        for step in steps:
            self.check(ahead_s)
            began = time.perf_counter()
            yield step
            ahead_s = time.perf_counter() - began


class Laid:
    """A version whose branches are laid open as a first batch takes them.

    Args:
      version: the model.
      first: a batch that it answers.
      scratch: folder for copies.
      limit: asked before each copy and each process.
      most: of a graph that computes more tensors than so many, `everything` returns none.

    Raises:
      GraphPassError: it cannot be opened or run, or the time is over.
    """

    def __init__(
        self, version: Version, first: RequestBatch, scratch: Path, *, limit: TimeLimit, most: int
    ) -> None:
        self.version = version
        self.limit = limit
        """Of the whole look."""
        self._scratch = scratch
        self._copies = 0
        self.taken: dict[str, bool] = {}
        """First output of an If → the condition that the first batch gave it."""
        self._conditions: dict[str, str] = {}
        probe = self.copy(Edit(most=most))
        for _ in range(_MOST_ROUNDS):
            if not probe.branches:
                break
            self._conditions |= dict(probe.branches)
            values = self._values_of({c for _, c in probe.branches}, first)
            self.taken |= {output: values[condition] for output, condition in probe.branches}
            probe = self.copy(Edit(most=most))
        self.everything = probe
        """A copy that returns every tensor, unless they are withheld; to be used by who needs it, as each copy costs a process."""
        self.graph = probe.graph
        """With branches laid open."""
        self.left = probe.left
        """(first output of an If, which branch and how large) of branches that were not taken."""
        self.closed = probe.closed
        """(operator, first output) of nodes whose bodies are not looked into."""

    def copy(self, wanted: Edit) -> Edited:
        """A copy with the branches that were taken.

        Raises:
          GraphPassError: it cannot be made, or the time is over.
        """
        self.limit.check()
        self._copies += 1
        out = self._scratch / f"{self.version.role}-{self._copies}.onnx"
        wanted = Edit(
            taken=tuple(self.taken.items()),
            patched=wanted.patched,
            tensors=wanted.tensors,
            sketch=wanted.sketch,
            most=wanted.most,
        )
        version = self.version
        made = version.opener.edited(version, wanted, out)
        if isinstance(made, LoadFailure):
            msg = f"the {version.role}'s graph cannot be opened: {made.message}"
            raise GraphPassError(msg)
        return made

    def tracer(self, copy: Edited) -> Runner:
        """A process that runs a copy.

        Raises:
          GraphPassError: the copy does not load, or the time is over.
        """
        self.limit.check()
        version = self.version
        tracer = version.opener.started(version, copy)
        if isinstance(tracer, LoadFailure):
            msg = f"the {version.role}'s opened graph does not load: {tracer.message}"
            raise GraphPassError(msg)
        return tracer

    def reordered(self, copy: Edited) -> list[Edited]:
        """Copies of a copy that return the same and sum in other orders; none where it has no sums.

        Raises:
          GraphPassError: they cannot be made, or the time is over.
        """
        self.limit.check()
        made = self.version.opener.reordered(self.version, copy, self._scratch)
        if isinstance(made, LoadFailure):
            msg = f"the {self.version.role}'s sums cannot be put in another order: {made.message}"
            raise GraphPassError(msg)
        return [replace(copy, path=path) for path in made]

    def same_branches(self, found: Traced) -> bool:
        """Whether a batch took the branches that are laid open."""
        return all(
            condition not in found.tensors
            or bool(found.tensors[condition].any()) is self.taken[output]
            for output, condition in self._conditions.items()
        )

    def chosen_by(self) -> dict[str, tuple[str, ...]]:
        """Tensor of a branch laid open → the tensors that chose the branch, and those about it."""
        found = {}
        for name in self.graph.computed():
            choosers = tuple(
                condition
                for output, condition in self._conditions.items()
                if name.startswith((f"{output}.then.", f"{output}.else."))
            )
            if choosers:
                found[name] = choosers
        return found

    def conditions(self) -> tuple[str, ...]:
        """Tensors that choose branches."""
        return tuple(dict.fromkeys(self._conditions.values()))

    def _values_of(self, conditions: set[str], batch: RequestBatch) -> dict[str, bool]:
        feeds = self.version.feeds(batch)
        known = {name: bool(feeds[name].any()) for name in conditions if name in feeds}
        rest = sorted(conditions - set(known))
        if rest:
            copy = self.copy(Edit(tensors=tuple(rest)))
            with self.tracer(copy) as tracer:
                found = tracer.run(feeds, [copy.returned(name) for name in rest])
            if found.failure:
                msg = f"the {self.version.role} fails where branches are chosen: {found.failure}"
                raise RunError(msg)
            known |= {name: bool(found.tensors[name].any()) for name in rest}
        return known


def joined(parts: Sequence[Array]) -> Array | None:
    """Halves of a batch as one tensor; None where they do not fit."""
    if any(p.ndim == 0 for p in parts) or len({p.shape[1:] for p in parts}) > 1:
        return None
    return np.concatenate(parts)


def halves(batch: Tensors, rows: int) -> list[Tensors]:
    """A batch's inputs in two, by rows."""
    middle = rows // 2
    return [
        {name: column[part] for name, column in batch.items()}
        for part in (slice(None, middle), slice(middle, None))
    ]


def bytes_of(found: Traced) -> int:
    """Memory that a run's values take."""
    tensors = sum(array.nbytes for array in found.tensors.values())
    return tensors + sum(value.nbytes for value in found.nested.values())

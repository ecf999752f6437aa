"""When two versions are looked into, on which requests, and what becomes of it when it cannot be done.

The pass explains a difference and decides nothing: whatever stops it is a sentence in the result, and
the answer stays what outputs and features make it.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.core.counted import counted
from harness.core.errors import SandboxError, UsageError, nearest
from harness.core.findings import Finding
from harness.core.models import ModelGraph, Rearrangement
from harness.core.policies import GraphPolicy, Mapping, When
from harness.core.tensors import Bools, Ints
from harness.core.traffic import RequestBatch
from harness.diff.graph_findings import findings_from_graph
from harness.diff.graph_report import GraphReport
from harness.diff.signature import SignatureMatch
from harness.pipeline.graph_opening import GraphPassError, RunError, TimeLimit, Version
from harness.pipeline.graph_trace import GraphPass, trace_graphs
from harness.pipeline.opening import LegRecipe
from harness.pipeline.progress import Listener, Progress
from harness.replay.composition import rows_of
from harness.store.windows import SealedWindow

BATCH = 64
"""Requests that share a batch; one, where answers depend on the batch."""
MOST_SINGLY = 64
"""Requests that are traced by themselves where a graph takes no batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphLook:
    """What looking into both versions gave."""

    report: GraphReport | None = None
    """None = it was not done, or could not be."""
    why: str = ""
    """Why there is no report."""

    def findings(self, *, answers_differ: bool, unseen: Collection[str] = ()) -> list[Finding]:
        """What the graphs say about a difference of the answers as production computes them.

        Args:
          answers_differ: whether they do.
          unseen: baseline's outputs that the graphs alone show.
        """
        if self.report is None:
            return []
        differ = answers_differ or not set(unseen).isdisjoint(self.report.differing_outputs)
        return findings_from_graph(self.report, answers_differ=differ)

    def not_compared(self) -> tuple[str, ...]:
        """What stayed out of sight, as sentences."""
        if self.report is None:
            return (f"the tensors inside the graphs were not compared: {self.why}",)
        return self.report.not_compared

    def to_text(self) -> str:
        """How much was compared, and why tensors stand for each other, in one line."""
        report = self.report
        if report is None:
            return f"graph: not looked into: {self.why}"
        tiers = ", ".join(f"{count} {tier}" for tier, count in report.tiers.items() if count)
        how = " (floats by sketches)" if report.sketched else ""
        chance = ", ".join(dict.fromkeys(why for _, why in report.random))
        random = f"; {len(report.random)} nondeterministic after {chance}" if chance else ""
        small = sum(state.small_values for state in report.states)
        within = f", {counted(small, 'tensor')} of these but for small values" if small else ""
        return (
            f"graph: {report.equal} of {report.compared} tensors equal in {counted(report.requests)}"
            f"{how}{within}{random}; "
            f"{report.coverage}; matched by {tiers or 'nothing'}"
        )


class DifferingFirst:
    """Which requests are looked into: the first ones that differ, then the first others.

    Args:
      most: requests.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._differing: list[Ints] = []
        self._others: list[Ints] = []

    def add(self, positions: Ints, differ: Bools, answered: Bools) -> None:
        """Takes a batch.

        Args:
          positions: in the window, shape (n,).
          differ: answers or features differ, shape (n,).
          answered: by both versions, shape (n,).
        """
        for kept, wanted in (
            (self._differing, differ & answered),
            (self._others, ~differ & answered),
        ):
            room = self._most - sum(map(len, kept))
            if room > 0:
                kept.append(positions[wanted][:room])

    @property
    def full(self) -> bool:
        """Whether no later request can be among them."""
        return sum(map(len, self._differing)) >= self._most

    def positions(self) -> Ints:
        """The requests, shape (≤ most,)."""
        found = [*self._differing, *self._others]
        return np.concatenate(found)[: self._most] if found else np.empty(0, np.int64)


def look_into(
    recipes: tuple[LegRecipe, LegRecipe],
    match: SignatureMatch,
    mapping: Mapping,
    batches: Sequence[RequestBatch],
    *,
    declared: Sequence[tuple[str, str]],
    rearranged: Rearrangement = Rearrangement.NONE,
    policy: GraphPolicy,
    listener: Listener,
) -> GraphLook:
    """Compares every tensor of two versions; says why where that cannot be done.

    Args:
      recipes: how the versions are opened.
      match: how their signatures were paired.
      mapping: names that differ.
      batches: requests that both answer.
      declared: (baseline's, candidate's) features, as they are compared elsewhere.
      rearranged: as for `GraphPass`.
      policy: memory and time that it may take.
      listener: hears progress, in batches.
    """
    batches = [batch for batch in batches if batch.rows.sum()]
    if not batches:
        return GraphLook(why="no request with rows was answered by both versions")
    old, new = (_version(r) for r in recipes)
    wanted = GraphPass(
        baseline=old,
        candidate=new,
        match=match,
        mapped=mapping.tensors,
        declared=tuple(declared),
        rearranged=rearranged,
        memory_bytes=policy.memory_bytes,
        deadline_s=policy.deadline_s,
    )

    def heard(done: int, total: int) -> None:
        listener(Progress(stage="graph", done=done, total=total))

    listener(Progress(stage="graph", done=0, total=len(batches), note="opening both graphs"))
    limit = TimeLimit(policy.deadline_s)
    try:
        try:
            return _traced(wanted, batches, heard, limit)
        except RunError:
            if max(map(len, batches)) == 1:
                raise
            # A graph of fixed batches takes one request at a time, however many a batch should have.
            return _traced(wanted, _one_by_one(batches), heard, limit)
    except GraphPassError as error:
        return GraphLook(why=str(error))
    except (SandboxError, UsageError) as error:
        return GraphLook(why=f"{error.where} {error.what}")


def _traced(
    wanted: GraphPass,
    batches: Sequence[RequestBatch],
    heard: Callable[[int, int], None],
    limit: TimeLimit,
) -> GraphLook:
    with tempfile.TemporaryDirectory(prefix="harness-graph-") as scratch:
        return GraphLook(report=trace_graphs(wanted, batches, Path(scratch), heard, limit))


def _one_by_one(batches: Sequence[RequestBatch]) -> list[RequestBatch]:
    """The first requests that have rows, each by itself."""
    every = (
        rows_of(batch, i, i + 1) for batch in batches for i in np.flatnonzero(batch.rows).tolist()
    )
    return list(itertools.islice(every, MOST_SINGLY))


def batches_of(window: SealedWindow, positions: Ints, *, singly: bool) -> list[RequestBatch]:
    """Reads requests in the batches that are traced.

    Args:
      window: what they are read from.
      positions: in it.
      singly: answers depend on what shares a batch.
    """
    size = 1 if singly else BATCH
    return [window.read(positions[i : i + size]) for i in range(0, len(positions), size)]


def check_mapped_tensors(
    mapping: Mapping, graphs: tuple[ModelGraph, ModelGraph], where: str
) -> None:
    """Refuses a tensor that a version does not have: a typing error would leave both without a partner.

    Args:
      mapping: baseline's name → candidate's name.
      graphs: what is known of both versions.
      where: the option or the policy file, as the user knows it.

    Raises:
      UsageError: with the nearest name that there is.
    """
    for side, (role, graph) in enumerate(zip(("baseline", "candidate"), graphs, strict=True)):
        known = {*graph.tensors, *(t.name for t in graph.signature.outputs)}
        for pair in mapping.tensors:
            if not _has(known, pair[side]):
                raise UsageError(
                    where,
                    f"maps tensor '{pair[0]}' to '{pair[1]}', and the {role} has no '{pair[side]}'",
                    f"Correct the name: {_suggested(pair[side], known)}",
                )


def _has(known: Iterable[str], name: str) -> bool:
    """Whether a tensor is there, or belongs to a branch of one that is: `y.then.m`."""
    return name in known or any(
        name.startswith((f"{tensor}.then.", f"{tensor}.else.")) for tensor in known
    )


def _suggested(name: str, known: set[str]) -> str:
    hint = nearest(name, known)
    return hint if hint.startswith("did you mean") else f"it has {len(known):,} tensors."


def _version(recipe: LegRecipe) -> Version:
    return Version(
        role=recipe.role,
        model=recipe.model,
        external=recipe.external,
        limits=recipe.limits,
        input_names=recipe.input_names,
        python=recipe.python,
        allow_weaker=recipe.allow_weaker,
    )


def why_not(
    policy: GraphPolicy,
    *,
    raw_differs: bool,
    answers_differ: bool,
    same_model: bool,
    compared: bool,
) -> str:
    """Why a gate does not look into the versions; "" = it does.

    Args:
      policy: the gate's.
      raw_differs: a feature computed from raw fields differs beyond its floor.
      answers_differ: an output does.
      same_model: both should answer alike: a refactor, or the same bytes.
      compared: a row of an output, or of a feature computed from raw fields, was.
    """
    if policy.when is When.NEVER or not policy.requests:
        return "the policy asks for none (graph.when)"
    if policy.when is When.ALWAYS or raw_differs or (answers_differ and same_model):
        return ""
    if answers_differ:
        return (
            "no feature computed from raw fields that was compared differs beyond its floor, "
            "and other answers are what a retrain is for"
        )
    if not compared:
        return "no row was compared, of an output or of a feature computed from raw fields"
    return (
        "of outputs and features computed from raw fields, nothing that was compared and counts "
        "differs beyond the floor"
    )

"""How a run opens its legs: the pinned bytes, a probed copy for the trace, the policy's limits.

Starting a process is mostly its own interpreter, imports and model: looks and legs that are needed
together are begun together, on the main thread, and waited for one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from harness.core.errors import UsageError
from harness.core.models import ModelGraph, PinnedModel
from harness.core.policies import Mapping, SandboxPolicy
from harness.pipeline.mapped_features import with_mapped_features
from harness.replay.leg_counters import USUAL, LegCaps
from harness.replay.legs import Leg
from harness.sandbox.graphs import Look, Looked, ProbeResult, look
from harness.sandbox.hello import LoadFailure
from harness.sandbox.model_files import ModelFiles
from harness.sandbox.pool import Pool
from harness.sandbox.process import Sandbox
from harness.sandbox.starting import Start, refuse_broken_environment, refuse_lacking_locale

ROLES = ("baseline", "candidate")
ANCHOR = "anchor"
NO_MAPPING = Mapping()

Seen = tuple[Looked | LoadFailure, ...]
"""What was seen of baseline, candidate and, where there is one, the anchor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LegRecipe:
    """Everything that opening one version's leg takes."""

    role: str
    """baseline or candidate."""
    model: Path
    """The pinned .onnx file."""
    limits: SandboxPolicy
    """The policy's."""
    external: tuple[str, ...] = ()
    """Names of its external data files, as pinned."""
    folder: Path | None = None
    """Where the external data lie; None = beside the model."""
    python: Path | None = None
    """Interpreter of the version's own environment; None = the running one."""
    trace_model: Path | None = None
    """Its probed copy; None when it declares no features or cannot be probed."""
    cut_model: Path | None = None
    """A copy that computes these features and nothing else; None where they need the whole model."""
    trace_tensors: tuple[str, ...] = ()
    """What the trace returns."""
    untraced: tuple[str, ...] = ()
    """Why tensors that were declared are not traced, and what is not known of outputs, each as a sentence."""
    allow_weaker: bool = False
    """Go on below the required isolation."""
    input_names: tuple[tuple[str, str], ...] = ()
    """(name in the traffic, this version's name)."""
    caps: LegCaps = USUAL
    """How much trouble its leg may make."""
    lengths: tuple[tuple[str, int], ...] = ()
    """(output, how long the version that it is compared with declares it as a whole)."""
    tables: tuple[str, ...] = ()
    """Outputs that are read as about a batch also where it has as many rows as they are long."""


def look_at(
    models: Sequence[PinnedModel],
    limits: SandboxPolicy,
    probes: Path,
    pythons: Sequence[Path | None] = (),
    *,
    mapping: Mapping = NO_MAPPING,
    allow_weaker: bool = False,
) -> Seen:
    """Looks at all versions at the same time, and probes each for the tensors that it declares.

    Args:
      models: baseline, candidate and, where there is one, the anchor.
      limits: the policy's.
      probes: folder for the probed copies.
      pythons: interpreters of their own environments; None = the running one; () = all of them.
      mapping: names that differ between baseline and candidate.
      allow_weaker: go on below the required isolation.

    Raises:
      UsageError: the isolation is weaker than required, a pinned file cannot be read, our look into its graph
        fails where onnxruntime loads it, or its metadata cannot be read: what a version says about
        itself is its author's mistake, and no verdict about what it answers.
      EnvironmentUnavailableError: a version asks for a locale that this machine lacks.
    """
    pythons = pythons or [None] * len(models)
    copies = [probes / f"{role}.onnx" for role in (*ROLES, ANCHOR)]
    seen = look(
        [
            Look(model=model.path, external=model.external, copy=copy, python=python)
            for copy, model, python in zip(copies, models, pythons, strict=False)
        ],
        limits,
        allow_weaker=allow_weaker,
    )
    for model, found in zip(models, seen, strict=True):
        if isinstance(found, Looked):
            continue
        where = f"model {model.given}"
        refuse_lacking_locale(found, where)
        if found.kind == "metadata":
            raise UsageError(where, found.message, found.remedy)
        if found.kind == "look":
            raise UsageError(
                where,
                f"onnxruntime loads it, and our own look into its graph failed ({found.message})",
                "That is a limit of this program and says nothing about the version: export it with its "
                "functions inlined or its names mended, as the message says, or raise sandbox.memory.",
            )
    match seen:
        case [Looked() as old, Looked() as new, *others]:
            both = with_mapped_features(
                (old, new), models[:2], mapping, limits, copies[:2], pythons[:2],
                allow_weaker=allow_weaker,
            )  # fmt: skip
            return (*both, *others)
        case _:
            return tuple(seen)


def graph_of(seen: Looked | LoadFailure) -> ModelGraph | LoadFailure:
    """What is inside a version, or why it does not load."""
    return seen if isinstance(seen, LoadFailure) else seen.graph


def leg_recipe(
    role: str,
    model: PinnedModel,
    probe: ProbeResult | LoadFailure | None,
    *,
    limits: SandboxPolicy,
    python: Path | None = None,
    allow_weaker: bool = False,
    input_names: tuple[tuple[str, str], ...] = (),
    lengths: tuple[tuple[str, int], ...] = (),
    tables: tuple[str, ...] = (),
) -> LegRecipe:
    """A leg on a version that was looked at.

    Args:
      role: baseline or candidate.
      model: the pinned version.
      probe: its probed copy, or why there is none; None when it declares nothing.
      limits: the policy's.
      python: interpreter of the version's own environment; None = the running one.
      allow_weaker: go on below the required isolation.
      input_names: (name in the traffic, this version's name).
      lengths: (output, how long the version that it is compared with declares it as a whole).
      tables: outputs that are about a batch also where it has as many rows as they are long.
    """
    trace_model: Path | None = None
    cut_model: Path | None = None
    traced: tuple[str, ...] = ()
    untraced: tuple[str, ...] = ()
    if isinstance(probe, LoadFailure):
        untraced = (f"no feature of the {role} could be traced: {probe.message}",)
    elif probe is not None:
        trace_model, cut_model, traced = probe.path, probe.cut, probe.exposed
        untraced = _by_reason(role, probe.skipped)
    return LegRecipe(
        role=role, model=model.path, external=model.external, limits=limits, python=python,
        trace_model=trace_model, cut_model=cut_model, trace_tensors=traced, untraced=untraced,
        allow_weaker=allow_weaker, input_names=input_names, lengths=lengths, tables=tables,
    )  # fmt: skip


def lengths_beside(
    graphs: tuple[ModelGraph, ModelGraph], outputs: Sequence[tuple[str, str]]
) -> tuple[tuple[tuple[str, int], ...], tuple[tuple[str, int], ...]]:
    """`LegRecipe.lengths` of baseline and candidate: each other's, under its own names.

    Args:
      graphs: baseline and candidate.
      outputs: (baseline's name, candidate's name), as they are compared.
    """
    old, new = (dict(graph.signature.lengths) for graph in graphs)
    return (
        tuple((b, new[c]) for b, c in outputs if c in new),
        tuple((c, old[b]) for b, c in outputs if b in old),
    )


def _by_reason(role: str, skipped: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """One sentence a reason, so that many tensors read as one line."""
    reasons: dict[str, list[str]] = {}
    for name, why in skipped:
        reasons.setdefault(why, []).append(name)
    return tuple(f"{role} tensor {', '.join(names)}: {why}" for why, names in reasons.items())


@contextmanager
def open_legs(*recipes: LegRecipe, pool: Pool | None = None) -> Iterator[list[Leg]]:
    """Starts a leg per recipe, all at the same time; a recipe may be given twice.

    A version's bytes are sealed once, for all of its processes and for every restart. A version that
    does not load gives a leg that has ended. From the first process on that is lost, one more waits, so
    that a leg which loses another goes on after the time that its model takes to load; most legs lose
    none, and would have paid a start for nothing.

    Args:
      recipes: the legs.
      pool: processes that wait already; None = start them now.

    Raises:
      UsageError: a file cannot be read, or the isolation is weaker than required.
      EnvironmentUnavailableError: a version's own runtime, or a locale that it asks for, cannot be had here.
      SandboxError: a process does not start at all.
    """
    with _openers(recipes, pool) as openers, ExitStack() as stack:
        legs = [
            stack.enter_context(
                Leg(
                    opener,
                    name=opener.recipe.role,
                    input_names=opener.recipe.input_names,
                    caps=opener.recipe.caps,
                )
            )
            for opener in openers
        ]
        yield legs


@contextmanager
def open_versions(
    *recipes: LegRecipe, pool: Pool | None = None
) -> Iterator[Sequence[Callable[[], Sandbox | LoadFailure]]]:
    """What starts a process of each version, for those who need no leg: one request at a time, no trace.

    Args:
      recipes: the versions.
      pool: as for `open_legs`.

    Raises:
      As `open_legs`.
    """
    bare = [replace(r, trace_model=None, cut_model=None, trace_tensors=()) for r in recipes]
    with _openers(bare, pool) as openers:
        yield openers


@contextmanager
def _openers(recipes: Sequence[LegRecipe], pool: Pool | None) -> Iterator[list[_Opener]]:
    """An opener a recipe, whose first processes load already; a version's bytes are sealed once."""
    with ExitStack() as stack:
        pool = pool or stack.enter_context(Pool())
        sealed: dict[LegRecipe, ModelFiles] = {}
        openers: list[_Opener] = []
        for recipe in recipes:
            if recipe not in sealed:
                files = ModelFiles(
                    recipe.model, external=recipe.external, trace_model=recipe.trace_model,
                    cut_model=recipe.cut_model, folder=recipe.folder,
                )  # fmt: skip
                sealed[recipe] = stack.enter_context(files)
            opener = _Opener(recipe, sealed[recipe], pool)
            stack.callback(opener.close)
            openers.append(opener)
        for opener in openers:
            opener.load()
        yield openers


class _Opener:
    """What starts a leg's processes; the first has been begun when it is made."""

    def __init__(self, recipe: LegRecipe, files: ModelFiles, pool: Pool) -> None:
        self.recipe = recipe
        self._files = files
        self._pool = pool
        self._begun: Start | None = self._start()

    def load(self) -> None:
        """Lets the first process load the model, without waiting for it."""
        if self._begun is not None:
            self._begun.load()

    def __call__(self) -> Sandbox | LoadFailure:
        """The process that was begun; later ones from the pool, which gets another at once."""
        start, self._begun = self._begun, None
        if start is None:
            start = self._start()
            self.prepare_restart()
        started = Sandbox.started(start, name=self.recipe.role)
        if isinstance(started, LoadFailure):
            refuse_broken_environment(started, self.recipe.python, start.limits)
            refuse_lacking_locale(started, f"{self.recipe.role} model")
        return started

    def prepare_restart(self) -> None:
        """Lets a process wait for the next restart of any leg of this kind."""
        if not self.recipe.external:
            recipe = self.recipe
            self._pool.begin(1, recipe.limits.memory_bytes, python=recipe.python)

    def close(self) -> None:
        """Ends a process that nobody waited for."""
        if self._begun is not None:
            self._begun.close()

    def _start(self) -> Start:
        recipe = self.recipe
        return Start(
            self._files,
            limits=recipe.limits,
            trace_tensors=recipe.trace_tensors,
            python=recipe.python,
            allow_weaker=recipe.allow_weaker,
            pool=self._pool,
            lengths=recipe.lengths,
            tables=recipe.tables,
        )

"""A version against its own golden rows, before any traffic, and how such rows are made.

A version that does not compute today what it computed when it was trained is not the version that
was tested then: other bytes of a dependency, another runtime, a preprocessing that moved.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness.core.counted import counted
from harness.core.errors import ResolveError, UsageError, nearest
from harness.core.findings import Finding, Severity
from harness.core.models import PinnedModel
from harness.core.observations import Observations, Outcome
from harness.core.places import Place
from harness.core.policies import SandboxPolicy
from harness.core.tensors import Array, Tensors, flat_rows, holds_nested
from harness.core.traffic import RequestBatch
from harness.diff.distance import compare_rows
from harness.diff.relations import name_relation
from harness.diff.scales import column_scales
from harness.pipeline.assets import default_cache_dir
from harness.pipeline.describe import ROUNDING
from harness.pipeline.opening import LegRecipe, leg_recipe, look_at, open_legs
from harness.pipeline.progress import Listener, Progress, silent
from harness.pipeline.runtimes import runtimes
from harness.replay.asked import asked_by
from harness.resolve.golden import GOLDEN_FILE, golden_place
from harness.resolve.golden_logging import log_golden, registered
from harness.resolve.pin import pin
from harness.sandbox.hello import LoadFailure
from harness.store.golden import GoldenRows, read_golden, write_golden
from harness.store.tables import open_traffic

ROWS = 64
"""Golden rows of a version unless told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenCheck:
    """One version against its golden rows."""

    role: str
    """baseline, candidate or anchor."""
    rows: int
    """Golden rows; 0 = it has none."""
    tensors: int
    """Tensors compared."""
    failure: str
    """The first tensor that differs, and how; "" = all are reproduced."""
    named: bool = True
    """They say which version they are of."""
    flaky: int = 0
    """Times that its process failed on them and passed unchanged the second time."""

    def not_compared(self) -> tuple[str, ...]:
        """What is to be said about a version without golden rows."""
        if not self.rows:
            return (f"{self.role}: no golden rows were logged with it",)
        if not self.named:
            return (f"{self.role}: whether its golden rows are its own: they name no version",)
        return ()

    def findings(self) -> list[Finding]:
        """Whether they were reproduced."""
        if not self.rows:
            return []
        if not self.failure:
            return [
                Finding(
                    kind="golden_rows_reproduced", severity=Severity.INFO, where=self.role,
                    what=f"the {self.role} reproduces its {counted(self.rows, 'golden row')} in {counted(self.tensors, 'tensor')}",
                    remedy="Nothing to do.",
                )
            ]  # fmt: skip
        return [
            Finding(
                kind="golden_rows_differ",
                severity=Severity.HARM if self.role == "candidate" else Severity.WARNING,
                where=self.role,
                what=f"the {self.role} does not reproduce its own golden rows: {self.failure}",
                remedy="Compare runtime, requirements and preprocessing with those of the training.",
            )
        ]


def check_golden(recipe: LegRecipe, model: PinnedModel) -> GoldenCheck:
    """Runs a version over its golden rows and compares every tensor, features first.

    Args:
      recipe: the version's leg.
      model: as pinned, with its golden rows.

    Raises:
      ResolveError: the rows cannot be read, are another version's, or name what it does not have.
    """
    if model.golden is None:
        return GoldenCheck(role=recipe.role, rows=0, tensors=0, failure="")
    where = f"{recipe.role} {model.given}"
    rows = read_golden(model.golden, where)
    if rows.model and rows.model != model.digest:
        raise ResolveError(
            f"{where}, golden rows",
            f"they are of the version {rows.model[:12]}, this one is {model.digest[:12]}",
            "Log each version's own golden rows with it, or take the file away.",
        )
    seen, flaky = _answers(recipe, rows.inputs, where)
    traced = {n: seen.features[n] for n in recipe.trace_tensors if n in seen.features}
    _check_names(where, rows, traced, seen.outputs)
    failure = _failed(seen)
    ordered = [(n, rows.features[n], traced[n]) for n in traced if n in rows.features]
    ordered += [(n, rows.outputs[n], v) for n, v in seen.outputs.items() if n in rows.outputs]
    for name, logged, now in ordered:
        failure = failure or _difference(name, logged, now)
    return GoldenCheck(
        role=recipe.role, rows=len(rows), tensors=len(ordered), failure=failure,
        named=bool(rows.model), flaky=flaky,
    )  # fmt: skip


def make_golden(
    model: str,
    *,
    inputs: Sequence[Place],
    out: Path | None = None,
    log_to: str | None = None,
    rows: int = ROWS,
    registry_uri: str | None = None,
    cache_dir: Path | None = None,
    allow_lower_isolation: bool = False,
    listener: Listener = silent,
) -> str:
    """Runs a version over some rows and logs inputs, features and outputs with it.

    Args:
      model: .onnx file, MLflow model folder or, with `out` or `log_to`, a registry reference.
      inputs: traffic folder, sealed window, .npz, .parquet or .jsonl.
      out: where to; None = beside the file, or in the model folder.
      log_to: a registered version of the same bytes, which gets them as an artefact, instead of `out`.
      rows: most requests to log, the first of the window's storage order.
      registry_uri: MLflow registry, for references.
      cache_dir: where sealed windows are kept.
      allow_lower_isolation: run below the tier that policies require by default.
      listener: hears progress.

    Returns:
      The file, or the registered version.

    Raises:
      UsageError: a registered version of other bytes, nowhere to write, a version that does not load or fails on a row, unusable inputs.
    """
    with tempfile.TemporaryDirectory(prefix="harness-golden-") as scratch:
        folder = Path(scratch)
        path = folder / GOLDEN_FILE if log_to else _free_place(model, out)
        if out and log_to:
            raise UsageError("--log-to", "cannot be combined with --out", "Give one of them.")
        pinned = pin(model, folder / "models", registry_uri=registry_uri)
        if log_to:
            registered(log_to)
            _check_same(pinned, pin(log_to, folder / "models", registry_uri=registry_uri))
        found = _rows(
            pinned, inputs, folder, rows=rows, cache_dir=cache_dir or default_cache_dir(),
            allow_weaker=allow_lower_isolation, listener=listener,
        )  # fmt: skip
        write_golden(path, found)
        return log_golden(path, log_to, registry_uri=registry_uri) if log_to else str(path)


def _free_place(model: str, out: Path | None) -> Path:
    """Where golden rows are to be written; refuses what is there already."""
    if out is None and model.startswith("models:/"):
        raise UsageError(
            model, "there is no file beside it", "Give --log-to models:/NAME/VERSION or --out FILE."
        )
    path = out or golden_place(Path(model))
    if path.exists():
        raise UsageError(str(path), "golden rows are there already", "Remove them first.")
    if not path.absolute().parent.is_dir():
        raise UsageError(str(path), "there is no such folder", "Make it, or name another file.")
    return path


def _check_same(model: PinnedModel, registered: PinnedModel) -> None:
    """Refuses a registered version that is another one, or has golden rows."""
    if registered.digest != model.digest:
        raise UsageError(
            registered.given,
            f"is another version ({registered.digest[:12]}) than {model.given} ({model.digest[:12]})",
            "Log each version's own golden rows with it.",
        )
    if registered.golden is not None:
        raise UsageError(
            registered.uri, "golden rows were logged with it already", "Register a new version."
        )


def _rows(
    pinned: PinnedModel,
    inputs: Sequence[Place],
    scratch: Path,
    *,
    rows: int,
    cache_dir: Path,
    allow_weaker: bool,
    listener: Listener,
) -> GoldenRows:
    """The first rows of the inputs through a version."""
    limits, model = SandboxPolicy(), pinned.given
    (runtime,) = runtimes([pinned], listener)
    listener(Progress(stage="load", done=0, total=0, note="loading the version"))
    (seen,) = look_at(
        [pinned], limits, scratch / "probes", [runtime.python], allow_weaker=allow_weaker
    )
    if isinstance(seen, LoadFailure):
        raise UsageError(model, f"does not load: {seen.message}", "Give a model that loads.")
    recipe = leg_recipe(
        "baseline", pinned, seen.probe, limits=limits, python=runtime.python,
        allow_weaker=allow_weaker,
    )  # fmt: skip
    window = open_traffic(list(inputs), cache_dir, replace(seen.graph.signature, rows=()))
    count = min(rows, window.info.count)
    if not count:
        raise UsageError(str(inputs[0]), "holds no request", "Give rows to log.")
    given = window.read(np.arange(count, dtype=np.int64)).inputs
    taken = {s.name: given[s.name] for s in seen.graph.signature.inputs}
    listener(Progress(stage="log", done=0, total=count))
    found, _ = _answers(recipe, taken, model)
    listener(Progress(stage="log", done=count, total=count))
    if failed := _failed(found):
        raise UsageError(model, f"cannot be logged: {failed}", "Give rows that it answers.")
    outputs = {n: v for n, v in found.outputs.items() if not holds_nested(v)}
    if not outputs:
        raise UsageError(
            model, "returns sequences and optionals only, which golden rows cannot hold",
            "Export it with a tensor among its outputs.",
        )  # fmt: skip
    return GoldenRows(model=pinned.digest, inputs=taken, features=found.features, outputs=outputs)


def _answers(recipe: LegRecipe, inputs: Tensors, where: str) -> tuple[Observations, int]:
    """One pass over the rows, each a request of its own; and how often it failed once only."""
    n = len(next(iter(inputs.values())))
    batch = RequestBatch(
        seq=np.arange(n), request_id=np.array([f"golden row {i}" for i in range(n)], object),
        ts_ns=np.zeros(n, np.int64), rows=np.ones(n, np.int64), inputs=inputs, recorded={},
        answered=np.zeros(n, np.bool_), context={},
    )  # fmt: skip
    # As it was when they were logged: by what the version itself declares.
    with open_legs(replace(recipe, input_names=(), lengths=(), tables=())) as (leg,):
        if leg.load_failure is not None:
            raise UsageError(where, f"does not load: {leg.load_failure.message}", "Repair it.")
        missing = [s.name for s in leg.first.signature.inputs if s.name not in inputs] if leg.first else []  # fmt: skip
        if missing:
            raise ResolveError(
                f"{where}, golden rows",
                f"there is no input:{missing[0]} ({nearest(missing[0], inputs)})",
                "Log every input of the version.",
            )
        asked = asked_by(leg)
        asked.submit(batch, trace=recipe.trace_model is not None)
        return asked.collect(), leg.counters().flaky


def _check_names(where: str, rows: GoldenRows, features: Tensors, outputs: Tensors) -> None:
    """Refuses a golden tensor that the version does not show: it would never be checked."""
    for part, logged, known in (
        ("feature", rows.features, features),
        ("output", rows.outputs, outputs),
    ):
        for name in logged:
            if name not in known:
                raise ResolveError(
                    f"{where}, golden rows",
                    f"{part}:{name} is no {part} that the version declares and shows "
                    f"({nearest(name, known)})",
                    "Correct the name, or declare it in the model's metadata.",
                )


def _failed(seen: Observations) -> str:
    wrong = np.flatnonzero(seen.outcome != Outcome.OK)
    if not len(wrong):
        return ""
    message = dict(seen.messages).get(int(wrong[0]), Outcome(int(seen.outcome[wrong[0]])).name)
    return f"row {wrong[0]} is not answered ({message})"


def _difference(name: str, logged: Array, now: Array) -> str:
    """How a tensor differs from its golden rows; "" where it does not.

    Last digits may: another processor rounds otherwise (`describe.ROUNDING`).
    """
    if logged.shape != now.shape:
        return f"{name} has the shape {list(now.shape)}, it had {list(logged.shape)}"
    before, after = flat_rows(logged), flat_rows(now)
    scale, typical = column_scales(before)
    wrong = compare_rows(before, after, ROUNDING, scale, typical=typical).mismatch
    if not wrong.any():
        return ""
    row, column = (int(i) for i in np.argwhere(wrong)[0])
    relation = name_relation(
        before[:, column], after[:, column], tolerance=ROUNDING, scale=float(scale[column])
    ).text  # fmt: skip
    for word, ours in (
        ("candidate", "now"),
        ("the baseline", "the logged one"),
        ("baseline", "then"),
    ):
        relation = relation.replace(word, ours)
    return (
        f"{name} differs in {int(wrong.any(axis=1).sum())} of {counted(len(before), 'row')}, first in row {row}: "
        f"{before[row, column]} then, {after[row, column]} now ({relation}; "
        f"{ROUNDING:.1%} of a column's scale is allowed)"
    )

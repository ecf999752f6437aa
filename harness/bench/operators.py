"""Every single-operator case through the differ: against itself, and against an altered copy."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.bench.alterations import Alteration, alterations
from harness.bench.operator_pairs import Pairs, changes_by_itself
from harness.core.tensors import Array, Nested
from harness.diff.changes import Cause, Divergence
from harness.pipeline.graph_opening import GraphPassError, Opener
from harness.sandbox.hello import LoadFailure
from harness.sandbox.tracing import Traced

if TYPE_CHECKING:
    import onnx

    from harness.bench.operator_cases import OperatorCase

_CLEARLY = 1e-2
"""Outputs that differ by this part of their largest value differ beyond doubt."""
_MOST_TRIED = 150
_MOST_FORKS = 4
_OTHER_SEEDS = 10_000
_BRANCH = "no traced request took it"
_BODY = "its body was not looked into, only its outputs"
_NESTED = "holds what is neither tensor nor sequence: said not to be compared"


@dataclass(slots=True)
class OperatorCounts:
    """What became of the cases."""

    cases: int = 0
    """All that there are."""
    ran: int = 0
    """Of these: what onnxruntime loads and runs."""
    equal: int = 0
    """Of these: equal to themselves, every tensor compared."""
    located: Counter[str] = field(default_factory=Counter)
    """Kind of alteration → cases whose first divergence is the altered node."""
    refused: Counter[str] = field(default_factory=Counter)
    """Reason → cases that did not go the whole way through, though nothing is wrong."""
    wrong: list[str] = field(default_factory=list)
    """Cases in which the differ failed, and how."""

    def add(self, other: OperatorCounts) -> None:
        """Takes the counts of other cases."""
        self.cases += other.cases
        self.ran += other.ran
        self.equal += other.equal
        self.located.update(other.located)
        self.refused.update(other.refused)
        self.wrong += other.wrong


def clearly_apart(before: Array | Nested | None, after: Array | Nested | None) -> bool:
    """Whether two values differ beyond doubt; told apart without the differ's own code.

    Of two shapes with the same number of values the values count: what converters reshape is no difference.
    """
    if before is None or after is None:
        return False
    if isinstance(before, Nested) or isinstance(after, Nested):
        leaves = [v.leaves if isinstance(v, Nested) else (v,) for v in (before, after)]
        alike = len(leaves[0]) == len(leaves[1])
        return not alike or any(map(_tensors_apart, leaves[0], leaves[1]))
    return _tensors_apart(before, after)


def _tensors_apart(before: Array, after: Array) -> bool:
    if before.size != after.size or before.dtype != after.dtype:
        return True
    after = after.reshape(before.shape)
    if before.dtype.kind != "f":
        return not np.array_equal(before, after)
    a, b = before.astype(np.float64), after.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return True
    largest = float(np.abs(a[finite]).max(initial=0.0))
    return bool((np.abs(a[finite] - b[finite]) > max(_CLEARLY * largest, 1e-30)).any())


def checked(case: OperatorCase, pairs: Pairs, seed: int) -> OperatorCounts:
    """One case against itself and against the first altered copy that answers otherwise."""
    found = OperatorCounts(cases=1)
    values = pairs.values(case.model, case.feeds)
    if isinstance(values, LoadFailure) or values.failure:
        found.refused["onnxruntime does not load or run it"] += 1
        return found
    found.ran = 1
    try:
        report = pairs.compared(case.model, case.model, case.feeds)
    except GraphPassError as error:
        if _untold(str(error)):
            found.refused[_NESTED] += 1
        else:
            found.wrong.append(f"{case.name}: against itself: {error}")
        return found
    causes = {d.divergence.cause for d in report.divergences}
    if Cause.NONDETERMINISTIC in causes or _random(case.model):
        found.refused["random: marked as nondeterministic"] += 1
        if causes - {Cause.NONDETERMINISTIC}:
            found.wrong.append(f"{case.name}: random, but called {causes}")
        return found
    unseen = [said for said in report.not_compared if not said.endswith((_BODY, _BRANCH))]
    if any(_untold(said) for said in unseen):
        found.refused[_NESTED] += 1
    elif report.equal != len(report.states) or unseen:
        found.wrong.append(f"{case.name}: against itself: {report.coverage} {report.not_compared}")
        return found
    else:
        found.equal = 1
    _locate(case, values, pairs, found, np.random.default_rng(seed))
    return found


def _untold(said: str) -> bool:
    return "is a sparse_tensor(" in said or "is a seq(" in said or "is a optional(" in said


def _locate(
    case: OperatorCase,
    values: Traced,
    pairs: Pairs,
    found: OperatorCounts,
    rng: np.random.Generator,
) -> None:
    altered = _first_that_differs(case, values, pairs, rng)
    if altered is None:
        found.refused["no alteration changes what is compared"] += 1
        return
    told = f"{case.name}: {altered.kind} {altered.what}"
    try:
        report = pairs.compared(altered.baseline, altered.candidate, altered.feeds)
    except GraphPassError as error:
        found.wrong.append(f"{told}: {error}")
        return
    first = {d.divergence.baseline for d in report.divergences}
    if (
        report.outputs_differ
        and first
        and all(_at(altered, d.divergence) for d in report.divergences)
    ):
        found.located[altered.kind] += 1
    elif changes_by_itself(altered.candidate, altered.feeds, pairs):
        found.refused["onnxruntime gives its altered copy other values in every run"] += 1
    else:
        found.wrong.append(f"{told}: the first divergence is said to be at {sorted(first)}")


def _at(altered: Alteration, divergence: Divergence) -> bool:
    """Whether a divergence is the altered node; a copy is no tensor of its own, but in the region.

    An If whose branch is laid open is such a copy, of what the branch makes.
    """
    branches = tuple(f"{o}.{word}." for o in altered.outputs for word in ("then", "else"))
    if divergence.baseline in altered.outputs or divergence.baseline.startswith(branches):
        return True
    operators = [o for side in divergence.operators for o in side]
    made = {name for o in operators for name in o.partition(" → ")[2].split(", ")}
    return "Identity" in altered.what and bool(made & set(altered.outputs))


def _first_that_differs(
    case: OperatorCase, values: Traced, pairs: Pairs, rng: np.random.Generator
) -> Alteration | None:
    ends = {o.name for o in case.model.graph.output}
    for tried, altered in enumerate(alterations(case.model, case.feeds, rng)):
        if tried >= _MOST_TRIED:
            return None
        same = altered.baseline == case.model
        before = values if same else pairs.values(altered.baseline, altered.feeds)
        after = pairs.values(altered.candidate, altered.feeds)
        if isinstance(before, LoadFailure) or isinstance(after, LoadFailure):
            continue
        if before.failure or after.failure:
            continue
        names = (*before.tensors, *before.nested)
        apart = {n for n in names if clearly_apart(before.value(n), after.value(n))}
        if apart & ends and apart & set(altered.outputs) and _readers(altered) <= apart:
            return altered
    return None


def _readers(altered: Alteration) -> set[str]:
    """What is made from an altered constant or copy, which is no tensor of its own.

    Where one of these is the same all the same (an Unsqueeze with other axes has the same values, a
    Gather may pick none that changed), the first to part is rightly something further on.
    """
    held = {
        o
        for n in altered.baseline.graph.node
        if n.op_type in ("Constant", "Identity")
        for o in n.output
    }
    made = set(altered.outputs)
    return made - held if made & held else set()


def _random(model: onnx.ModelProto) -> bool:
    from harness.sandbox.graph_random import RandomNodes

    return bool(RandomNodes(model).operators())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what onnxruntime and onnx write to standard error about models that do not load."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def check_operators(
    cases: Sequence[OperatorCase],
    *,
    seed: int,
    opener: Opener | None = None,
    guarded: bool = False,
    heard: Callable[[int, int], None] = lambda *_: None,
) -> OperatorCounts:
    """All these cases.

    Args:
      cases: from `operator_cases`.
      seed: of the alterations.
      opener: where they run; None = in this process.
      guarded: each case in a fork of this process, as altered copies may kill onnxruntime (a division of
        whole numbers by zero does); only for a process without threads.
      heard: progress, in cases.
    """
    counts = OperatorCounts()
    with tempfile.TemporaryDirectory(prefix="harness-operators-") as scratch, _quiet():
        pairs = Pairs(Path(scratch), opener)
        for place, case in enumerate(cases):
            one = _guarded if guarded else checked
            counts.add(one(case, pairs, seed + place))
            heard(place + 1, len(cases))
    return counts


def _guarded(case: OperatorCase, pairs: Pairs, seed: int) -> OperatorCounts:
    """One case in a fork; where an altered copy kills it, others are tried."""
    for tried in range(_MOST_FORKS):
        found = _in_fork(case, pairs, seed + tried * _OTHER_SEEDS)
        if found is not None:
            return found
    return OperatorCounts(cases=1, refused=Counter({"its copies kill onnxruntime": 1}))


def _in_fork(case: OperatorCase, pairs: Pairs, seed: int) -> OperatorCounts | None:
    """What a fork says about a case; None when it dies."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            os.write(write, json.dumps(_plain(checked(case, pairs, seed))).encode())
        finally:
            os._exit(0)  # whatever happened, nothing of the parent's may be undone here
    os.close(write)
    with os.fdopen(read, "rb") as answers:
        said = answers.read()
    _, status = os.waitpid(pid, 0)
    if not said and not os.WIFSIGNALED(status):
        return OperatorCounts(cases=1, wrong=[f"{case.name}: the check itself failed"])
    if not said:
        return None
    given = json.loads(said)
    return OperatorCounts(
        cases=given["cases"], ran=given["ran"], equal=given["equal"], wrong=given["wrong"],
        located=Counter(given["located"]), refused=Counter(given["refused"]),
    )  # fmt: skip


def _plain(counts: OperatorCounts) -> dict[str, object]:
    return {
        "cases": counts.cases, "ran": counts.ran, "equal": counts.equal, "wrong": counts.wrong,
        "located": dict(counts.located), "refused": dict(counts.refused),
    }  # fmt: skip

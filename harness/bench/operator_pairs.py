"""Small models, by themselves and in pairs, run on whole tensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.bench.in_process import InProcess, is_rearranged
from harness.core.models import Rearrangement
from harness.core.policies import SandboxPolicy
from harness.core.tensors import Tensors
from harness.core.traffic import RequestBatch
from harness.diff.graph_report import GraphReport
from harness.diff.signature import SignatureMatch
from harness.pipeline.graph_opening import Opener, Version
from harness.pipeline.graph_trace import GraphPass, trace_graphs
from harness.sandbox.hello import LoadFailure
from harness.sandbox.tracing import Edit, Traced

if TYPE_CHECKING:
    import onnx

_RUNS = 20
_LEFT_POWERS = 22
"""Blocks of up to 2 MiB: an onnxruntime session takes its first memory as one of them."""


class Pairs:
    """Compares pairs of models on whole tensors.

    Args:
      scratch: folder for copies.
      opener: where graphs are copied and run; None = in this process.
    """

    def __init__(self, scratch: Path, opener: Opener | None = None) -> None:
        self._scratch = scratch
        self._opener = opener or InProcess()
        self._limits = SandboxPolicy()

    def compared(
        self, baseline: onnx.ModelProto, candidate: onnx.ModelProto, feeds: Tensors
    ) -> GraphReport:
        """One pass over one request that carries whole tensors.

        Raises:
          GraphPassError: one of them cannot be traced.
        """
        inputs = tuple((name, name) for name in feeds)
        versions = [
            Version(
                role=role, model=self._saved(role, model), external=(), limits=self._limits,
                input_names=inputs, opener=self._opener,
            )
            for role, model in (("baseline", baseline), ("candidate", candidate))
        ]  # fmt: skip
        outputs = zip(baseline.graph.output, candidate.graph.output, strict=True)
        match = SignatureMatch(inputs=inputs, outputs=tuple((a.name, b.name) for a, b in outputs))
        wanted = GraphPass(
            baseline=versions[0],
            candidate=versions[1],
            match=match,
            rearranged=Rearrangement.NUMBERS
            if is_rearranged(baseline, candidate)
            else Rearrangement.NONE,
        )
        return trace_graphs(wanted, [whole(feeds)], self._scratch, lambda *_: None)

    def values(self, model: onnx.ModelProto, feeds: Tensors) -> Traced | LoadFailure:
        """Every tensor of a model, in this process."""
        opener = InProcess()
        version = Version(
            role="values", model=self._saved("values", model), external=(), limits=self._limits
        )
        copy = opener.edited(version, Edit(), self._scratch / "values-copy.onnx")
        if isinstance(copy, LoadFailure):
            return copy
        runner = opener.started(version, copy)
        if isinstance(runner, LoadFailure):
            return runner
        with runner:
            found = runner.run(feeds, runner.tensors)
        names = {copy.returned(t): t for t in copy.cast}
        return Traced(
            tensors={names.get(n, n): a for n, a in found.tensors.items()},
            keys=found.keys, nested=found.nested, failure=found.failure,
        )  # fmt: skip

    def _saved(self, role: str, model: onnx.ModelProto) -> Path:
        path = self._scratch / f"{role}.onnx"
        path.write_bytes(model.SerializeToString())
        return path


def whole(feeds: Tensors) -> RequestBatch:
    """One request that carries whole tensors, whatever their shapes."""
    return RequestBatch(
        seq=np.zeros(1, np.int64), request_id=np.array(["r0"], dtype=object),
        ts_ns=np.zeros(1, np.int64), rows=np.ones(1, np.int64), inputs=feeds, recorded={},
        answered=np.zeros(1, np.bool_), context={},
    )  # fmt: skip


def changes_by_itself(model: onnx.ModelProto, feeds: Tensors, pairs: Pairs) -> bool:
    """Whether several runs of a model on the same inputs differ.

    An attribute that onnxruntime does not check (half a pair of a rotary embedding's dimensions) leaves
    memory unwritten that may hold anything, also what the unaltered model made there. A process that has
    run it before may give it the same memory each time, so something else is left there before every run.
    """
    seen = set()
    for run in range(_RUNS):
        _leave_in_memory(run)
        found = pairs.values(model, feeds)
        if isinstance(found, LoadFailure):
            return False
        seen.add(tuple(array.tobytes() for array in found.tensors.values()))
    return len(seen) > 1


def _leave_in_memory(value: int) -> None:
    """Fills blocks of all sizes that a small model asks for, and gives them back."""
    blocks = [np.full(1 << power, value, np.uint8) for power in range(_LEFT_POWERS)]
    del blocks

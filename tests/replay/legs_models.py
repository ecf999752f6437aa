"""Models and batches for legs: integer division, whose inputs decide how the process fares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save_model

from harness.core.policies import SandboxPolicy
from harness.core.traffic import RequestBatch
from harness.replay.leg_counters import LegCaps
from harness.replay.legs import Leg
from harness.sandbox.hello import LoadFailure
from harness.sandbox.process import Sandbox

CRASH = (-(2**63), -1)
"""x, d whose quotient kills the process by SIGFPE. (On int32 only in small batches: larger ones divide
by vector instructions, which do not trap.)"""
ERROR = (1, 0)
"""x, d on which the runtime raises."""


def saved(path: Path, nodes, inputs, outputs, constants=None) -> Path:
    initialisers = [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initialisers)
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 8
    save_model(model, str(path))
    return path


def integers(name: str):
    return helper.make_tensor_value_info(name, TensorProto.INT64, ["N"])


def division(path: Path, x: str = "x") -> Path:
    nodes = [helper.make_node("Div", [x, "d"], ["y"])]
    return saved(path, nodes, [integers(x), integers("d")], [integers("y")])


def doubled_division(path: Path) -> Path:
    """As a probed copy: also returns the tensor "twice"."""
    nodes = [
        helper.make_node("Div", ["x", "d"], ["y"]),
        helper.make_node("Add", ["x", "x"], ["twice"]),
    ]
    return saved(path, nodes, [integers("x"), integers("d")], [integers("y"), integers("twice")])


def batch_of(
    x: Sequence[int], d: Sequence[int], rows: Sequence[int] | None = None, first: int = 0
) -> RequestBatch:
    """One request a row unless `rows` says how many each carries."""
    counts = np.ones(len(x), np.int64) if rows is None else np.array(rows, np.int64)
    n = len(counts)
    return RequestBatch(
        seq=np.arange(first, first + n),
        request_id=np.array([f"r{i}" for i in range(first, first + n)], object),
        ts_ns=np.zeros(n, np.int64),
        rows=counts,
        inputs={"x": np.array(x, np.int64), "d": np.array(d, np.int64)},
        recorded={},
        answered=np.ones(n, np.bool_),
        context={},
    )


def batch_with(n: int, bad: dict[int, tuple[int, int]], first: int = 0) -> RequestBatch:
    """n requests of one row, x = their number and d = 1, but for the bad ones."""
    x, d = np.arange(first, first + n, dtype=np.int64), np.ones(n, np.int64)
    for i, (numerator, divisor) in bad.items():
        x[i], d[i] = numerator, divisor
    return batch_of(x, d, first=first)


class Opener:
    """Starts sandboxes on a model and counts them."""

    def __init__(self, model: Path, *, deadline_s: float = 5.0, **options) -> None:
        self.started = 0
        self.first_pid = 0
        self._model = model
        self._limits = SandboxPolicy(require="S0", batch_deadline_s=deadline_s)
        self._options = options

    def __call__(self) -> Sandbox | LoadFailure:
        self.started += 1
        opened = Sandbox.start(self._model, name="candidate", limits=self._limits, **self._options)
        if self.started == 1 and isinstance(opened, Sandbox):
            self.first_pid = opened.pid
        return opened


def leg_on(model: Path, *, caps: LegCaps | None = None, **options) -> Leg:
    return Leg(Opener(model, **options), name="candidate", caps=caps)

"""What the sandbox costs: steady throughput beside the same session in-process, echo times, starts."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from harness.bench.figures import Figure, Figures, load_figure
from harness.bench.throughput import answered, batch, throughput
from harness.core.errors import GateError
from harness.core.policies import SandboxPolicy
from harness.core.tensors import Tensors
from harness.sandbox.child_process import ENVIRONMENT
from harness.sandbox.hello import LoadFailure
from harness.sandbox.model_files import ModelFiles
from harness.sandbox.pool import Pool
from harness.sandbox.process import Sandbox
from harness.sandbox.starting import Start

SHORT_LIMIT, LONG_LIMIT = 0.85, 0.97
"""Of the in-process throughput, for batches of about 0.1 ms and of 1 ms or more."""
_THROUGHPUTS = ((0.1e-3, SHORT_LIMIT), (1e-3, LONG_LIMIT), (5e-3, LONG_LIMIT))
START_LIMIT_MS = 120.0
RESTART_LIMIT_MS = 20.0
"""A small model's load and what the machine adds to it."""
LIMITS = SandboxPolicy()
_WIDTH = 32
_HIDDEN = 128
_STARTS = 7
_READY_S = 0.4
"""Longer than imports take, so that a process of the pool really waits."""
_ECHOES = ((1, 400), (64, 400), (1024, 400), (65_536, 20))


def bench_sandbox() -> Figures:
    """Measures throughput, round trips and starts."""
    load = load_figure()
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as scratch:
        net, echo = Path(scratch) / "net.onnx", Path(scratch) / "echo.onnx"
        net.write_bytes(_model(layers=4))
        echo.write_bytes(_model(layers=0))
        figures = [
            *_throughputs(net),
            *_echoes(echo),
            *_starts(echo),
            load,
        ]
    return Figures(title="What the sandbox costs", figures=tuple(figures))


def _model(layers: int) -> bytes:
    """A small dense net, float32 (N, 32) → (N, 2 or 32); no layer = identity."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(4)
    widths = [_WIDTH, *[_HIDDEN] * (layers - 1), 2] if layers else [_WIDTH]
    nodes, weights, last = [], [], "x"
    for i in range(layers):
        weight = rng.standard_normal((widths[i], widths[i + 1])).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{i}"], [f"m{i}"]))
        nodes.append(helper.make_node("Tanh", [f"m{i}"], [f"t{i}"]))
        last = f"t{i}"
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    graph = helper.make_graph(
        nodes, "bench",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", _WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", widths[-1]])],
        weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    model.ir_version = 8
    return model.SerializeToString()


def _started(files: ModelFiles, pool: Pool | None = None) -> Sandbox:
    start = Start(files, limits=LIMITS, allow_weaker=True, pool=pool)
    sandbox = Sandbox.started(start, name="bench")
    if isinstance(sandbox, LoadFailure):
        raise GateError("bench sandbox", sandbox.message, "Run harness doctor.")
    return sandbox


def _throughputs(model: Path) -> list[Figure]:
    """For batches of the limits' lengths, and one beyond."""
    from harness.sandbox.child import sessions

    run = sessions.open_session(model.read_bytes(), {}, optimise=True).run
    figures = []
    with ModelFiles(model) as files, _started(files) as sandbox:
        for wanted_s, limit in _THROUGHPUTS:
            figures += throughput(run, sandbox, columns=_WIDTH, wanted_s=wanted_s, limit=limit)
    return figures


def _echoes(model: Path) -> list[Figure]:
    """Round trips of a model that returns its input, one batch at a time."""
    figures = []
    with ModelFiles(model) as files, _started(files) as sandbox:
        for rows, count in _ECHOES:
            inputs: Tensors = {"x": batch(rows, _WIDTH, rows)}
            times = []
            for _ in range(count):
                began = time.perf_counter()
                sandbox.submit(inputs, rows, trace=False)
                answered(sandbox)
                times.append(time.perf_counter() - began)
            figures.append(
                Figure(
                    name=f"echo of {rows:,} rows × {_WIDTH} float32", unit="µs",
                    value=statistics.median(times) * 1e6, note=f"median of {count}, both ways",
                )
            )  # fmt: skip
    return figures


def _bare_import_s() -> float:
    """Until a new interpreter has imported what a child imports, and nothing else was done."""
    code = f"import sys; sys.path += {sys.path!r}; import numpy, onnxruntime; print(flush=True)"
    began = time.perf_counter()
    command = [sys.executable, "-IBS", "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.stdout is not None  # noqa: S101 - Popen was asked for a pipe
        process.stdout.read(1)
        return time.perf_counter() - began


def _starts(model: Path) -> list[Figure]:
    """From the first system call to a loaded model, and the same from a process that waits.

    Beside them what no sandbox can save: the interpreter and the imports, by turns with the starts.
    """
    fresh, pooled, bare = [], [], []
    with ModelFiles(model) as files:
        for _ in range(_STARTS):
            bare.append(_bare_import_s())
            with _started(files) as sandbox:
                fresh.append(sandbox.start_s)
            with Pool() as pool:
                pool.begin(1, LIMITS.memory_bytes)
                time.sleep(_READY_S)
                with _started(files, pool) as sandbox:
                    pooled.append(sandbox.start_s)
    return [
        Figure(name="start to a loaded model", unit="ms", value=min(fresh) * 1e3, limit=START_LIMIT_MS,
               note=f"least of {_STARTS}, median {statistics.median(fresh) * 1e3:.0f}"),
        Figure(name="  of it an interpreter's import of the runtime", unit="ms", value=min(bare) * 1e3,
               note=f"numpy and onnxruntime without any sandbox, by turns; median {statistics.median(bare) * 1e3:.0f}"),
        Figure(name="the same from a process that waits", unit="ms", value=min(pooled) * 1e3,
               limit=RESTART_LIMIT_MS,
               note=f"what a restart after a crash takes; median {statistics.median(pooled) * 1e3:.0f}"),
    ]  # fmt: skip

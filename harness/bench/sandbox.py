"""What the sandbox costs: steady throughput beside the same session in-process, echo times, starts.

In-process and sandboxed rounds take turns in one run, so that both see the same machine; the figure is
the median of the rounds' ratios. A sandbox has several batches in flight, as a gate has: while the model
computes, the parent writes and reads.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from harness.bench.figures import Figure, Figures
from harness.core.errors import GateError
from harness.core.policies import SandboxPolicy
from harness.core.tensors import Array, Tensors
from harness.replay.pairs import IN_FLIGHT
from harness.sandbox.answers import BatchAnswer, LoadFailure
from harness.sandbox.model_files import ModelFiles
from harness.sandbox.pool import Pool
from harness.sandbox.process import Sandbox
from harness.sandbox.starting import Start

SHORT_LIMIT, LONG_LIMIT = 0.85, 0.97
"""Of the in-process throughput, for batches of about 0.1 ms and of 1 ms or more."""
START_LIMIT_MS = 120.0
RESTART_LIMIT_MS = 20.0
"""A small model's load and what the machine adds to it."""
LIMITS = SandboxPolicy()
_WIDTH = 32
_HIDDEN = 128
_ROUNDS = 15
_ROUND_S = 0.1
_WARM = 30
_STARTS = 7
_READY_S = 0.4
"""Longer than imports take, so that a process of the pool really waits."""
Run = Callable[[list[str] | None, Tensors], object]
"""An InferenceSession's run."""
_ECHOES = ((1, 400), (64, 400), (1024, 400), (65_536, 20))


def bench_sandbox() -> Figures:
    """Measures throughput, round trips and starts."""
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as scratch:
        net, echo = Path(scratch) / "net.onnx", Path(scratch) / "echo.onnx"
        net.write_bytes(_model(layers=4))
        echo.write_bytes(_model(layers=0))
        figures = [
            *_throughput(net, wanted_s=0.1e-3, limit=SHORT_LIMIT),
            *_throughput(net, wanted_s=1e-3, limit=LONG_LIMIT),
            *_throughput(net, wanted_s=5e-3, limit=LONG_LIMIT),
            *_echoes(echo),
            *_starts(echo),
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


def _throughput(model: Path, *, wanted_s: float, limit: float) -> list[Figure]:
    """Sandboxed throughput over that of the same session here, for batches of about this time."""
    from harness.sandbox.child import sessions

    run = sessions.open_session(model.read_bytes(), {}, optimise=True).run
    rows = _rows_for(run, wanted_s)
    inputs: Tensors = {"x": _batch(rows)}
    ratios, cpu_ratios, bare = [], [], []
    with ModelFiles(model) as files, _started(files) as sandbox:
        count = max(int(_ROUND_S / _in_process_s(run, inputs, _WARM)), 4 * IN_FLIGHT)
        _steady_s(sandbox, inputs, rows, _WARM)
        for _ in range(_ROUNDS):
            own, theirs = time.thread_time(), _cpu_s(sandbox.pid)
            here = _in_process_s(run, inputs, count)
            own = time.thread_time() - own
            ratios.append(here / _steady_s(sandbox, inputs, rows, count))
            cpu_ratios.append(own / (_cpu_s(sandbox.pid) - theirs))
            bare.append(here)
    name = f"batches of {statistics.median(bare) * 1e3:.2f} ms"
    return [
        Figure(
            name=f"throughput to in-process, {name}", unit="×",
            value=statistics.median(ratios), limit=limit, at_most=False,
            note=f"{rows:,} rows × {_WIDTH} float32, {IN_FLIGHT} in flight; {_ROUNDS} rounds in turn: "
            f"{min(ratios):.2f} … {max(ratios):.2f}",
        ),
        Figure(
            name=f"the same by processor time, {name}", unit="×",
            value=statistics.median(cpu_ratios),
            note="what the child could do with a processor of its own; little moved by other load",
        ),
    ]  # fmt: skip


def _cpu_s(pid: int) -> float:
    """Processor time of a process's main thread, which is the one that runs the model."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def _rows_for(run: Run, wanted_s: float) -> int:
    """Rows whose batch takes about the wanted time, by processor time."""
    rows = 16
    while True:
        inputs: Tensors = {"x": _batch(rows)}
        run(None, inputs)
        began = time.thread_time()
        for _ in range(_WARM):
            run(None, inputs)
        took = (time.thread_time() - began) / _WARM
        if took >= wanted_s:
            return rows
        rows = max(rows + 8, int(rows * min(wanted_s / took, 2.0)))


def _batch(rows: int) -> Array:
    return np.random.default_rng(rows).standard_normal((rows, _WIDTH)).astype(np.float32)


def _in_process_s(run: Run, inputs: Tensors, count: int) -> float:
    """Seconds a batch."""
    began = time.perf_counter()
    for _ in range(count):
        run(None, inputs)
    return (time.perf_counter() - began) / count


def _steady_s(sandbox: Sandbox, inputs: Tensors, rows: int, count: int) -> float:
    """Seconds a batch with several in flight."""
    began = time.perf_counter()
    for index in range(count):
        sandbox.submit(inputs, rows, trace=False)
        if index >= IN_FLIGHT - 1:
            _answered(sandbox)
    for _ in range(min(IN_FLIGHT - 1, count)):
        _answered(sandbox)
    return (time.perf_counter() - began) / count


def _answered(sandbox: Sandbox) -> None:
    answer = sandbox.collect()
    if not isinstance(answer, BatchAnswer):
        raise GateError("bench sandbox", answer.message, "Run harness doctor.")


def _echoes(model: Path) -> list[Figure]:
    """Round trips of a model that returns its input, one batch at a time."""
    figures = []
    with ModelFiles(model) as files, _started(files) as sandbox:
        for rows, count in _ECHOES:
            inputs: Tensors = {"x": _batch(rows)}
            times = []
            for _ in range(count):
                began = time.perf_counter()
                sandbox.submit(inputs, rows, trace=False)
                _answered(sandbox)
                times.append(time.perf_counter() - began)
            figures.append(
                Figure(
                    name=f"echo of {rows:,} rows × {_WIDTH} float32", unit="µs",
                    value=statistics.median(times) * 1e6, note=f"median of {count}, both ways",
                )
            )  # fmt: skip
    return figures


def _starts(model: Path) -> list[Figure]:
    """From the first system call to a loaded model, and the same from a process that waits."""
    fresh, pooled = [], []
    with ModelFiles(model) as files:
        for _ in range(_STARTS):
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
        Figure(name="the same from a process that waits", unit="ms", value=min(pooled) * 1e3,
               limit=RESTART_LIMIT_MS,
               note=f"what a restart after a crash takes; median {statistics.median(pooled) * 1e3:.0f}"),
    ]  # fmt: skip

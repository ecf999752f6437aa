"""What returning features costs a replay: sandbox, transport and decoding included, batch by batch.

Replays of the same recorded flights take turns: the plain version, its copy that returns every declared
feature beside the outputs, that with every tensor, and the two ways of a gate: one session for outputs and
features with production's beside it in one batch of sixteen, or in every batch. Processor time of both
processes counts, so that other load moves the figures little.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from harness.bench.figures import Figure
from harness.core.errors import GateError
from harness.core.policies import SandboxPolicy
from harness.core.tensors import Tensors
from harness.pipeline.assets import assets_root
from harness.pipeline.probes import GUARD_EVERY
from harness.replay.pairs import IN_FLIGHT
from harness.sandbox.answers import BatchAnswer, LoadFailure
from harness.sandbox.graphs import Look, ProbeResult, look, probe
from harness.sandbox.process import Sandbox
from harness.store.tables import open_traffic

PROBED_LIMIT = 1.2
_BATCH = 1024
_ROUNDS = 11
_BATCHES = 160
_WARM = 20
_LIMITS = SandboxPolicy()


def probed_replays() -> tuple[Figure, ...]:
    """Measures a tabular pipeline with its features probed, and with every tensor."""
    model = assets_root() / "models" / "flights" / "v1.onnx"
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as scratch, ExitStack() as stack:
        folder = Path(scratch)
        seen = look([Look(model=model, copy=folder / "features.onnx")], _LIMITS, allow_weaker=True)[
            0
        ]
        if isinstance(seen, LoadFailure) or not isinstance(seen.probe, ProbeResult):
            raise GateError("bench parity", f"{model} cannot be probed", "Run harness doctor.")
        every = probe(model, seen.graph.tensors, folder / "all.onnx", _LIMITS)
        if isinstance(every, LoadFailure):
            raise GateError("bench parity", every.message, "Run harness doctor.")
        window = open_traffic(
            [assets_root() / "scenarios" / "traffic" / "flights"], folder / "cache",
            seen.graph.signature.inputs,
        )  # fmt: skip
        batch = window.read(np.arange(_BATCH))
        inputs = {spec.name: batch.inputs[spec.name] for spec in seen.graph.signature.inputs}
        plain, alone, whole = (
            stack.enter_context(_started(path)) for path in (model, seen.probe.path, every.path)
        )
        beside = stack.enter_context(_started(model, seen.probe))
        ratios = _ratios(
            lambda: _cpu_s(plain, inputs, trace=False),
            lambda: _cpu_s(alone, inputs, trace=False),
            lambda: _cpu_s(whole, inputs, trace=False),
            lambda: _cpu_s(beside, inputs, trace=True, guard_every=GUARD_EVERY),
            lambda: _cpu_s(beside, inputs, trace=True),
        )
    said = f"batches of {_BATCH}, processor time of both processes, median of {_ROUNDS} rounds"
    count = len(seen.probe.exposed)
    return (
        Figure(
            name="replay with all features probed, to plain", value=ratios[0], unit="×",
            limit=PROBED_LIMIT, note=f"flights, {count} features in the one session; {said}",
        ),
        Figure(
            name="the same with every tensor", value=ratios[1], unit="×",
            note=f"{len(every.exposed)} tensors",
        ),
        Figure(
            name="features as a gate reads them, to plain", value=ratios[2], unit="×",
            limit=PROBED_LIMIT,
            note=f"one session, and production's beside it in one batch of {GUARD_EVERY}",
        ),
        Figure(
            name="the same with production's session in every batch", value=ratios[3], unit="×",
            note="where differences of outputs are judged, or reading features changes a bit",
        ),
    )  # fmt: skip


def _ratios(plain: Callable[[], float], *others: Callable[[], float]) -> list[float]:
    """Median over rounds of each other's time to the plain one's, measured in turn."""
    found: list[list[float]] = [[] for _ in others]
    for _ in range(_ROUNDS):
        base = plain()
        for ratios, other in zip(found, others, strict=True):
            ratios.append(other() / base)
    return [statistics.median(ratios) for ratios in found]


def _started(model: Path, beside: ProbeResult | None = None) -> Sandbox:
    sandbox = Sandbox.start(
        model, name="bench", limits=_LIMITS, allow_weaker=True,
        trace_model=beside.path if beside else None,
        trace_tensors=beside.exposed if beside else (),
    )  # fmt: skip
    if isinstance(sandbox, LoadFailure):
        raise GateError("bench parity", sandbox.message, "Run harness doctor.")
    return sandbox


def _cpu_s(sandbox: Sandbox, inputs: Tensors, *, trace: bool, guard_every: int = 1) -> float:
    """Processor time of this process and of the sandbox's for some batches, several in flight."""
    _run(sandbox, inputs, _WARM, trace=trace, guard_every=guard_every)
    began = time.process_time() + _child_s(sandbox)
    _run(sandbox, inputs, _BATCHES, trace=trace, guard_every=guard_every)
    return time.process_time() + _child_s(sandbox) - began


def _run(sandbox: Sandbox, inputs: Tensors, count: int, *, trace: bool, guard_every: int) -> None:
    for index in range(count + IN_FLIGHT):
        if index < count:
            sandbox.submit(inputs, _BATCH, trace=trace, alone=index % guard_every != 0)
        if index >= IN_FLIGHT:
            answer = sandbox.collect()
            if not isinstance(answer, BatchAnswer):
                raise GateError("bench parity", answer.message, "Run harness doctor.")


def _child_s(sandbox: Sandbox) -> float:
    return int(Path(f"/proc/{sandbox.pid}/schedstat").read_text().split()[0]) / 1e9

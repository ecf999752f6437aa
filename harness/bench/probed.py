"""What returning features costs a replay: sandbox, transport and decoding included, batch by batch.

Replays of the same recorded flights take turns: the plain version, its copy that returns every declared
feature beside the outputs, that with every tensor, and the ways of a gate: one session for outputs and
features with production's beside it in one batch of GUARD_EVERY; production's session in every batch with
the copy that computes features only; production's and the whole copy in every batch, as `compare` has it.
Processor time of both processes counts, and short replays next to each other are compared, so that other
load moves the figures little; the interval of a median says how much.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.bench.figures import Figure
from harness.bench.paired import PairedRatio, paired_ratio
from harness.core.errors import GateError
from harness.core.policies import SandboxPolicy
from harness.core.tensors import Tensors
from harness.pipeline.assets import assets_root
from harness.pipeline.probes import GUARD_EVERY
from harness.replay.pairs import IN_FLIGHT
from harness.sandbox.answers import BatchAnswer
from harness.sandbox.graphs import Look, ProbeResult, look, probe
from harness.sandbox.hello import LoadFailure
from harness.sandbox.process import Sandbox
from harness.store.tables import open_traffic

PROBED_LIMIT = 1.2
_BATCH = 1024
_ROUNDS = 60
_BATCHES = GUARD_EVERY
_WARM = 40
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
            seen.graph.signature,
        )  # fmt: skip
        batch = window.read(np.arange(_BATCH))
        inputs = {spec.name: batch.inputs[spec.name] for spec in seen.graph.signature.inputs}
        plain, beside, whole = (
            stack.enter_context(_started(model, copy)) for copy in (None, seen.probe, every)
        )
        for sandbox in (plain, beside, whole):
            _run(sandbox, inputs, _WARM, _Way(trace=sandbox is not plain))
        ratios = _ratios(
            lambda: _cpu_s(plain, inputs, _Way(trace=False)),
            lambda: _cpu_s(beside, inputs, _Way(alone=True)),
            lambda: _cpu_s(whole, inputs, _Way(alone=True)),
            lambda: _cpu_s(beside, inputs, _Way(alone=True, guard_every=GUARD_EVERY)),
            lambda: _cpu_s(beside, inputs, _Way(cut=True, guard_every=GUARD_EVERY)),
            lambda: _cpu_s(beside, inputs, _Way()),
        )
    said = f"batches of {_BATCH}, processor time of both processes, median of {_ROUNDS} pairs"
    count = len(seen.probe.exposed)
    return (
        _figure(
            ratios[0], "replay with all features probed, to plain", PROBED_LIMIT,
            f"flights, {count} features in the one session; {said}",
        ),
        _figure(
            ratios[1], "the same with every tensor", None, f"{len(every.exposed)} tensors"
        ),
        _figure(
            ratios[2], "features as a gate reads them, to plain", PROBED_LIMIT,
            f"one session, and production's beside it in one batch of {GUARD_EVERY}",
        ),
        _figure(
            ratios[3], "the same with production's session in every batch", None,
            "where differences of outputs are judged, or reading features changes a bit; the other one"
            f" computes no outputs but in one batch of {GUARD_EVERY}",
        ),
        _figure(ratios[4], "both sessions whole in every batch", None, "as compare has it"),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """How batches are asked for."""

    trace: bool = True
    alone: bool = False
    cut: bool = False
    guard_every: int = 0
    """One batch in so many is answered by both sessions, whole; 0 = none."""


def _figure(ratio: PairedRatio, name: str, limit: float | None, note: str) -> Figure:
    """The ratio as a line of the benchmark."""
    return Figure(
        name=name, value=ratio.median, unit="×", limit=limit, note=f"{ratio.shown()}; {note}"
    )


def _ratios(plain: Callable[[], float], *others: Callable[[], float]) -> list[PairedRatio]:
    """Each other's time to the plain one's just beside it; every second round goes the other way."""
    runs = (plain, *others)
    found = np.empty((_ROUNDS, len(runs)))
    for i in range(_ROUNDS):
        order = range(len(runs)) if i % 2 else reversed(range(len(runs)))
        for at in order:
            found[i, at] = runs[at]()
    first, *rest = found.T.tolist()
    return [paired_ratio(column, first) for column in rest]


def _started(model: Path, beside: ProbeResult | None = None) -> Sandbox:
    sandbox = Sandbox.start(
        model, name="bench", limits=_LIMITS, allow_weaker=True,
        trace_model=beside.path if beside else None,
        cut_model=beside.cut if beside else None,
        trace_tensors=beside.exposed if beside else (),
    )  # fmt: skip
    if isinstance(sandbox, LoadFailure):
        raise GateError("bench parity", sandbox.message, "Run harness doctor.")
    return sandbox


def _cpu_s(sandbox: Sandbox, inputs: Tensors, way: _Way) -> float:
    """Processor time of this process and of the sandbox's for some batches, several in flight."""
    began = time.process_time() + _child_s(sandbox)
    _run(sandbox, inputs, _BATCHES, way)
    return time.process_time() + _child_s(sandbox) - began


def _run(sandbox: Sandbox, inputs: Tensors, count: int, way: _Way) -> None:
    ahead = IN_FLIGHT - 1
    for index in range(count + ahead):
        if index < count:
            usual = not way.guard_every or index % way.guard_every != 0
            sandbox.submit(
                inputs, _BATCH, trace=way.trace, alone=way.alone and usual, cut=way.cut and usual
            )
        if index >= ahead:
            answer = sandbox.collect()
            if not isinstance(answer, BatchAnswer):
                raise GateError("bench parity", answer.message, "Run harness doctor.")


def _child_s(sandbox: Sandbox) -> float:
    return int(Path(f"/proc/{sandbox.pid}/schedstat").read_text().split()[0]) / 1e9

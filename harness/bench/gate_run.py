"""The program that `bench gate` measures: one gate, or bare onnxruntime, in a process of its own.

python -m harness.bench.gate_run gate MODEL WINDOW POLICY OUT
python -m harness.bench.gate_run bare MODEL WINDOW BATCH
python -m harness.bench.gate_run imports FILE
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from harness.bench.sections import Sections
from harness.pipeline.progress import Progress

USUAL = 1024
MODULES = "modules.txt"
SECTIONS = {
    "read the window": ["harness.store.windows:SealedWindow.read"],
    "encode and send": ["harness.replay.legs:Leg.submit"],
    "receive and decode": ["harness.replay.legs:Leg.collect"],
    "diff of outputs": [
        "harness.pipeline.evidence:OutputDiff.update",
        "harness.pipeline.evidence:FaithfulDiff.update",
    ],
    "diff of features": [
        "harness.pipeline.evidence:FeatureDiff.update",
        "harness.pipeline.evidence:ObserverDiff.update",
    ],
    "metrics of requests": ["harness.pipeline.evidence:RunningEvidence._observed"],
    "judge": [
        "harness.pipeline.evidence:Judge.update",
        "harness.pipeline.evidence:RunningEvidence.status",
    ],
    "failures": ["harness.pipeline.evidence:CandidateFailures.update"],
    "pairs as columns": ["harness.pipeline.evidence:pairs_table"],
    "pairs to disk": [
        "harness.store.pairs:TableWriter.add",
        "harness.store.pairs:TableWriter.close",
    ],
    "checkpoints": ["harness.store.runs:RunFolder.save_state"],
}
"""What the parent does between the floor and the last pair."""


def gate(model: str, window: str, policy: str, out: str) -> dict[str, Any]:
    """Runs a gate of a model against itself and says what its replay took."""
    from harness.pipeline.gate import run_gate

    _wait()
    sections = Sections("harness.pipeline.judgement:replay", SECTIONS)
    marks = [0.0, 0.0]

    def heard(event: Progress) -> None:
        # The first batch's children are counted with what came before them: one of many.
        if event.stage == "replay":
            marks[1] = children_cpu_s()
            marks[0] = marks[0] or marks[1]

    result = run_gate(
        model, model, traffic=[Path(window)], policy=Path(policy), out=Path(out),
        cache_dir=Path(out).parent / "cache", state_dir=Path(out).parent / "state",
        listener=heard,
    )  # fmt: skip
    manifest = json.loads((Path(out) / "manifest.json").read_text())
    (Path(out).parent / MODULES).write_text("\n".join(sorted(sys.modules)))
    cpu, wait = dict(sections.cpu_s), dict(sections.wait_s)
    return {
        "requests": result.record.n_requests,
        "decision": result.decision,
        "batch": manifest["batching"]["requests"],
        "replay_s": sum(cpu.values()) + sum(wait.values()),
        "cpu_s": cpu,
        "wait_s": wait,
        "children_cpu_s": marks[1] - marks[0],
        "seconds": result.seconds,
        "peak_mb": _status_mb("VmHWM"),
    }


def imports(modules: str) -> dict[str, Any]:
    """The memory of a process that has imported what a gate had imported at its end."""
    _wait()
    for name in Path(modules).read_text().split():
        # Some are made by others while they are imported, and cannot be imported by themselves.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    return {"peak_mb": _status_mb("VmHWM")}


def bare(model: str, window: str, batch: str) -> dict[str, Any]:
    """Runs every batch of a window once, read beforehand and not counted."""
    import onnxruntime

    from harness.replay.order import cuts
    from harness.store.windows import SealedWindow

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    sealed = SealedWindow.open(Path(window), verify=False)
    edges = cuts(len(sealed), USUAL, int(batch))
    session.run(None, dict(sealed.read(np.arange(*edges[0])).inputs))
    _wait()
    wall_s = cpu_s = 0.0
    for start, stop in edges:
        inputs = dict(sealed.read(np.arange(start, stop)).inputs)
        wall, cpu = time.perf_counter(), time.process_time()
        session.run(None, inputs)
        cpu_s += time.process_time() - cpu
        wall_s += time.perf_counter() - wall
    return {"wall_s": wall_s, "cpu_s": cpu_s, "requests": len(sealed)}


def _wait() -> None:
    """Says that it is ready and waits for a line, so that several begin at the same time."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()


def children_cpu_s() -> float:
    """Processor time of this process's children that are alive, all their threads."""
    total_ns = 0
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            for thread in Path(f"/proc/{pid}/task").iterdir():
                # Nanoseconds, where `stat` counts in hundredths of a second.
                total_ns += int((thread / "schedstat").read_text().split()[0])
    return total_ns / 1e9


def _status_mb(name: str) -> float:
    """A figure of this program alone: ru_maxrss would start at what its starter had in memory."""
    status = Path("/proc/self/status").read_text()
    return (
        int(next(line.split()[1] for line in status.splitlines() if line.startswith(name))) / 1024
    )


if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    programs: dict[str, Callable[..., dict[str, Any]]] = {
        "gate": gate,
        "bare": bare,
        "imports": imports,
    }
    found = programs[kind](*arguments)
    sys.stdout.write(json.dumps(found) + "\n")

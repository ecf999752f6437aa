"""What starting costs: `harness --help` above bare Python, and a gate that has next to nothing to do."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness.bench.figures import Figure, Figures, load_figure
from harness.core.errors import GateError
from harness.pipeline.assets import assets_root
from harness.pipeline.registry import register
from harness.store.traffic import TrafficSource, TrafficWriter

HELP_LIMIT_S = 0.15
GATE_LIMIT_S = 5.0
_REPEATS = 7
_GATE_REPEATS = 3
_EXCHANGES = 64
_HOLD = 3


def bench_start() -> Figures:
    """Measures both in fresh processes; the least of several runs, as noise only ever adds."""
    load = load_figure()
    bare = min(_cpu_s([sys.executable, "-c", "pass"]) for _ in range(_REPEATS))
    helped = min(_cpu_s([*_harness(), "--help"]) for _ in range(_REPEATS))
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as scratch:
        gate = min(_gate_s(Path(scratch), number) for number in range(_GATE_REPEATS))
    return Figures(
        title="What starting costs",
        figures=(
            Figure(name="bare Python, CPU", value=bare, unit="s"),
            Figure(
                name="harness --help above it, CPU", value=helped - bare, unit="s", limit=HELP_LIMIT_S,
                note=f"least of {_REPEATS}",
            ),
            Figure(
                name="a gate's fixed cost, wall clock", value=gate, unit="s", limit=GATE_LIMIT_S,
                note=f"existing sqlite registry, {_EXCHANGES} exchanges, least of {_GATE_REPEATS}",
            ),
            load,
        ),
    )  # fmt: skip


def _harness() -> list[str]:
    return [sys.executable, "-c", "from harness.cli import main; main()"]


def _cpu_s(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _gate_s(scratch: Path, number: int) -> float:
    """One gate of a registered version against itself on a handful of exchanges."""
    root = assets_root()
    uri = f"sqlite:///{scratch / 'mlflow.db'}"
    traffic = scratch / "traffic"
    if number == 0:
        register(
            root / "models" / "flights" / "v1.onnx",
            name="flights",
            registry_uri=uri,
            alias="champion",
        )
        source = TrafficSource.open([root / "scenarios" / "traffic" / "flights"])
        with TrafficWriter(traffic) as writer:
            writer.write(e for e, _ in zip(source.exchanges(), range(_EXCHANGES), strict=False))
    began = time.perf_counter()
    done = subprocess.run(
        [
            *_harness(), "gate", "models:/flights@champion", "models:/flights/1", "--registry", uri,
            "--traffic", str(traffic), "--policy", str(root / "scenarios/policies/flights-refactor.yaml"),
            "--out", str(scratch / f"run-{number}"), "--cache", str(scratch / "cache"), "--quiet",
        ],
        check=False, stdout=subprocess.DEVNULL, env={
            **os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "HARNESS_STATE_DIR": str(scratch / "state"),
        },
    )  # fmt: skip
    if done.returncode != _HOLD:  # so few requests can be nothing else
        raise GateError(
            "bench start", f"the gate ended with {done.returncode}", "Run harness doctor."
        )
    return time.perf_counter() - began

"""A whole gate against bare onnxruntime, and the parent's memory as the traffic grows.

The gate does more than run two models: it reads and decodes, diffs, judges and writes every pair. The
ratio says what all of that costs beside the models themselves: bare `InferenceSession.run` of the
same batches, both versions, one process each, on the same cores, just after the gate.
What a gate costs once, however long its traffic is, stays apart: starting, sealing, the noise floor
(A/A) on a prefix, the report.

Two policies: one about outputs, scores and decisions, which has the ratio's limit; one that also
judges the features inside the models, for which every version runs a second time, unoptimised.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.bench.figures import Figure, Figures
from harness.bench.gate_models import WEIGHTS, Weight, write_model
from harness.bench.gate_run import MODULES
from harness.bench.repeated import write_repeated
from harness.core.errors import GateError
from harness.pipeline.assets import assets_root, default_cache_dir
from harness.store.tables import open_traffic
from harness.store.windows import SealedWindow

MILLION_LIMIT_S = 12.0
GROWTH_LIMIT_MB = 64.0
FLAT_LIMIT = 1.10
SMALL, LARGE, LARGEST = 100_000, 1_000_000, 10_000_000
_MILLION = 1_000_000
_US = 1e6
_OUTPUTS = """\
version: 1
preset: refactor
drop: [features]
decision: {output: label, rule: none, score: probability}
windows: {newest: {days: 4000}, min_requests: 100000000, max_requests: 100000000}
guardrails:
  - {name: rate, metric: decision_rate_shift, margin: 0.01, direction: both}
  - {name: score, metric: score_shift, margin: 0.01, direction: both}
sandbox: {require: S2, batch_deadline: 120s}
"""
_FEATURES = _OUTPUTS.replace("drop: [features]\n", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """What all measurements of one call share."""

    recorded: SealedWindow
    folder: Path
    """Scratch."""

    def window(self, n: int) -> Path:
        """A sealed window of n requests, made once."""
        path = self.folder / f"window-{n}"
        return path if path.exists() else write_repeated(self.recorded, n, path)

    def gate(self, model: Path, n: int, policy: str) -> dict[str, Any]:
        """One gate in a fresh process, so that its peak memory is its own."""
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            file = Path(scratch) / "policy.yaml"
            file.write_text(policy)
            (found,) = _run([["gate", model, self.window(n), file, f"{scratch}/run"]])
            (imported,) = _run([["imports", f"{scratch}/{MODULES}"]])
        return {**found, "imported_mb": imported["peak_mb"]}


def bench_gate(
    models: Sequence[str],
    *,
    requests: int | None = None,
    memory: bool = False,
    long: bool = False,
    cache_dir: Path | None = None,
) -> Figures:
    """Measures gates of flight models against themselves over repeated traffic.

    Args:
      models: names of WEIGHTS.
      requests: in place of the weights' own numbers.
      memory: compare the parent's peak memory at 100,000 and a million requests, too.
      long: at ten million, too.
      cache_dir: where the recorded traffic's sealed window is kept.
    """
    traffic = assets_root() / "scenarios" / "traffic" / "flights"
    recorded = open_traffic([traffic], cache_dir or default_cache_dir(), None, None)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as scratch:
        bench = _Bench(recorded=recorded, folder=Path(scratch))
        for name in models:
            figures += _weighed(bench, WEIGHTS[name], requests)
        if memory:
            sizes = (SMALL, LARGE, LARGEST) if long else (SMALL, LARGE)
            figures += _memory(bench, sizes)
    return Figures(title="A gate beside bare onnxruntime", figures=tuple(figures))


def _weighed(bench: _Bench, weight: Weight, requests: int | None) -> list[Figure]:
    """The figures of one model."""
    n = requests or weight.requests
    model = write_model(weight, bench.folder)
    gate = bench.gate(model, n, _OUTPUTS)
    bare = _bare(model, bench.window(n), gate["batch"])
    traced = bench.gate(model, n, _FEATURES) if requests or n < _MILLION else None
    name, replay_s = weight.name, gate["replay_s"]
    cpu_s = sum(gate["cpu_s"].values()) + gate["children_cpu_s"]
    figures = [
        Figure(name=f"{name}: onnxruntime, a row", value=bare["cpu_s"] / 2 / n * _US, unit="µs",
               note=f"meant to be ≥ {weight.about_us:g}; {n:,} requests in batches up to {gate['batch']:,}"),
        Figure(name=f"{name}: two cores give, both versions", value=n / bare["wall_s"], unit="requests/s",
               note="bare session.run, one process a version"),
        Figure(name=f"{name}: gate", value=n / replay_s, unit="requests/s"),
        Figure(name=f"{name}: ratio", value=bare["wall_s"] / replay_s, unit="×", at_most=False, limit=weight.ratio),
        Figure(name=f"{name}: ratio of processor time", value=bare["cpu_s"] / cpu_s, unit="×", at_most=False,
               limit=weight.ratio, note="no gate can be faster; other load changes it little"),
        Figure(name=f"{name}: whole gate", value=gate["seconds"], unit="s",
               limit=MILLION_LIMIT_S if n == _MILLION else None,
               note="with start, floor, verification, report"),
    ]  # fmt: skip
    if traced is not None:
        figures.append(
            Figure(name=f"{name}: ratio with features judged", value=bare["wall_s"] / traced["replay_s"],
                   unit="×", note="every version runs twice")
        )  # fmt: skip
    return [*figures, *_profile(name, gate, bare)]


def _profile(name: str, gate: dict[str, Any], bare: dict[str, Any]) -> list[Figure]:
    """Processor time a request, by who takes it."""
    n = gate["requests"]
    children_s = gate["children_cpu_s"]
    parts = {
        "versions: the models": bare["cpu_s"],
        "versions: around the models": children_s - bare["cpu_s"],
        **dict(sorted(gate["cpu_s"].items(), key=lambda part: -part[1])),
    }
    waiting = sum(gate["wait_s"].values())
    return [
        *(Figure(name=f"{name}:   {part}", value=s / n * _US, unit="µs/request") for part, s in parts.items()),
        Figure(name=f"{name}:   the gate waits", value=waiting / n * _US, unit="µs/request", note="not processor time"),
    ]  # fmt: skip


def _memory(bench: _Bench, sizes: Sequence[int]) -> list[Figure]:
    model = assets_root() / "models" / "flights" / "v2.onnx"
    figures, grown = [], {}
    for n in sizes:
        gate = bench.gate(model, n, _OUTPUTS)
        grown[n] = gate["peak_mb"] - gate["imported_mb"]
        figures.append(
            Figure(name=f"parent's peak above imports, {n:,} requests", value=grown[n], unit="MB",
                   limit=GROWTH_LIMIT_MB, note=f"{gate['peak_mb']:.0f} MB in all")
        )  # fmt: skip
    flat = grown[sizes[-1]] / grown[sizes[0]]
    return [*figures, Figure(name="growth of that", value=flat, unit="×", limit=FLAT_LIMIT)]


def _bare(model: Path, window: Path, batch: int) -> dict[str, Any]:
    """Both versions at once: the slower one's time, and the processor time of both."""
    found = _run([["bare", model, window, batch]] * 2)
    return {
        "wall_s": max(f["wall_s"] for f in found),
        "cpu_s": sum(f["cpu_s"] for f in found),
    }


def _run(commands: Sequence[Sequence[object]]) -> list[dict[str, Any]]:
    """Runs measuring programs at the same time; each begins when all are ready."""
    program = [sys.executable, "-m", "harness.bench.gate_run"]
    children = [
        subprocess.Popen(
            [*program, *map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )
        for command in commands
    ]  # fmt: skip
    for child in children:
        if child.stdout is not None and child.stdin is not None:
            child.stdout.readline()
    for child in children:
        if child.stdin is not None and child.poll() is None:
            child.stdin.write("\n")
            child.stdin.flush()
    results = [child.communicate() for child in children]
    for child, (_, said) in zip(children, results, strict=True):
        if child.returncode:
            raise GateError("bench gate", f"it failed: {said[-500:]}", "Run harness doctor.")
    return [json.loads(out) for out, _ in results]

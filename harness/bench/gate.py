"""A whole gate against bare onnxruntime, and the parent's memory as the traffic grows.

The gate does more than run two models: it reads and decodes, diffs, judges and writes every pair. The
ratio says what all of that costs beside the models themselves: bare `InferenceSession.run` of the
same batches, both versions, one process each, on the same cores, just after the gate. Both are measured
twice in turn, and the quicker one counts on both sides: other load makes a run slower, never faster.
What a gate costs once, however long its traffic is, stays apart: starting, sealing, the noise floor
(A/A) on a prefix, the first requests' features, the report. So every figure a request is a slope: two
gates over windows of different length, and what the longer one took more, by the requests it had more.

Three policies: one about outputs, scores and decisions, which has the ratio's limit; two that also judge
the features inside the models. Where bits of outputs are judged (`refactor`), production's session answers
and a copy cut off behind the features gives these; elsewhere one session does both.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.bench.figures import Figure, Figures, load_figure
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
_MANY = 200_000
_TIMES = 2
_MOST_RATIO = 1.05
"""No gate is quicker than what it does: more than this is other work beside the bare runs."""
_MOST_SPREAD = 1.2
"""Slowest bare run over the quickest of the same batches."""
_NEAR_NOTHING = 0.02
"""Share of the whole by which a part that is next to nothing may come out below zero."""
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
_BITS_AND_FEATURES = _OUTPUTS.replace("drop: [features]\n", "")
_FEATURES = _OUTPUTS.replace("preset: refactor\ndrop: [features]\n", "preset: none\n").replace(
    "guardrails:\n",
    "guardrails:\n  - {name: features, metric: parity_mismatch, scope: features, margin: 0.001}\n",
)


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
    figures: list[Figure] = [load_figure()]
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as scratch:
        bench = _Bench(recorded=recorded, folder=Path(scratch))
        for name in models:
            figures += _weighed(bench, WEIGHTS[name], requests)
        if memory:
            sizes = (SMALL, LARGE, LARGEST) if long else (SMALL, LARGE)
            figures += _memory(bench, sizes)
    return Figures(title="A gate beside bare onnxruntime", figures=tuple(figures))


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """Seconds, of one gate or of what a longer gate took more than a shorter one."""

    requests: int
    replay_s: float
    """Wall-clock time between the floor and the last pair."""
    parent_s: Mapping[str, float]
    """Processor time meanwhile by section."""
    waiting_s: float
    children_s: float
    """Processor time of both versions' processes."""
    bare_wall_s: float
    """The same batches in bare onnxruntime, both versions at once: the slower one's time."""
    bare_s: float
    """Processor time of both."""
    spread: float = 1.0
    """Slowest bare run over the quickest, by the clock."""

    @property
    def cpu_s(self) -> float:
        """Processor time of the gate's replay."""
        return self.children_s + sum(self.parent_s.values())

    def more_than(self, short: Took) -> Took:
        """What it took more."""
        return Took(
            requests=self.requests - short.requests,
            replay_s=self.replay_s - short.replay_s,
            parent_s={k: s - short.parent_s.get(k, 0.0) for k, s in self.parent_s.items()},
            waiting_s=self.waiting_s - short.waiting_s,
            children_s=self.children_s - short.children_s,
            bare_wall_s=self.bare_wall_s - short.bare_wall_s,
            bare_s=self.bare_s - short.bare_s,
            spread=max(self.spread, short.spread),
        )

    def spoiled(self) -> tuple[str, str]:
        """Why its ratio by the clock, and that of processor times, are worth nothing; "" = they are not."""
        bad = []
        for bare, gate, parts in (
            (self.bare_wall_s, self.replay_s, (self.waiting_s,)),
            (self.bare_s, self.cpu_s, (*self.parent_s.values(), self.children_s)),
        ):
            if min(bare, gate) <= 0 or min(parts) < -_NEAR_NOTHING * gate:
                bad.append("a longer run took less")
            elif bare > _MOST_RATIO * gate:
                bad.append("quicker than the models alone")
            else:
                bad.append("")
        if self.spread > _MOST_SPREAD and not bad[0]:
            bad[0] = f"bare runs of the same batches vary by {self.spread - 1:.0%}"
        return bad[0], bad[1]

    def once(self, more: Took) -> tuple[float, float]:
        """Seconds, and seconds of processor time, that do not come with further requests."""
        times = self.requests / more.requests
        extra_s = self.replay_s - self.bare_wall_s, self.cpu_s - self.bare_s
        each_s = more.replay_s - more.bare_wall_s, more.cpu_s - more.bare_s
        return extra_s[0] - times * each_s[0], extra_s[1] - times * each_s[1]


def _weighed(bench: _Bench, weight: Weight, requests: int | None) -> list[Figure]:
    """The figures of one model."""
    n = requests or weight.requests
    model = write_model(weight, bench.folder)
    gate, whole = _took(bench, model, n)
    # Far apart, so that noise counts little; a shorter gate yet would be all first requests.
    fewer = n // 4 if n >= _MANY else n // 2
    more = whole.more_than(_took(bench, model, fewer)[1])
    name, once = weight.name, whole.once(more)
    by_clock, by_processor = more.spoiled()
    figures = [
        Figure(name=f"{name}: onnxruntime, a row", value=more.bare_s / 2 / more.requests * _US, unit="µs",
               note=f"meant to be ≥ {weight.about_us:g}; {n:,} requests less {fewer:,}, in batches up to {gate['batch']:,}"),
        Figure(name=f"{name}: two cores give, both versions", value=more.requests / more.bare_wall_s,
               unit="requests/s", note="bare session.run, one process a version"),
        Figure(name=f"{name}: gate", value=more.requests / more.replay_s, unit="requests/s"),
        Figure(name=f"{name}: ratio", value=more.bare_wall_s / more.replay_s, unit="×", at_most=False,
               limit=weight.ratio, note="what comes with every further request; fixed cost apart",
               spoiled=by_clock),
        Figure(name=f"{name}: ratio of processor time", value=more.bare_s / more.cpu_s, unit="×", at_most=False,
               limit=weight.ratio, note="no gate can be faster; other load changes it little",
               spoiled=by_processor),
        Figure(name=f"{name}: fixed cost of the replay", value=once[0], unit="s",
               note=f"{once[1]:.2f} s of processor time: features of the first requests, first looks"),
        Figure(name=f"{name}: ratio with the fixed cost", value=whole.bare_wall_s / whole.replay_s, unit="×",
               note=f"of {n:,} requests"),
        Figure(name=f"{name}: whole gate", value=gate["seconds"], unit="s",
               limit=MILLION_LIMIT_S if n == _MILLION else None,
               note="with start, floor, verification, report"),
    ]  # fmt: skip
    return [*figures, *_with_features(bench, name, model, min(n, SMALL)), *_profile(name, more)]


def _with_features(bench: _Bench, name: str, model: Path, n: int) -> list[Figure]:
    """What is left of the models' own speed where features are judged, too."""
    figures = []
    for policy, who in (
        (_FEATURES, "one session gives outputs and features"),
        (_BITS_AND_FEATURES, "bits of outputs judged: a second session gives the features"),
    ):
        _, took = _took(bench, model, n, policy, times=1)
        figures.append(
            Figure(name=f"{name}: ratio with features, {'one session' if policy == _FEATURES else 'refactor'}",
                   value=took.bare_s / took.cpu_s, unit="×",
                   note=f"processor time, {n:,} requests, first ones included; {who}")
        )  # fmt: skip
    return figures


def _took(
    bench: _Bench, model: Path, n: int, policy: str = _OUTPUTS, *, times: int = _TIMES
) -> tuple[dict[str, Any], Took]:
    """Gates and, after each, the same batches in bare onnxruntime: the quicker gate, and the least of all."""
    gates, bare = [], []
    for _ in range(times):
        gates.append(bench.gate(model, n, policy))
        bare.append(_bare(model, bench.window(n), gates[-1]["batch"]))
    quickest = min(gates, key=lambda gate: float(gate["replay_s"]))
    least = min(gates, key=lambda gate: sum(gate["cpu_s"].values()) + float(gate["children_cpu_s"]))
    return quickest, Took(
        requests=n,
        replay_s=quickest["replay_s"],
        parent_s=least["cpu_s"],
        waiting_s=sum(quickest["wait_s"].values()),
        children_s=least["children_cpu_s"],
        bare_wall_s=min(wall_s for wall_s, _ in bare),
        spread=max(wall_s for wall_s, _ in bare) / min(wall_s for wall_s, _ in bare),
        bare_s=min(cpu_s for _, cpu_s in bare),
    )


def _profile(name: str, more: Took) -> list[Figure]:
    """Processor time a further request, by who takes it."""
    parts = {
        "versions: the models": more.bare_s,
        "versions: around the models": more.children_s - more.bare_s,
        **dict(sorted(more.parent_s.items(), key=lambda part: -part[1])),
    }
    each = _US / more.requests
    return [
        *(Figure(name=f"{name}:   {part}", value=s * each, unit="µs/request") for part, s in parts.items()),
        Figure(name=f"{name}:   the gate waits", value=more.waiting_s * each, unit="µs/request",
               note="not processor time"),
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


def _bare(model: Path, window: Path, batch: int) -> tuple[float, float]:
    """Both versions at once: the slower one's time, and the processor time of both."""
    found = _run([["bare", model, window, batch]] * 2)
    return max(f["wall_s"] for f in found), sum(f["cpu_s"] for f in found)


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

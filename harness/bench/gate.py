"""A whole gate against bare onnxruntime, and the parent's memory as the traffic grows.

The gate does more than run two models: it reads and decodes, diffs, judges and writes every pair. The
ratio says what all of that costs beside the models themselves: bare `InferenceSession.run` of the
same batches, both versions, one process each, on the same cores. Gates and bare runs take turns, in pairs
next to each other; the median of the pairs is judged, and printed with its interval (`gate_took`).
What a gate costs once, however long its traffic is, stays apart: starting, sealing, the noise floor
(A/A) on a prefix, the first requests' features, the report. So every figure a request is a slope: two
gates over windows of different length, and what the longer one took more, by the requests it had more.

Three policies: one about outputs, scores and decisions, which has the ratio's limit; two that also judge
the features inside the models. Where bits of outputs are judged (`refactor`), production's session answers
and a copy cut off behind the features gives these; elsewhere one session does both.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.bench.figures import Figure, Figures, load_figure
from harness.bench.gate_models import WEIGHTS, Weight, write_model
from harness.bench.gate_run import MODULES
from harness.bench.gate_took import Took, clock_ratio, middle, other_work, processor_ratio
from harness.bench.paired import ENOUGH
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

    def gate(self, model: Path, n: int, policy: str, *, memory: bool = False) -> dict[str, Any]:
        """One gate in a fresh process, so that its peak memory is its own.

        With `memory`, what importing takes of it is measured, too: `imported_mb`.
        """
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            file = Path(scratch) / "policy.yaml"
            file.write_text(policy)
            (found,) = _run([["gate", model, self.window(n), file, f"{scratch}/run"]])
            if not memory:
                return found
            (imported,) = _run([["imports", f"{scratch}/{MODULES}"]])
        return {**found, "imported_mb": imported["peak_mb"]}


def bench_gate(
    models: Sequence[str],
    *,
    requests: int | None = None,
    pairs: int = ENOUGH,
    memory: bool = False,
    long: bool = False,
    cache_dir: Path | None = None,
) -> Figures:
    """Measures gates of flight models against themselves over repeated traffic.

    Args:
      models: names of WEIGHTS.
      requests: in place of the weights' own numbers.
      pairs: of gates and bare runs, for each model.
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
            figures += _weighed(bench, WEIGHTS[name], requests, pairs)
        if memory:
            sizes = (SMALL, LARGE, LARGEST) if long else (SMALL, LARGE)
            figures += _memory(bench, sizes)
    return Figures(title="A gate beside bare onnxruntime", figures=tuple(figures))


def _weighed(bench: _Bench, weight: Weight, requests: int | None, pairs: int) -> list[Figure]:
    """The figures of one model."""
    n = requests or weight.requests
    model = write_model(weight, bench.folder)
    # Far apart, so that noise counts little; a shorter gate yet would be all first requests.
    fewer = n // 4 if n >= _MANY else n // 2
    rounds = _rounds(bench, model, (n, fewer), pairs)
    whole = [one[n].took for one in rounds]
    more = [one[n].took.more_than(one[fewer].took) for one in rounds]
    gates = [one[n].gate for one in rounds]
    name = weight.name
    once = [w.once(m) for w, m in zip(whole, more, strict=True)]
    seconds = [float(gate["seconds"]) for gate in gates]
    figures = [
        Figure(name=f"{name}: onnxruntime, a row", value=middle(more, lambda m: m.bare_s / 2 / m.requests * _US),
               unit="µs",
               note=f"meant to be ≥ {weight.about_us:g}; {n:,} requests less {fewer:,}, "
               f"in batches up to {max(gate['batch'] for gate in gates):,}"),
        Figure(name=f"{name}: two cores give, both versions",
               value=middle(more, lambda m: m.requests / m.bare_wall_s), unit="requests/s",
               note="bare session.run, one process a version"),
        Figure(name=f"{name}: bare runs had a processor", value=100 * middle(more, lambda m: m.share),
               unit="%", note="of their time; less than all = other work on the machine"),
        Figure(name=f"{name}: gate", value=middle(more, lambda m: m.requests / m.replay_s), unit="requests/s"),
        clock_ratio(more, f"{name}: ratio", weight.ratio,
                    "what comes with every further request; fixed cost apart"),
        processor_ratio(more, f"{name}: ratio of processor time", weight.ratio,
                        "no gate can be faster; other load changes it little"),
        Figure(name=f"{name}: fixed cost of the replay", value=statistics.median(s for s, _ in once), unit="s",
               note=f"{statistics.median(s for _, s in once):.2f} s of processor time: features of the first "
               "requests, first looks"),
        Figure(name=f"{name}: ratio with the fixed cost", value=middle(whole, lambda w: w.bare_wall_s / w.replay_s),
               unit="×", note=f"of {n:,} requests"),
        Figure(name=f"{name}: whole gate", value=statistics.median(seconds), unit="s",
               limit=MILLION_LIMIT_S if n == _MILLION else None, spoiled=other_work(whole),
               note=f"{min(seconds):.1f} … {max(seconds):.1f}, with start, floor, verification, report"),
    ]  # fmt: skip
    return [*figures, *_with_features(bench, name, model, min(n, SMALL)), *_profile(name, more)]


def _with_features(bench: _Bench, name: str, model: Path, n: int) -> list[Figure]:
    """What is left of the models' own speed where features are judged, too."""
    figures = []
    for policy, who in (
        (_FEATURES, "one session gives outputs and features"),
        (_BITS_AND_FEATURES, "bits of outputs judged: a second session gives the features"),
    ):
        (one,) = _rounds(bench, model, (n,), 1, policy)
        took = one[n].took
        figures.append(
            Figure(name=f"{name}: ratio with features, {'one session' if policy == _FEATURES else 'refactor'}",
                   value=took.bare_s / took.cpu_s, unit="×",
                   note=f"processor time, {n:,} requests, first ones included; {who}")
        )  # fmt: skip
    return figures


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """A gate and the bare runs next to it."""

    gate: dict[str, Any]
    """What the measured program said."""
    took: Took


def _rounds(
    bench: _Bench, model: Path, sizes: Sequence[int], count: int, policy: str = _OUTPUTS
) -> list[dict[int, _Pair]]:
    """Gates over windows of some sizes, each beside the same batches in bare onnxruntime.

    Every second round goes the other way, so that what comes later is the gate as often as the bare run.

    Returns:
      By size, for each round.
    """
    rounds: list[dict[int, _Pair]] = []
    batches: dict[int, int] = {}
    for index in range(count):
        backwards = index % 2 == 1
        found = {}
        for n in reversed(sizes) if backwards else sizes:
            bare = _bare(model, bench.window(n), batches[n]) if backwards else None
            gate = bench.gate(model, n, policy)
            batches[n] = gate["batch"]
            found[n] = _pair(n, gate, bare or _bare(model, bench.window(n), batches[n]))
        rounds.append(found)
    return rounds


def _pair(n: int, gate: dict[str, Any], bare: _Bare) -> _Pair:
    took = Took(
        requests=n,
        replay_s=gate["replay_s"],
        parent_s=gate["cpu_s"],
        waiting_s=sum(gate["wait_s"].values()),
        children_s=gate["children_cpu_s"],
        bare_wall_s=bare.wall_s,
        bare_s=bare.cpu_s,
        share=bare.share,
    )
    return _Pair(gate=gate, took=took)


def _profile(name: str, more: Sequence[Took]) -> list[Figure]:
    """Processor time a further request, by who takes it."""
    each = {
        section: [m.parent_s.get(section, 0.0) / m.requests * _US for m in more]
        for section in sorted({section for one in more for section in one.parent_s})
    }
    ours = {section: statistics.median(us) for section, us in each.items()}
    parts = {
        "versions: the models": _each_us(more, lambda m: m.bare_s),
        "versions: around the models": _each_us(more, lambda m: m.children_s - m.bare_s),
        **dict(sorted(ours.items(), key=lambda part: -part[1])),
    }
    return [
        *(Figure(name=f"{name}:   {part}", value=us, unit="µs/request") for part, us in parts.items()),
        Figure(name=f"{name}:   the gate waits", value=_each_us(more, lambda m: m.waiting_s), unit="µs/request",
               note="not processor time"),
    ]  # fmt: skip


def _each_us(more: Sequence[Took], of: Callable[[Took], float]) -> float:
    """Microseconds a request."""
    return middle(more, lambda m: of(m) / m.requests * _US)


def _memory(bench: _Bench, sizes: Sequence[int]) -> list[Figure]:
    model = assets_root() / "models" / "flights" / "v2.onnx"
    figures, grown = [], {}
    for n in sizes:
        gate = bench.gate(model, n, _OUTPUTS, memory=True)
        grown[n] = gate["peak_mb"] - gate["imported_mb"]
        figures.append(
            Figure(name=f"parent's peak above imports, {n:,} requests", value=grown[n], unit="MB",
                   limit=GROWTH_LIMIT_MB, note=f"{gate['peak_mb']:.0f} MB in all")
        )  # fmt: skip
    flat = grown[sizes[-1]] / grown[sizes[0]]
    return [*figures, Figure(name="growth of that", value=flat, unit="×", limit=FLAT_LIMIT)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bare:
    """Both versions in bare onnxruntime at once."""

    wall_s: float
    """The slower one's time."""
    cpu_s: float
    """Processor time of both."""
    share: float
    """Of a processor that each had meanwhile."""


def _bare(model: Path, window: Path, batch: int) -> _Bare:
    found = _run([["bare", model, window, batch]] * 2)
    cpu_s = sum(f["cpu_s"] for f in found)
    return _Bare(
        wall_s=max(f["wall_s"] for f in found),
        cpu_s=cpu_s,
        share=cpu_s / sum(f["wall_s"] for f in found),
    )


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

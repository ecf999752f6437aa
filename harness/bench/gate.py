"""A whole gate against bare onnxruntime, and the parent's memory as the traffic grows.

The gate does more than run two models: it reads and decodes, replays a noise floor, traces 24 feature
tensors with optimisation off, diffs, judges and writes every pair. The ratio says what all of that
costs beside the models themselves: bare `InferenceSession.run` of the same batches, both versions, one
process each, on the same cores, in the same run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from harness.bench.figures import Figure, Figures
from harness.core.errors import GateError
from harness.core.tensors import Tensors
from harness.pipeline.assets import assets_root, default_cache_dir
from harness.pipeline.prepare import BATCH_REQUESTS
from harness.store.tables import open_traffic
from harness.store.windows import SealedWindow

RATIO_LIMIT = 0.15
MEMORY_LIMIT = 1.10
SMALL, LARGE = 50_000, 300_000
_POLICY = """\
version: 1
preset: refactor
decision: {output: label, rule: none, score: probability}
windows: {newest: {days: 4000}, min_requests: 1000000, max_requests: 1000000}
sandbox: {require: S2}
"""


def bench_gate(model: str, *, memory: bool, cache_dir: Path | None = None) -> Figures:
    """Measures a gate of a flight model against itself over all recorded requests.

    Args:
      model: v2 or gbt.
      memory: also run 50,000 and 300,000 requests and compare the parent's peak memory.
      cache_dir: where sealed windows are kept.
    """
    root = assets_root()
    path = root / "models" / "flights" / f"{model}.onnx"
    cache = cache_dir or default_cache_dir()
    traffic = root / "scenarios" / "traffic" / "flights"
    window = open_traffic([traffic], cache, None, None)
    n = window.info.count
    bare_s = _bare_s(path, window)
    gate = _gate(path, traffic, cache)
    figures = [
        Figure(name="requests", value=n, unit=f"in batches of {BATCH_REQUESTS}"),
        Figure(name="bare onnxruntime, both versions", value=n / bare_s, unit="requests/s"),
        Figure(name="gate, replay of both versions", value=n / gate["replay_s"], unit="requests/s",
               note="read, run, trace, diff, judge, write"),
        Figure(name="ratio", value=bare_s / gate["replay_s"], unit="×", at_most=False,
               limit=RATIO_LIMIT if model == "gbt" else None,
               note="" if model == "gbt" else "so small a model costs next to nothing by itself"),
        Figure(name="whole gate", value=gate["seconds"], unit="s", note="with floor, preparation and report"),
    ]  # fmt: skip
    if memory:
        figures += _memory(path, window, cache)
    return Figures(title=f"Gate of {model} against itself", figures=tuple(figures))


_BARE = """
import sys, time, numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
data = np.load(sys.argv[2])
columns = {n: data[n].astype(object) if data[n].dtype.kind == "U" else data[n] for n in data.files}
size, n = int(sys.argv[3]), len(next(iter(columns.values())))
batches = [{k: v[i:i + size] for k, v in columns.items()} for i in range(0, n, size)]
session.run(None, batches[0])
print("ready", flush=True); sys.stdin.readline()
began = time.perf_counter()
for batch in batches: session.run(None, batch)
print(time.perf_counter() - began)
"""


def _bare_s(model: Path, window: SealedWindow) -> float:
    """Seconds for two processes to run every batch once, both at the same time."""
    requests = window.read(np.arange(window.info.count))
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as scratch:
        file = Path(scratch) / "inputs.npz"
        columns: Tensors = {
            n: t.astype(np.str_) if t.dtype == object else t for n, t in requests.inputs.items()
        }
        with file.open("wb") as target:
            np.savez(target, **columns)  # type: ignore[arg-type]
        command = [sys.executable, "-c", _BARE, str(model), str(file), str(BATCH_REQUESTS)]
        children = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        for child in children:
            if child.stdout is None or child.stdout.readline() != "ready\n":
                raise GateError(
                    "bench gate", "bare onnxruntime did not start", "Run harness doctor."
                )
        # Both wait until both are ready, so that they share the machine all the time.
        return max(float(child.communicate("\n")[0]) for child in _started(children))


def _started(children: list[subprocess.Popen[str]]) -> list[subprocess.Popen[str]]:
    for child in children:
        if child.stdin is not None:
            child.stdin.write("\n")
            child.stdin.flush()
    return children


_GATE = """
import json, sys, time
from pathlib import Path
from harness.pipeline.gate import run_gate
model, traffic, policy, out, cache = sys.argv[1:6]
first, last = {}, {}
def heard(event):
    first.setdefault(event.stage, time.perf_counter()); last[event.stage] = time.perf_counter()
result = run_gate(model, model, traffic=[Path(traffic)], policy=Path(policy), out=Path(out), cache_dir=Path(cache), state_dir=Path(out).parent / "state", listener=heard)
n = result.record.n_requests
# Of this program alone: ru_maxrss would start at what the process that started it had in memory.
status = Path("/proc/self/status").read_text()
peak_kib = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
print(json.dumps({
    "replay_s": (last["replay"] - last["floor"]), "seconds": result.seconds, "requests": n,
    "decision": result.decision, "peak_mb": peak_kib / 1024,
}))
"""


def _gate(model: Path, traffic: Path, cache: Path) -> dict[str, float]:
    """One gate in a fresh process, so that its peak memory is its own."""
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as scratch:
        policy = Path(scratch) / "policy.yaml"
        policy.write_text(_POLICY)
        done = subprocess.run(
            [sys.executable, "-c", _GATE, str(model), str(traffic), str(policy), f"{scratch}/run", str(cache)],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
    if done.returncode:
        raise GateError(
            "bench gate", f"the gate failed: {done.stderr[-500:]}", "Run harness doctor."
        )
    content: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return content


def _memory(model: Path, window: SealedWindow, cache: Path) -> list[Figure]:
    peaks = {}
    for n in (SMALL, LARGE):
        with _tiled(window, n) as table:
            _gate(
                model, table, cache
            )  # seals it, so that the measured run starts from a sealed window
            peaks[n] = _gate(model, table, cache)
    figures = [
        Figure(name=f"parent's peak at {n:,} requests", value=peaks[n]["peak_mb"], unit="MB",
               note=f"{peaks[n]['requests']:,} judged")
        for n in (SMALL, LARGE)
    ]  # fmt: skip
    growth = peaks[LARGE]["peak_mb"] / peaks[SMALL]["peak_mb"]
    return [*figures, Figure(name="growth", value=growth, unit="×", limit=MEMORY_LIMIT)]


@contextmanager
def _tiled(window: SealedWindow, n: int) -> Iterator[Path]:
    """The recorded inputs, repeated to n requests, as a Parquet table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    requests = window.read(np.arange(window.info.count) % window.info.count)
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as scratch:
        file = Path(scratch) / "inputs.parquet"
        table = pa.table(
            {
                name: pa.array(t.tolist() if t.dtype == object else t)
                for name, t in requests.inputs.items()
            }
        )
        with pq.ParquetWriter(file, table.schema) as writer:
            left = n
            while left > 0:
                writer.write_table(table.slice(0, min(left, len(table))))
                left -= len(table)
        yield file

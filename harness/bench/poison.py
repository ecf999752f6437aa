"""How long faults hold a leg up: poison requests in a batch, and a version that never answers.

The model divides integers: INT_MIN / −1 kills its process, a divisor past 2³⁰ makes it loop for ever.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from harness.bench.figures import Figure, Figures
from harness.core.errors import GateError
from harness.core.observations import Outcome
from harness.core.policies import SandboxPolicy
from harness.core.tensors import Ints
from harness.core.traffic import RequestBatch
from harness.pipeline.opening import LegRecipe, open_legs
from harness.replay.leg_counters import LegCounters
from harness.replay.legs import Leg

ONE_IN_65536_S = 5.0
THREE_IN_1024_S = 8.0
HANG_DEADLINES = 8.0
"""A version that hangs on everything may take this many deadlines until its leg ends."""
_DEADLINE_S = 1.0
_CRASH = (-(2**63), -1)
_SEED = 3

_MODEL = """
<ir_version: 8, opset_import: ["" : 15]>
faulty (int64[N] x, int64[N] d) => (int64[N] y) {
  top = ReduceMax<keepdims = 0>(d)
  long = Constant<value = int64 {1073741824}>()
  zero = Constant<value = int64 {0}>()
  many = Constant<value = int64 {4611686018427387904}>()
  endless = Greater(top, long)
  times = Where(endless, many, zero)
  quotient = Div(x, d)
  y = Loop<body = turn (int64 i, bool c, int64[M] v) => (bool c2, int64[M] v2) {
    c2 = Identity(c)
    v2 = Identity(v)
  }>(times, , quotient)
}
"""


def bench_poison() -> Figures:
    """Measures each case in a leg of its own, with the policy's usual limits."""
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as scratch:
        model = _saved(Path(scratch) / "faulty.onnx")
        one_s, one_cpu_s, one = _search(model, 65_536, 1)
        three_s, three_cpu_s, three = _search(model, 1_024, 3)
        hang_s, hang_cpu_s, hang = _hang(model, 1_024)
    return Figures(
        title="Faults in a leg",
        figures=(
            Figure(name="one poison request in 65,536", value=one_s, unit="s", limit=ONE_IN_65536_S,
                   note=f"{one.restarts} new processes"),
            _by_processor(one_cpu_s),
            Figure(name="three in 1,024", value=three_s, unit="s", limit=THREE_IN_1024_S,
                   note=f"{three.restarts} new processes"),
            _by_processor(three_cpu_s),
            Figure(name="a version that never answers", value=hang_s / _DEADLINE_S,
                   unit="deadlines", limit=HANG_DEADLINES,
                   note=f"of {_DEADLINE_S:g} s, until its leg ends; {hang.restarts} new processes; what a "
                   "process waits for a processor is added to its deadlines"),
            _by_processor(hang_cpu_s),
        ),
    )  # fmt: skip


def _by_processor(seconds: float) -> Figure:
    return Figure(
        name="the same by processor time", value=seconds, unit="s",
        note="this process and all of its leg's, starts included; little moved by other load",
    )  # fmt: skip


def _cpu_s() -> float:
    """Processor time of this process and of those that it has reaped."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, whose))


def _saved(path: Path) -> Path:
    import onnx
    from onnx import parser

    onnx.save_model(parser.parse_model(_MODEL), str(path))
    return path


def _search(model: Path, size: int, poison: int) -> tuple[float, float, LegCounters]:
    """Seconds that a batch with poison costs, by the clock and of processors; one good batch went before.

    The leg's processes are counted whole: a process's time is known when it has ended.
    """
    where = np.sort(np.random.default_rng(_SEED).choice(size, poison, replace=False))
    x, d = np.arange(size), np.ones(size, np.int64)
    x[where], d[where] = _CRASH
    used = _cpu_s()
    with _leg(model) as leg:
        _answered(leg, np.arange(size), np.ones(size, np.int64))
        began = time.perf_counter()
        found = _answered(leg, x, d)
        seconds = time.perf_counter() - began
        if not np.array_equal(found, where):
            what = f"{len(found)} requests were blamed where {poison} are poison"
            raise GateError("bench poison", what, "Report this.")
        counters = leg.counters()
    return seconds, _cpu_s() - used, counters


def _hang(model: Path, size: int) -> tuple[float, float, LegCounters]:
    used = _cpu_s()
    with _leg(model) as leg:
        began = time.perf_counter()
        _answered(leg, np.arange(size), np.full(size, 1 << 31))
        seconds = time.perf_counter() - began
        if not leg.ended:
            raise GateError("bench poison", "a leg without an answer went on", "Report this.")
        counters = leg.counters()
    return seconds, _cpu_s() - used, counters


@contextmanager
def _leg(model: Path) -> Iterator[Leg]:
    """A leg as a gate opens it."""
    limits = SandboxPolicy(require="S0", batch_deadline_s=_DEADLINE_S)
    with open_legs(LegRecipe(role="candidate", model=model, limits=limits)) as (leg,):
        yield leg


def _answered(leg: Leg, x: Ints, d: Ints) -> Ints:
    """Gives the leg one batch; indices of the requests that failed."""
    n = len(x)
    leg.submit(
        RequestBatch(
            seq=np.arange(n),
            request_id=np.array([str(i) for i in range(n)], object),
            ts_ns=np.zeros(n, np.int64),
            rows=np.ones(n, np.int64),
            inputs={"x": x, "d": d},
            recorded={},
            answered=np.ones(n, np.bool_),
            context={},
        ),
        trace=False,
    )
    return np.flatnonzero(leg.collect().outcome != Outcome.OK)

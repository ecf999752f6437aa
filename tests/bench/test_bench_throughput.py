"""Ratios of pairs, batches of a wanted length, and an overhead that is planted."""

import time

import numpy as np
import pytest

from harness.bench import throughput as measured
from harness.bench.paired import ENOUGH, paired_ratio
from harness.core.policies import SandboxPolicy
from harness.sandbox.child import sessions
from harness.sandbox.hello import LoadFailure
from harness.sandbox.process import Sandbox
from tests.sandbox import sandbox_models


def test_the_median_of_pairs_forgets_what_disturbed_some():
    rng = np.random.default_rng(1)
    under = rng.uniform(1, 3, 60)
    over = 0.9 * under * rng.normal(1, 0.01, 60)
    over[:20] *= 5
    found = paired_ratio(over, under)
    assert found.low <= found.median <= found.high
    assert 0.9 < found.median < 0.93
    assert found.pairs == 60


@pytest.mark.parametrize("pairs", [ENOUGH, 9, 41])
def test_the_interval_holds_the_true_ratio_nineteen_times_in_twenty(pairs):
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(1000):
        found = paired_ratio(rng.lognormal(0, 0.2, pairs), np.ones(pairs))
        held += found.low <= 1.0 <= found.high
    # binomial(1000, .95): below 927 once in 1,000; no wider interval than is needed holds it every time.
    assert 927 <= held < 1000


def test_fewer_pairs_than_an_interval_needs_say_so():
    found = paired_ratio([1.0, 1.2, 0.9], [1.0, 1.0, 1.0])
    assert (found.low, found.median, found.high) == (0.9, 1.0, 1.2)
    assert "too few" in found.shown()
    assert "95 %" in paired_ratio([1.0] * ENOUGH, [1.0] * ENOUGH).shown()


def test_a_batch_lies_in_memory_as_a_slot_does():
    found = [measured.batch(rows, 7, rows) for rows in range(1, 40)]
    assert all(b.ctypes.data % 64 == 0 and b.shape == (n, 7) for n, b in enumerate(found, 1))
    assert all(np.isfinite(b).all() for b in found)


@pytest.fixture
def quick(monkeypatch):
    for name, value in (("_PAIRS", 9), ("_TIMED_S", 0.03), ("_DIFFERENT_BYTES", 1 << 18)):
        monkeypatch.setattr(measured, name, value)


@pytest.mark.usefixtures("quick")
def test_rows_are_found_for_a_wanted_time():
    def burn(_, inputs):
        until = time.thread_time() + 1e-5 + 2e-6 * len(inputs["x"])
        while time.thread_time() < until:
            pass

    rows = measured.rows_for(burn, 2, 1e-3)
    assert 400 < rows < 600


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_model_that_is_run_twice_here_makes_the_ratio_two(tmp_path):
    path = sandbox_models.identity(tmp_path / "m.onnx")
    session = sessions.open_session(path.read_bytes(), {}, optimise=True)

    def figures(run):
        with Sandbox.start(path, name="m", limits=SandboxPolicy(), allow_weaker=True) as sandbox:
            assert not isinstance(sandbox, LoadFailure)
            return measured.throughput(run, sandbox, columns=2, wanted_s=2e-4, limit=0.5)

    def twice(names, inputs):
        session.run(names, inputs)
        session.run(names, inputs)

    once, doubled = figures(session.run)[1], figures(twice)[1]
    assert doubled.value / once.value == pytest.approx(2, rel=0.4)

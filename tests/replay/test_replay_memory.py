"""What runs out of memory: how many requests share a batch is the harness's choice, and no version's fault."""

import legs_models as models
import numpy as np
from onnx import helper

from harness.core.observations import Cause, Outcome
from harness.core.policies import SandboxPolicy
from harness.replay.asked import asked_by
from harness.replay.composition import rows_of
from harness.replay.leg_counters import LegCaps
from harness.replay.legs import Leg
from harness.sandbox.process import Sandbox

MEMORY = 384 << 20
COLUMNS = 1_000_000
"""8 MB each of a request's rows, times the request's d."""
TOO_MUCH = 1000
"""A d with which one request alone needs more than MEMORY."""


def wide(path, features=False):
    """y = x, by way of d columns of COLUMNS times x, which are a feature of the probed copy by their largest."""
    nodes = [
        helper.make_node("ReduceMax", ["d"], ["top"], keepdims=1),
        helper.make_node("Mul", ["top", "columns"], ["width"]),
        helper.make_node("Concat", ["one", "width"], ["shape"], axis=0),
        helper.make_node("Unsqueeze", ["x", "one"], ["column"]),
        helper.make_node("Expand", ["column", "shape"], ["many"]),
        helper.make_node("ReduceMax", ["many"], ["y"], axes=[1], keepdims=0),
    ]
    inputs = [models.integers("x"), models.integers("d")]
    outputs = [models.integers("y")]
    if features:
        nodes.append(helper.make_node("Add", ["y", "y"], ["twice"]))
        outputs.append(models.integers("twice"))
    constants = {"columns": np.array([COLUMNS]), "one": np.array([1])}
    return models.saved(path, nodes, inputs, outputs, constants)


def leg_on(path, caps=None, **options):
    limits = SandboxPolicy(require="S0", memory_bytes=MEMORY)
    return Leg(
        lambda: Sandbox.start(path, name="candidate", limits=limits, **options),
        name="candidate", caps=caps,
    )  # fmt: skip


def collected(leg, *batches, trace=False):
    asked = asked_by(leg)
    for batch in batches:
        asked.submit(batch, trace=trace)
    return [asked.collect() for _ in batches]


def test_a_batch_that_only_its_size_makes_fail_blames_nobody(tmp_path):
    with leg_on(wide(tmp_path / "m.onnx")) as leg:
        (found,) = collected(leg, models.batch_with(64, {}))
        counters = leg.counters()
    assert found.outcome.tolist() == [Outcome.OK] * 64
    assert found.outputs["y"].tolist() == [*range(64)]
    assert (counters.poison_count, counters.memory_limit, counters.flaky) == (0, 0, 0)


def test_later_batches_run_in_parts_that_fit(tmp_path):
    with leg_on(wide(tmp_path / "m.onnx")) as leg:
        collected(leg, models.batch_with(64, {}))
        most, restarts = leg.answered.most_rows, leg.counters().restarts
        found = collected(leg, *(models.batch_with(64, {}, first=64 * i) for i in range(1, 4)))
        counters = leg.counters()
    assert 1 <= most < 64
    assert [o.outcome.tolist() for o in found] == [[Outcome.OK] * 64] * 3
    assert [o.outputs["y"].tolist() for o in found] == [
        [*range(64 * i, 64 * i + 64)] for i in range(1, 4)
    ]
    assert counters.restarts == restarts
    assert (counters.smaller, counters.most_rows) == (4, most)


def test_features_come_of_the_parts(tmp_path):
    probed = wide(tmp_path / "p.onnx", features=True)
    options = {"trace_model": probed, "trace_tensors": ("twice",)}
    with leg_on(wide(tmp_path / "m.onnx"), **options) as leg:
        (found,) = collected(leg, models.batch_with(64, {}), trace=True)
        counters = leg.counters()
    assert found.outcome.tolist() == [Outcome.OK] * 64
    assert counters.poison_count == 0


def test_the_one_that_needs_too_much_by_itself_is_blamed_alone(tmp_path):
    with leg_on(wide(tmp_path / "m.onnx")) as leg:
        (found,) = collected(leg, models.batch_with(8, {5: (0, TOO_MUCH)}))
        counters = leg.counters()
        (kept,) = leg.take_quarantined()
    assert np.flatnonzero(found.outcome).tolist() == [5]
    assert (counters.poison_count, counters.memory_limit, kept.cause) == (1, 1, Cause.MEMORY_LIMIT)
    assert (counters.refilled, leg.answered.most_rows) == (1, 0)


def test_a_sound_request_after_one_that_needs_too_much_is_answered(tmp_path):
    with leg_on(wide(tmp_path / "m.onnx")) as leg:
        leg.singly = True
        (found,) = collected(leg, models.batch_with(6, {1: (0, TOO_MUCH)}))
    assert np.flatnonzero(found.outcome).tolist() == [1]


def test_requests_that_need_too_much_reach_the_cap(tmp_path):
    batch = models.batch_with(12, dict.fromkeys(range(12), (0, TOO_MUCH)))
    with leg_on(wide(tmp_path / "m.onnx"), caps=LegCaps(max_quarantined=3)) as leg:
        (found,) = collected(leg, batch)
        assert leg.ended == "3 requests ended its process, each by itself"
    assert (found.outcome == Outcome.ERROR).sum() == 3
    assert (found.outcome == Outcome.NOT_RUN).sum() == 9


def test_a_single_request_is_answered_after_a_trial_that_was_too_large(tmp_path):
    batch = models.batch_with(64, {})
    with leg_on(wide(tmp_path / "m.onnx")) as leg:
        whole = leg.tried(batch)
        assert whole is not None
        assert whole.outputs["y"].tolist() == [*range(64)]
        assert leg.tried(rows_of(batch, 7, 8)) is not None
        assert 1 <= leg.answered.most_rows < 64
        assert leg.counters().flaky == 0


def test_a_trial_that_one_request_makes_fail_is_not_answered(tmp_path):
    with leg_on(wide(tmp_path / "m.onnx")) as leg:
        assert leg.tried(models.batch_with(4, {2: (0, TOO_MUCH)})) is None
        assert leg.answered.most_rows == 0

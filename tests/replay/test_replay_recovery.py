"""What a leg makes of a failing batch: same bits for the rest, poison kept, hopeless cases ended soon."""

import legs_models as models
import numpy as np
import pytest
from onnx import TensorProto, helper

from harness.core.observations import Cause, Outcome
from harness.replay.asked import asked_by
from harness.replay.leg_counters import LegCaps
from harness.replay.legs import Leg
from harness.sandbox import deadlines
from harness.sandbox.answers import BatchFault
from harness.sandbox.process import Sandbox


def mean_division(path):
    """y = x / d on integers, m = sum of the batch's x: an answer that depends on its company."""
    total = helper.make_tensor_value_info("m", TensorProto.INT64, ["N"])
    nodes = [
        helper.make_node("Div", ["x", "d"], ["y"]),
        helper.make_node("ReduceSum", ["d"], ["sum"], keepdims=1),
        helper.make_node("Sub", ["x", "x"], ["zero"]),
        helper.make_node("Add", ["zero", "sum"], ["m"]),
    ]
    inputs = [models.integers("x"), models.integers("d")]
    return models.saved(path, nodes, inputs, [models.integers("y"), total])


def looping(path):
    """Loops d² times: 2³¹ − 1 never ends."""
    body = helper.make_graph(
        [helper.make_node("Identity", [a], [b]) for a, b in (("c", "c2"), ("v", "v2"))],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.INT64, None),
        ],
        [
            helper.make_tensor_value_info("c2", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v2", TensorProto.INT64, None),
        ],
    )
    nodes = [
        helper.make_node("ReduceMax", ["d"], ["top"], keepdims=0),
        helper.make_node("Mul", ["top", "top"], ["times"]),
        helper.make_node("Loop", ["times", "", "x"], ["y"], body=body),
    ]
    inputs = [models.integers("x"), models.integers("d")]
    return models.saved(path, nodes, inputs, [models.integers("y")])


@pytest.fixture
def patient(monkeypatch):
    """However busy the machine is, a child that spins gets its time."""
    monkeypatch.setattr(deadlines, "PATIENCE", 100.0)


HANG = (5, 2**31 - 1)


def collected(leg, *batches):
    for batch in batches:
        leg.submit(batch, trace=False)
    return [leg.collect() for _ in batches]


@pytest.mark.parametrize("bad", [models.CRASH, models.ERROR])
def test_the_rest_of_a_batch_keeps_its_composition(tmp_path, bad):
    with models.leg_on(mean_division(tmp_path / "m.onnx")) as leg:
        whole, found = collected(
            leg, models.batch_with(64, {}), models.batch_with(64, {9: bad, 40: bad})
        )
        assert leg.counters().refilled == 1
    good = np.delete(np.arange(64), [9, 40])
    assert np.array_equal(found.outputs["y"][good], whole.outputs["y"][good])
    assert np.array_equal(found.outputs["m"][good], whole.outputs["m"][good])
    assert found.outputs["m"][0] == 64


def test_poison_of_several_rows_is_replaced_by_as_many(tmp_path):
    d = [1, 1, 1, 0, 1, 0]
    with models.leg_on(mean_division(tmp_path / "m.onnx")) as leg:
        (found,) = collected(leg, models.batch_of([1, 2, 3, 4, 5, 6], d, rows=[1, 2, 3]))
    assert found.outcome.tolist() == [Outcome.OK, Outcome.OK, Outcome.ERROR]
    assert found.outputs["m"][:3].tolist() == [6, 6, 6]
    assert np.isnan(found.latency_s).tolist() == [False, False, True]


def test_poison_is_kept_with_its_inputs_once(tmp_path):
    x, d = [10, 12, -(2**63), 14, 16], [1, 1, -1, 1, 1]
    with models.leg_on(models.division(tmp_path / "m.onnx")) as leg:
        collected(leg, models.batch_of(x, d, rows=[2, 0, 2, 1]))
        (kept,) = leg.take_quarantined()
        assert leg.take_quarantined() == []
    assert (kept.leg, kept.request_id, kept.kind, kept.rows) == (
        "candidate", "r2", Outcome.CRASH, 2,
    )  # fmt: skip
    assert {n: a.tolist() for n, a in kept.inputs.items()} == {"x": [-(2**63), 14], "d": [-1, 1]}
    assert "SIGFPE" in kept.message


def test_only_the_first_few_payloads_are_kept(tmp_path):
    batches = [models.batch_with(30, dict.fromkeys(range(15), models.ERROR)) for _ in range(3)]
    with models.leg_on(models.division(tmp_path / "m.onnx")) as leg:
        collected(leg, batches[0])
        first = leg.take_quarantined()
        collected(leg, *batches[1:])
        second = leg.take_quarantined()
        counters = leg.counters()
    assert (len(first), len(second), counters.poison_count) == (15, 5, 45)


def test_a_version_that_hangs_on_everything_ends_after_a_few_deadlines(tmp_path, patient):
    batch = models.batch_with(256, dict.fromkeys(range(256), HANG))
    with models.leg_on(looping(tmp_path / "m.onnx"), deadline_s=0.2) as leg:
        (found,) = collected(leg, batch)
        assert leg.ended == "3 requests in a row got no answer, each by itself"
        assert leg.counters().restarts == 3
    assert sorted(np.flatnonzero(found.outcome == Outcome.TIMEOUT)) == [0, 127, 255]
    assert (found.outcome == Outcome.NOT_RUN).sum() == 253


def test_requests_that_hang_in_batches_of_their_own_reach_the_cap(tmp_path, patient):
    batch = models.batch_with(32, dict.fromkeys(range(32), HANG))
    with models.leg_on(looping(tmp_path / "m.onnx"), deadline_s=0.2) as leg:
        leg.singly = True
        asked = asked_by(leg)
        asked.submit(batch, trace=False)
        found = asked.collect()
        assert leg.ended == "3 requests in a row got no answer, each by itself"
    assert (found.outcome == Outcome.TIMEOUT).sum() == 3
    assert (found.outcome == Outcome.NOT_RUN).sum() == 29


def test_hangs_with_answers_in_between_are_not_in_a_row(tmp_path, patient):
    batch = models.batch_with(8, dict.fromkeys((0, 2, 4, 6), HANG))
    with models.leg_on(looping(tmp_path / "m.onnx"), deadline_s=0.2) as leg:
        leg.singly = True
        asked = asked_by(leg)
        asked.submit(batch, trace=False)
        found = asked.collect()
        assert leg.ended == ""
    assert np.flatnonzero(found.outcome).tolist() == [0, 2, 4, 6]


def test_single_requests_that_die_reach_the_cap(tmp_path):
    caps = LegCaps(max_quarantined=4)
    batch = models.batch_with(12, dict.fromkeys(range(12), models.CRASH))
    with models.leg_on(models.division(tmp_path / "m.onnx"), caps=caps) as leg:
        leg.singly = True
        asked = asked_by(leg)
        asked.submit(batch, trace=False)
        found = asked.collect()
        assert leg.ended == "4 requests ended its process, each by itself"
    assert (found.outcome == Outcome.CRASH).sum() == 4


def test_a_hang_in_the_first_batch_is_found_when_others_answer(tmp_path, patient):
    with models.leg_on(looping(tmp_path / "m.onnx"), deadline_s=0.2) as leg:
        (found,) = collected(leg, models.batch_with(8, {0: HANG, 5: HANG}))
        assert leg.ended == ""
    assert np.flatnonzero(found.outcome).tolist() == [0, 5]
    assert set(found.outcome[[0, 5]].tolist()) == {Outcome.TIMEOUT}


def test_a_version_that_dies_on_everything_ends_after_as_many_requests_as_it_may_cost(tmp_path):
    caps = LegCaps(max_quarantined=4)
    batch = models.batch_with(32, dict.fromkeys(range(32), models.CRASH))
    with models.leg_on(models.division(tmp_path / "m.onnx"), caps=caps) as leg:
        (found,) = collected(leg, batch)
        assert leg.ended == "4 requests ended its process, each by itself"
        assert leg.counters().poison == ("r0", "r1", "r2", "r3")
    assert (found.outcome == Outcome.CRASH).sum() == 4
    assert (found.outcome == Outcome.NOT_RUN).sum() == 28


class Starving:
    """Sandboxes whose first tries end because the host gave them no processor."""

    def __init__(self, opener, times: int) -> None:
        self.opener, self.times = opener, times

    def __call__(self):
        sandbox = self.opener()
        starving = self

        class Starved(Sandbox):
            def collect(self, timeout_s=None):
                if starving.times <= 0:
                    return super().collect(timeout_s)
                starving.times -= 1
                self.close()
                return BatchFault(
                    seq=0, kind=Outcome.TIMEOUT, message="no answer", alive=False,
                    cause=Cause.HOST_STARVED,
                )  # fmt: skip

        sandbox.__class__ = Starved
        return sandbox


def test_a_starved_batch_is_tried_again_and_blames_nobody(tmp_path):
    opener = Starving(models.Opener(models.division(tmp_path / "m.onnx")), 3)
    with Leg(opener, name="candidate") as leg:
        (found,) = collected(leg, models.batch_with(8, {}))
        counters = leg.counters()
    assert found.outcome.tolist() == [Outcome.OK] * 8
    assert (counters.host_starved, counters.flaky, counters.poison_count) == (3, 0, 0)


def test_a_host_that_never_gives_a_processor_ends_the_leg_without_a_verdict(tmp_path):
    opener = Starving(models.Opener(models.division(tmp_path / "m.onnx")), 1000)
    with Leg(opener, name="candidate") as leg:
        found = collected(leg, models.batch_with(8, {}), models.batch_with(8, {}))
        assert leg.ended == "the host gave its process no processor"
        assert leg.counters().host_starved == 4
    assert [set(o.outcome.tolist()) for o in found] == [{Outcome.NOT_RUN}] * 2


def test_a_request_that_needs_too_much_memory_is_counted_as_such(tmp_path):
    nodes = [
        helper.make_node("ReduceMax", ["d"], ["size"], keepdims=1),
        helper.make_node("ConstantOfShape", ["size"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Add", ["x", "whole"], ["y"]),
    ]
    inputs = [models.integers("x"), models.integers("d")]
    model = models.saved(tmp_path / "m.onnx", nodes, inputs, [models.integers("y")])
    with models.leg_on(model) as leg:
        (found,) = collected(leg, models.batch_with(16, {3: (0, 50 << 28)}))
        counters = leg.counters()
        (kept,) = leg.take_quarantined()
    assert np.flatnonzero(found.outcome).tolist() == [3]
    assert (counters.memory_limit, kept.cause) == (1, Cause.MEMORY_LIMIT)


@pytest.mark.parametrize(
    ("times", "flaky", "together"),
    [(0, 0, []), (1, 1, []), (2, 0, ["64 requests from r0 on (replay)"])],
)
def test_a_batch_that_fails_though_its_parts_pass_is_asked_once_more(
    tmp_path, monkeypatch, times, flaky, together
):
    left, collect = [times], Sandbox.collect

    def refusing(self, *rest):
        rows = self._asked[0].rows
        found = collect(self, *rest)
        if rows != 64 or not left[0]:
            return found
        left[0] -= 1
        return BatchFault(seq=found.seq, kind=Outcome.ERROR, message="no", alive=True)

    monkeypatch.setattr(Sandbox, "collect", refusing)
    with models.leg_on(mean_division(tmp_path / "m.onnx")) as leg:
        (found,) = collected(leg, models.batch_with(64, {}))
        counters = leg.counters()
    assert (found.outcome == Outcome.OK).all()
    assert (found.outputs["m"][0] == 64) == (not together)
    assert (counters.flaky, counters.assembled) == (flaky, len(together))
    assert leg.ledger.together == together

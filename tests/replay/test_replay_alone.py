"""A leg whose trace session answers alone: what fails is found and answered as without it."""

import legs_models as models
import pytest
from onnx import helper

from harness.core.observations import Outcome
from harness.replay.asked import asked_by
from harness.replay.order import Batch
from harness.replay.pairs import replay_pairs

TRACED = ("twice",)


@pytest.fixture
def shifted(tmp_path):
    """A probed copy of the division whose quotient is one too large: it shows who answered."""
    nodes = [
        helper.make_node("Div", ["x", "d"], ["q"]),
        helper.make_node("Div", ["d", "d"], ["one"]),
        helper.make_node("Add", ["q", "one"], ["y"]),
        helper.make_node("Add", ["x", "x"], ["twice"]),
    ]
    names = [models.integers("x"), models.integers("d")]
    outputs = [models.integers("y"), models.integers("twice")]
    return models.saved(tmp_path / "p.onnx", nodes, names, outputs)


@pytest.fixture
def leg(tmp_path, shifted):
    model = models.division(tmp_path / "m.onnx")
    with models.leg_on(model, trace_model=shifted, trace_tensors=TRACED) as opened:
        yield opened


def answered(leg, *batches):
    asked = asked_by(leg)
    for batch in batches:
        asked.submit(batch, trace=True, alone=True)
    return [asked.collect() for _ in batches]


def test_the_trace_session_answers(leg):
    (found,) = answered(leg, models.batch_with(3, {}))
    assert found.alone
    assert found.outputs["y"].tolist() == [1, 2, 3]
    assert found.features["twice"].tolist() == [0, 2, 4]
    assert found.trace_outputs == {}


@pytest.mark.parametrize("bad", [models.CRASH, models.ERROR])
def test_a_batch_that_fails_is_answered_by_production(leg, bad):
    before, failing, after = answered(
        leg,
        models.batch_with(3, {}),
        models.batch_with(4, {2: bad}, first=10),
        models.batch_with(3, {}, first=20),
    )
    kind = Outcome.CRASH if bad == models.CRASH else Outcome.ERROR
    assert failing.outcome.tolist() == [0, 0, kind, 0]
    good = [0, 1, 3]
    assert not failing.alone
    assert failing.outputs["y"][good].tolist() == [10, 11, 13]
    assert failing.trace_outputs["y"][good].tolist() == [11, 12, 14]
    assert failing.features["twice"][good].tolist() == [20, 22, 26]
    assert leg.counters().poison == ("r12",)
    for found, first in ((before, 0), (after, 20)):
        assert found.alone
        assert found.outputs["y"].tolist() == [first + 1, first + 2, first + 3]


def test_requests_by_themselves_are_answered_alone_too(leg):
    leg.singly = True
    (found,) = answered(leg, models.batch_with(3, {}))
    assert found.alone
    assert found.outputs["y"].tolist() == [1, 2, 3]


def test_batches_say_which_session_answers(tmp_path, shifted, leg):
    requests = models.batch_with(2, {})
    batches = [
        (Batch(index=i, window="newest", order=[], trace=trace, alone=alone), requests)
        for i, (trace, alone) in enumerate([(True, True), (True, False), (False, True)])
    ]
    model = models.division(tmp_path / "n.onnx")
    with models.leg_on(model, trace_model=shifted, trace_tensors=TRACED) as other:
        pairs = [pair for _, pair in replay_pairs(leg, other, batches, trace=True)]
    for side in ("baseline", "candidate"):
        seen = [getattr(pair, side) for pair in pairs]
        assert [o.alone for o in seen] == [True, False, False]
        assert [o.outputs["y"].tolist() for o in seen] == [[1, 2], [0, 1], [0, 1]]

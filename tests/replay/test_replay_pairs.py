"""How many batches are with the versions at a time."""

from collections import deque

import legs_models as models
import pytest

from harness.replay import pairs
from harness.replay.order import Batch


class Asked:
    """A leg that answers in order and notes what it was given."""

    name, singly = "asked", False

    def __init__(self, leg):
        self._leg, self.open, self.most = leg, deque(), 0

    def submit(self, batch, **how):
        self._leg.submit(batch, **how)
        self.open.append(len(batch))
        self.most = max(self.most, len(self.open))

    def collect(self):
        self.open.popleft()
        return self._leg.collect()


@pytest.mark.parametrize(("bound", "most"), [(12, 3), (11, 2), (3, 2)])
def test_fewer_large_batches_are_in_flight_and_never_less_than_two(
    tmp_path, monkeypatch, bound, most
):
    monkeypatch.setattr(pairs, "_MOST_REQUESTS", bound)
    model = models.division(tmp_path / "n.onnx")
    todo = [(Batch(index=i, window="newest", order=[]), models.batch_with(4, {})) for i in range(6)]
    with models.leg_on(model) as old, models.leg_on(model) as new:
        seen = Asked(old)
        found = [b.index for b, _ in pairs.replay_pairs(seen, new, todo, trace=False)]
    assert found == [0, 1, 2, 3, 4, 5]
    assert seen.most == most

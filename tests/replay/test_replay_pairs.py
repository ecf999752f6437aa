"""How many batches are with the versions at a time."""

import tracemalloc
from collections import deque
from dataclasses import replace

import legs_models as models
import numpy as np
import pytest
from onnx import TensorProto, helper

from harness.core.tensors import CodedText, Decoded
from harness.replay import pairs
from harness.replay.composition import rows_of
from harness.replay.order import Batch


class Asked:
    """A leg that answers in order and notes what it was given."""

    name, singly = "asked", False

    def __init__(self, leg):
        self._leg, self.open, self.most = leg, deque(), 0

    @property
    def answered(self):
        return self._leg.answered

    def parts(self, batch):
        return self._leg.parts(batch)

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


WIDE = 4000


def with_wide_feature(path):
    """As a probed copy: also returns a feature of WIDE numbers a row."""
    nodes = [
        helper.make_node("Div", ["x", "d"], ["y"]),
        helper.make_node("Cast", ["x"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["number", "axis"], ["column"]),
        helper.make_node("Expand", ["column", "shape"], ["wide"]),
    ]
    wide = helper.make_tensor_value_info("wide", TensorProto.FLOAT, ["N", WIDE])
    constants = {"axis": np.array([1]), "shape": np.array([1, WIDE])}
    return models.saved(
        path, nodes, [models.integers("x"), models.integers("d")],
        [models.integers("y"), wide], constants,
    )  # fmt: skip


def peak_of_heavy_answers(tmp_path, requests, count):
    """(most bytes that the parent held, bytes of one answer, most batches in flight, once it is known how heavy they are)."""
    options = {
        "trace_model": with_wide_feature(tmp_path / "t.onnx"), "trace_tensors": ["wide"],
        "deadline_s": 60.0,
    }  # fmt: skip
    model = models.division(tmp_path / "n.onnx")
    todo = (
        (
            Batch(index=i, window="newest", order=np.arange(requests)),
            models.batch_with(requests, {}),
        )
        for i in range(count)
    )
    with models.leg_on(model, **options) as old, models.leg_on(model, **options) as new:
        seen = Asked(old)
        tracemalloc.start()
        for batch, pair in pairs.replay_pairs(seen, new, todo, trace=True):
            if batch.index == 2:
                seen.most = 0
            assert pair.baseline.features["wide"].shape == (requests, WIDE)
            del pair
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak, requests * WIDE * 4, seen.most


def test_heavy_answers_are_in_memory_once_for_each_version(tmp_path):
    peak, answer, _ = peak_of_heavy_answers(tmp_path, 2000, 5)
    assert 2 * answer <= peak < 2.3 * answer


@pytest.mark.parametrize(("bound", "most"), [(1 << 40, 3), (1 << 20, 1)])
def test_heavy_answers_are_awaited_before_the_next_batch_is_given(
    tmp_path, monkeypatch, bound, most
):
    monkeypatch.setattr(pairs, "_MOST_BYTES", bound)
    assert peak_of_heavy_answers(tmp_path, 100, 6)[2] == most


def test_a_bulk_request_has_as_much_room_as_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "_MOST_BYTES", 250 * 2 * WIDE * 4)  # 250 rows of both versions
    some, rows = models.batch_with(100, {}), models.batch_with(200, {})
    bulk = replace(
        rows, seq=rows.seq[:1], request_id=rows.request_id[:1], ts_ns=rows.ts_ns[:1],
        rows=np.array([200]), answered=rows.answered[:1],
    )  # fmt: skip
    trace = {"trace_model": with_wide_feature(tmp_path / "t.onnx"), "trace_tensors": ["wide"]}
    with models.leg_on(models.division(tmp_path / "n.onnx"), **trace) as leg:
        assert leg.tried(some, trace=True) is not None
        waiting = [
            [pairs._Waiting.of(Batch(index=0, window="newest", order=np.arange(len(b))), b)]
            for b in (some, bulk)
        ]
        assert [pairs._room(w, (leg, leg)) for w in waiting] == [True, False]


def test_what_inputs_take_is_known_before_their_text_is_made():
    coded = CodedText(codes=np.array([0, 1, 0], np.int32), words=np.array(["a", "bc"], object))
    inputs = Decoded({"word": coded, "x": np.zeros((3, 2), np.float32)})
    batch = models.batch_with(3, {})
    batch = replace(batch, inputs=inputs, coded={"word": coded})
    weighed = batch.input_bytes()
    assert not inputs._texts
    assert weighed == sum(array.nbytes for array in inputs.values())


def test_requests_cut_out_of_a_batch_are_the_same_and_no_text_is_made_for_them():
    coded = CodedText(codes=np.array([0, 1, 0, 1], np.int32), words=np.array(["a", "bc"], object))
    inputs = Decoded({"word": coded, "x": np.arange(8.0).reshape(4, 2)})
    batch = replace(
        models.batch_with(4, {}), inputs=inputs, coded={"word": coded},
        context=Decoded({"carrier": coded}), coded_context={"carrier": coded},
    )  # fmt: skip
    part = rows_of(batch, 1, 3)
    assert not inputs._texts
    assert {n: t.tolist() for n, t in part.inputs.items()} == {
        "word": ["bc", "a"], "x": [[2.0, 3.0], [4.0, 5.0]]
    }  # fmt: skip
    assert part.context["carrier"].tolist() == ["bc", "a"]
    assert part.coded["word"].codes.tolist() == [1, 0]
    assert part.seq.tolist() == batch.seq[1:3].tolist()

"""Batches grow only where both versions show that it changes no bit."""

import dataclasses

import numpy as np
import pytest
from onnx import TensorProto, helper

from harness.core.policies import SandboxPolicy
from harness.core.traffic import RequestBatch
from harness.pipeline import batching as batching_module
from harness.pipeline import room
from harness.pipeline.batching import largest_batch
from harness.pipeline.tracing import FIRST_TRACED
from harness.replay.legs import Leg
from harness.replay.order import GROWS_AFTER, schedule
from harness.sandbox.process import Sandbox
from harness.store.runs import RunFolder

USUAL = 1024
N = GROWS_AFTER + 10_000


def saved(path, nodes):
    def tensor(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"])

    graph = helper.make_graph(nodes, "g", [tensor("x")], [tensor("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    model.ir_version = 8
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def plain(tmp_path):
    return saved(tmp_path / "plain.onnx", [helper.make_node("Sigmoid", ["x"], ["y"])])


@pytest.fixture
def centred(tmp_path):
    """Subtracts the batch's mean: an answer that depends on its company."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    return saved(tmp_path / "centred.onnx", nodes)


def read(positions):
    n = len(positions)
    return RequestBatch(
        seq=positions,
        request_id=positions.astype(str).astype(object),
        ts_ns=np.zeros(n, np.int64),
        rows=np.ones(n, np.int64),
        inputs={"x": np.sin(positions).astype(np.float32)},
        recorded={},
        answered=np.ones(n, np.bool_),
        context={},
    )


def found(tmp_path, baseline, candidate, *, n=N, size=read, floor=((0, 256),), pause_s=0.0, **more):
    batches = schedule([("newest", np.arange(n))], USUAL)
    limits = SandboxPolicy(require="S0")
    with RunFolder.create(tmp_path / "run") as run:
        legs = [
            Leg(lambda m=model, name=name: Sandbox.start(m, name=name, limits=limits), name=name)
            for name, model in (("baseline", baseline), ("candidate", candidate))
        ]
        for leg in legs:  # as the floor does before
            for start, stop in floor:
                leg.tried(size(np.arange(start, stop)))
            leg.answered.seconds += pause_s
        first = largest_batch(run, legs, batches, size, USUAL, **more)
        for leg in legs:
            leg.close()
        # Ended legs could not measure again: the answer is the run's.
        assert largest_batch(run, legs, batches, size, USUAL, **more) == first
    return first


def test_a_model_whose_rows_do_not_meet_gets_large_batches(tmp_path, plain):
    batching = found(tmp_path, plain, plain)
    assert batching.requests == room.LARGEST
    batches = schedule([("newest", np.arange(N))], USUAL, batching.requests)
    assert max(len(b.positions) for b in batches) > USUAL


@pytest.mark.parametrize("side", ["baseline", "candidate"])
def test_a_version_that_depends_on_the_batch_keeps_the_usual_ones(tmp_path, plain, centred, side):
    models = (centred, plain) if side == "baseline" else (plain, centred)
    batching = found(tmp_path, *models)
    assert batching.requests == USUAL
    assert f"the {side} answers otherwise" in batching.why


def test_a_short_window_is_not_asked(tmp_path, plain):
    batching = found(tmp_path, plain, plain, n=GROWS_AFTER)
    assert (batching.requests, batching.why) == (USUAL, "too few requests for larger batches")


@pytest.mark.parametrize("all_traced", [True, False])
def test_a_pause_of_the_machine_changes_nothing_where_all_features_are_judged(
    tmp_path, plain, all_traced
):
    batching = found(tmp_path, plain, plain, n=GROWS_AFTER, pause_s=3.0, all_traced=all_traced)
    assert (batching.traced == FIRST_TRACED) is all_traced


def test_heavy_requests_are_not_taken_by_the_thousand(tmp_path, plain):
    def heavy(positions):
        requests = read(positions)
        requests.inputs["picture"] = np.zeros((len(positions), 2048), np.float32)
        return requests

    assert found(tmp_path, plain, plain, size=heavy).requests == USUAL


def wide(path, numbers):
    """Answers with so many numbers a request beside."""
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["y"]),
        helper.make_node("Constant", [], ["axis"], value_ints=[1]),
        helper.make_node("Constant", [], ["shape"], value_ints=[1, numbers]),
        helper.make_node("Unsqueeze", ["x", "axis"], ["column"]),
        helper.make_node("Expand", ["column", "shape"], ["wide"]),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N"]) for n in "xy")
    more = helper.make_tensor_value_info("wide", TensorProto.FLOAT, ["N", numbers])
    graph = helper.make_graph(nodes, "g", [x], [y, more])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    model.ir_version = 8
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("limit", "requests"), [(1 << 40, room.LARGEST), (16 << 20, 2048), (1 << 20, 130), (1, 1)]
)
def test_batches_are_as_large_as_both_versions_answers_may_be(
    tmp_path, plain, monkeypatch, limit, requests
):
    monkeypatch.setattr(room, "MOST_ANSWERED", limit)
    monkeypatch.setattr(batching_module, "_LONGEST_S", 60.0)  # what is heavy may be slow here, too
    batching = found(tmp_path, plain, wide(tmp_path / "wide.onnx", 1000))
    assert batching.requests == requests
    if requests < USUAL:
        assert "the answers to a request have 4,004 bytes in the mean" in batching.why


def read_with_a_bulk_request(positions):
    """The very first request has 5,000 rows, every other one."""
    rows = np.where(positions == 0, 5000, 1)
    requests = read(positions)
    column = np.repeat(np.sin(positions), rows).astype(np.float32)
    return dataclasses.replace(requests, rows=rows, inputs={"x": column})


@pytest.mark.parametrize(
    "floor", [((1, 20_001),), ((0, 1), (1, 20_000)), ((0, 341), (341, 20_000))]
)
def test_one_bulk_request_makes_no_other_batches_small(tmp_path, plain, monkeypatch, floor):
    monkeypatch.setattr(room, "MOST_ANSWERED", 1 << 20)
    heavy = wide(tmp_path / "wide.onnx", 50)  # 204 bytes a row: 2,570 requests of two versions
    monkeypatch.setattr(batching_module, "_LONGEST_S", 60.0)
    batching = found(tmp_path, plain, heavy, size=read_with_a_bulk_request, floor=floor)
    assert batching.requests == 2048

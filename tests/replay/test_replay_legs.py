import contextlib
import itertools
import threading
from dataclasses import replace

import legs_models as models
import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper

from harness.core.errors import GateError, SignatureError
from harness.core.observations import Observations, Outcome
from harness.replay.answered import Answered
from harness.replay.leg_counters import LegCaps
from harness.replay.legs import Leg
from harness.replay.trials import FIRST_AHEAD
from harness.sandbox import deadlines
from harness.sandbox.hello import LoadFailure
from harness.sandbox.process import Sandbox


def replayed(leg: Leg, *batches, trace: bool = False) -> list[Observations]:
    """Three in flight, as a run does it."""
    observations, waiting = [], 0
    for batch in batches:
        leg.submit(batch, trace=trace)
        waiting += 1
        if waiting == 3:
            observations.append(leg.collect())
            waiting -= 1
    return observations + [leg.collect() for _ in range(waiting)]


def failed(observations: Observations) -> dict[int, Outcome]:
    return {
        int(i): Outcome(int(observations.outcome[i])) for i in np.flatnonzero(observations.outcome)
    }


def test_answers_come_in_order_with_their_share_of_the_time(tmp_path):
    with models.leg_on(models.division(tmp_path / "m.onnx")) as leg:
        found = replayed(leg, *(models.batch_with(10, {}, first=10 * i) for i in range(5)))
        assert leg.counters().batches == 5
    assert [o.outputs["y"].tolist() for o in found] == [
        list(range(10 * i, 10 * i + 10)) for i in range(5)
    ]
    assert all((o.latency_s > 0).all() and failed(o) == {} for o in found)


def test_requests_of_several_rows_and_of_none_share_the_time_by_rows(tmp_path):
    with models.leg_on(models.division(tmp_path / "m.onnx")) as leg:
        (found,) = replayed(leg, models.batch_of([8, 6, 4], [2, 2, 2], rows=[2, 0, 1]))
    assert found.outputs["y"].tolist() == [4, 3, 2]
    assert found.outcome.tolist() == [0, 0, 0]
    assert found.latency_s[1] == 0
    assert found.latency_s[0] == pytest.approx(2 * found.latency_s[2])


def test_a_batch_without_requests_works(tmp_path):
    with models.leg_on(models.division(tmp_path / "m.onnx")) as leg:
        (found,) = replayed(leg, models.batch_of([], []))
    assert (found.outcome.shape, found.outputs["y"].shape) == ((0,), (0,))


@pytest.mark.parametrize(
    ("bad", "outcome"), [(models.CRASH, Outcome.CRASH), (models.ERROR, Outcome.ERROR)]
)
def test_poison_in_1024_is_found_exactly(tmp_path, bad, outcome):
    rng = np.random.default_rng(11)
    where = sorted(int(i) for i in rng.choice(1024, 3, replace=False))
    with models.leg_on(models.division(tmp_path / "m.onnx")) as leg:
        (found,) = replayed(leg, models.batch_with(1024, dict.fromkeys(where, bad)))
        counters = leg.counters()
        assert leg.ended == ""
    assert failed(found) == dict.fromkeys(where, outcome)
    good = np.setdiff1d(np.arange(1024), where)
    assert np.array_equal(found.outputs["y"][good], good)
    assert [i for i, _ in found.messages] == where
    assert counters.poison == tuple(f"r{i}" for i in where)
    assert (counters.poison_count, counters.refilled, counters.assembled) == (3, 1, 0)
    assert (counters.restarts > 0) == (outcome is Outcome.CRASH)


def test_batches_behind_a_fatal_one_are_sent_again(tmp_path):
    batches = [
        models.batch_with(20, {3: models.CRASH} if i in (1, 2) else {}, first=20 * i)
        for i in range(5)
    ]
    with models.leg_on(models.division(tmp_path / "m.onnx")) as leg:
        found = replayed(leg, *batches)
    assert [failed(o) for o in found] == [{}, {3: Outcome.CRASH}, {3: Outcome.CRASH}, {}, {}]
    for i, observations in enumerate(found):
        good = observations.outcome == Outcome.OK
        assert np.array_equal(observations.outputs["y"][good], np.arange(20 * i, 20 * i + 20)[good])


def test_batches_behind_one_that_raises_keep_their_answers(tmp_path):
    batches = [
        models.batch_with(20, {5: bad}, first=20 * i)
        for i, bad in enumerate([models.ERROR, models.CRASH, models.ERROR])
    ]
    with models.leg_on(models.division(tmp_path / "m.onnx")) as leg:
        found = replayed(leg, *batches, models.batch_with(3, {}, first=60))
    kinds = [Outcome.ERROR, Outcome.CRASH, Outcome.ERROR]
    assert [failed(o) for o in found] == [*({5: k} for k in kinds), {}]
    assert found[3].outputs["y"].tolist() == [60, 61, 62]


def test_poison_among_requests_of_several_rows_takes_only_its_own(tmp_path):
    x, d = [10, 12, -(2**63), 14, 16], [1, 1, -1, 1, 1]
    with models.leg_on(models.division(tmp_path / "m.onnx")) as leg:
        (found,) = replayed(leg, models.batch_of(x, d, rows=[2, 0, 2, 1]))
    assert failed(found) == {2: Outcome.CRASH}
    assert found.outputs["y"][[0, 1, 4]].tolist() == [10, 12, 16]
    assert np.isnan(found.latency_s).tolist() == [False, False, True, False]


def test_a_batch_of_nothing_but_poison_has_filler_of_the_declared_shape(tmp_path):
    with models.leg_on(models.division(tmp_path / "m.onnx")) as leg:
        (found,) = replayed(leg, models.batch_with(3, dict.fromkeys(range(3), models.ERROR)))
    assert found.outcome.tolist() == [Outcome.ERROR] * 3
    assert (found.outputs["y"].dtype, found.outputs["y"].shape) == (np.dtype(np.int64), (3,))


def test_a_hang_is_a_timeout_of_its_request_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(deadlines, "PATIENCE", 100.0)  # however busy the machine is
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
        helper.make_node("Cast", ["top"], ["wide"], to=TensorProto.INT64),
        helper.make_node("Mul", ["wide", "wide"], ["times"]),
        helper.make_node("Loop", ["times", "", "x"], ["y"], body=body),
    ]
    inputs = [models.integers("x"), models.integers("d")]
    model = models.saved(tmp_path / "m.onnx", nodes, inputs, [models.integers("y")])
    with models.leg_on(model, deadline_s=0.4) as leg:
        warm, found = replayed(
            leg, models.batch_with(64, {}), models.batch_with(64, {37: (5, 2**31 - 1)})
        )
    assert failed(warm) == {}
    assert failed(found) == {37: Outcome.TIMEOUT}


class Crashing:
    """A sandbox whose process is killed by somebody else, once, while it works."""

    def __init__(self, opener: models.Opener) -> None:
        self.opener = opener

    def __call__(self) -> Sandbox | LoadFailure:
        sandbox = self.opener()
        if self.opener.started == 1 and isinstance(sandbox, Sandbox):
            process = psutil.Process(sandbox.pid)
            process.suspend()
            threading.Timer(0.1, process.kill).start()
        return sandbox


def test_what_passes_the_second_time_is_flaky(tmp_path):
    opener = Crashing(models.Opener(models.division(tmp_path / "m.onnx")))
    with Leg(opener, name="candidate") as leg:
        kept = []
        leg.ledger.noted = lambda: kept.append(leg.counters().flaky)
        first, second = replayed(leg, models.batch_with(5, {}), models.batch_with(5, {}))
        counters = leg.counters()
    assert failed(first) == failed(second) == {}
    assert (counters.retries, counters.flaky, counters.restarts) == (1, 1, 1)
    assert counters.poison == ()
    # At once: a kill before the next checkpoint forgets nothing.
    assert kept == [1]


def test_a_trial_that_passes_the_second_time_is_flaky_and_no_answer(tmp_path):
    opener = Crashing(models.Opener(models.division(tmp_path / "m.onnx")))
    with Leg(opener, name="candidate") as leg:
        assert leg.tried(models.batch_with(5, {})) is None
        assert leg.counters().flaky == 1
        assert leg.tried(models.batch_with(5, {})) is not None


def test_a_trial_of_poison_quarantines_nothing_and_touches_no_cap(tmp_path):
    caps = LegCaps(max_quarantined=1)
    with models.leg_on(models.division(tmp_path / "m.onnx"), caps=caps) as leg:
        for _ in range(3):
            assert leg.tried(models.batch_with(8, {5: models.CRASH})) is None
        counters = leg.counters()
        assert (counters.poison_count, counters.flaky, leg.ended) == (0, 0, "")
        assert leg.take_quarantined() == []
        (found,) = replayed(leg, models.batch_with(8, {}))
    assert failed(found) == {}


def test_each_of_many_trials_gets_what_it_gets_by_itself(tmp_path):
    bad = {3: models.CRASH, 9: models.ERROR, 20: models.CRASH}
    batches = [models.batch_with(1, {0: bad[i]} if i in bad else {}, first=i) for i in range(40)]
    with models.leg_on(models.division(tmp_path / "m.onnx")) as leg:
        each = list(leg.tried_each(batches))
        counters = leg.counters()
    assert [i for i, found in enumerate(each) if found is None] == sorted(bad)
    assert [i for i, f in enumerate(each) if f and f.outputs["y"].tolist() != [i]] == []
    assert (counters.poison_count, counters.flaky, counters.restarts) == (0, 0, 4)


def test_trials_that_nobody_waits_for_leave_nothing_in_flight(tmp_path):
    taken = []

    def endless():
        for i in itertools.count():
            taken.append(i)
            yield models.batch_with(1, {}, first=i)

    with models.leg_on(models.division(tmp_path / "m.onnx")) as leg:
        with contextlib.closing(leg.tried_each(endless())) as answers:
            assert next(answers) is not None
        assert len(taken) == FIRST_AHEAD
        assert leg.first.in_flight == 0
        (found,) = replayed(leg, models.batch_with(8, {}))
    assert failed(found) == {}


def test_a_model_that_takes_one_row_at_a_time_is_answered_piece_by_piece(tmp_path):
    one = helper.make_tensor_value_info("x", TensorProto.INT64, [1])
    out = helper.make_tensor_value_info("y", TensorProto.INT64, [1])
    nodes = [helper.make_node("Neg", ["x"], ["y"])]
    with models.leg_on(models.saved(tmp_path / "m.onnx", nodes, [one], [out])) as leg:
        (found,) = replayed(leg, models.batch_with(8, {}))
        counters = leg.counters()
    assert failed(found) == {}
    assert found.outputs["y"].tolist() == [-i for i in range(8)]
    assert (counters.assembled, counters.poison_count) == (1, 0)


def test_the_restart_cap_ends_the_leg_and_the_rest_is_not_run(tmp_path):
    bad = dict.fromkeys(range(0, 64, 2), models.CRASH)
    batches = [models.batch_with(64, bad), models.batch_with(4, {}), models.batch_with(4, {})]
    caps = LegCaps(max_restarts=5)
    with models.leg_on(models.division(tmp_path / "m.onnx"), caps=caps) as leg:
        found = replayed(leg, *batches, models.batch_with(4, {}))
        counters = leg.counters()
        assert leg.ended == "its process had to be restarted 5 times"
    assert counters.restarts == 5
    assert set(found[0].outcome.tolist()) <= {Outcome.OK, Outcome.CRASH, Outcome.NOT_RUN}
    assert Outcome.NOT_RUN in found[0].outcome
    assert [o.outcome.tolist() for o in found[1:]] == [[Outcome.NOT_RUN] * 4] * 3
    assert found[1].outputs["y"].shape == (4,)


def test_the_time_cap_ends_the_leg(tmp_path):
    caps = LegCaps(max_fault_s=0.0)
    with models.leg_on(models.division(tmp_path / "m.onnx"), caps=caps) as leg:
        (found,) = replayed(leg, models.batch_with(4, {1: models.CRASH}))
        assert "more than 0 s" in leg.ended
    assert found.outcome.tolist() == [Outcome.NOT_RUN] * 4


def test_a_version_that_does_not_load_runs_nothing(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no model")
    with models.leg_on(path) as leg:
        (found,) = replayed(leg, models.batch_with(4, {}))
        assert leg.load_failure is not None
        assert leg.load_failure.kind == "load"
        assert leg.ended.startswith("does not load")
    assert found.outcome.tolist() == [Outcome.NOT_RUN] * 4


def test_an_input_that_is_called_otherwise_is_mapped(tmp_path):
    opener = models.Opener(models.division(tmp_path / "m.onnx", x="numerator"))
    with Leg(opener, name="candidate", input_names=[("x", "numerator")]) as leg:
        (found,) = replayed(leg, models.batch_with(3, {}))
    assert found.outputs["y"].tolist() == [0, 1, 2]


def test_a_missing_input_is_refused_with_the_mapping_that_would_help(tmp_path):
    opener = models.Opener(models.division(tmp_path / "m.onnx", x="xx"))
    with (
        Leg(opener, name="candidate") as leg,
        pytest.raises(SignatureError, match=r"xx INT64\[\?\].*no input 'xx'.*mapping\.inputs"),
    ):
        leg.submit(models.batch_with(3, {}), trace=False)


def test_a_trace_returns_features_and_its_own_outputs(tmp_path):
    model = models.division(tmp_path / "m.onnx")
    probed = models.doubled_division(tmp_path / "probed.onnx")
    options = {"trace_model": probed, "trace_tensors": ("twice",)}
    with models.leg_on(model, **options) as leg:
        (found,) = replayed(leg, models.batch_with(4, {2: models.CRASH}), trace=True)
    good = [0, 1, 3]
    assert failed(found) == {2: Outcome.CRASH}
    assert found.features["twice"][good].tolist() == [0, 2, 6]
    assert found.trace_outputs["y"][good].tolist() == good


def test_a_trace_that_kills_the_process_does_not_blame_the_version(tmp_path):
    model = models.saved(
        tmp_path / "m.onnx",
        [helper.make_node("Neg", ["x"], ["y"])],
        [models.integers("x"), models.integers("d")],
        [models.integers("y")],
    )
    probed = models.saved(
        tmp_path / "probed.onnx",
        [helper.make_node("Neg", ["x"], ["y"]), helper.make_node("Div", ["x", "d"], ["t"])],
        [models.integers("x"), models.integers("d")],
        [models.integers("y"), models.integers("t")],
    )
    with models.leg_on(model, trace_model=probed, trace_tensors=("t",)) as leg:
        (found,) = replayed(leg, models.batch_with(4, {2: models.CRASH}), trace=True)
        counters = leg.counters()
    assert failed(found) == {}
    assert found.features == {}
    assert (counters.trace_faults, counters.poison_count) == (1, 0)


def test_zipmap_classes_stay_when_a_batch_has_no_answer(tmp_path):
    maps = helper.make_map_type_proto(
        TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    )
    model = models.saved(
        tmp_path / "m.onnx",
        [
            helper.make_node("Div", ["x", "d"], ["q"]),
            helper.make_node("Cast", ["q"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["f", "axis"], ["column"]),
            helper.make_node("Concat", ["column", "column"], ["m"], axis=1),
            helper.make_node(
                "ZipMap", ["m"], ["p"], domain="ai.onnx.ml", classlabels_strings=["a", "b"]
            ),
        ],
        [models.integers("x"), models.integers("d")],
        [helper.make_value_info("p", helper.make_sequence_type_proto(maps))],
        constants={"axis": np.array([1])},
    )
    batches = [
        models.batch_with(2, {}),
        models.batch_of([], []),
        models.batch_with(2, {1: models.ERROR}),
        models.batch_with(1, {0: models.ERROR}),
    ]
    with models.leg_on(model) as leg:
        found = replayed(leg, *batches)
    assert [o.keys for o in found] == [{"p": ("a", "b")}] * 4
    assert [o.outputs["p"].shape for o in found] == [(2, 2), (0, 2), (2, 2), (1, 2)]
    assert found[2].outputs["p"][0].tolist() == [0, 0]


def test_collecting_nothing_is_the_gates_error(tmp_path):
    with (
        models.leg_on(models.division(tmp_path / "m.onnx")) as leg,
        pytest.raises(GateError, match="no batch is in flight"),
    ):
        leg.collect()


def test_a_leg_leaves_no_process_behind(tmp_path):
    with models.leg_on(models.division(tmp_path / "m.onnx")) as leg:
        others = {p.pid for p in psutil.Process().children()} - {leg.first.pid}
        for batch in itertools.repeat(models.batch_with(8, {3: models.CRASH}), 2):
            leg.submit(batch, trace=False)
        leg.collect()
    assert {p.pid for p in psutil.Process().children()} == others


@pytest.mark.parametrize("words", [["a" * 5000] * 200, [f"{i:05000d}" for i in range(200)]])
def test_text_weighs_its_length(tmp_path, words):
    spec = helper.make_tensor_value_info("x", TensorProto.STRING, ["N"])
    out = helper.make_tensor_value_info("y", TensorProto.STRING, ["N"])
    node = helper.make_node("Identity", ["x"], ["y"])
    path = models.saved(tmp_path / "m.onnx", [node], [spec], [out])
    few = models.batch_of(range(len(words)), range(len(words)))
    batch = replace(few, inputs={"x": np.array(words, object)})
    with models.leg_on(path) as leg:
        answer = leg.tried(batch)
        by_transport = leg.answered.bytes_a_row
        leg.answered = Answered()
        leg.answered.weigh(answer, 200, 200, trace=False)
    apart = 5000 if len(set(words)) > 1 else 25
    assert apart <= by_transport < apart + 100
    assert 5000 <= leg.answered.bytes_a_row < 5100

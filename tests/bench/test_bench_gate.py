"""What the gate's benchmark is made of: its window, its models, its clock, and the whole of it."""

import sys
import time
from dataclasses import replace
from types import ModuleType

import numpy as np
import onnxruntime
import pytest

from harness.bench import gate as gate_bench
from harness.bench.gate import bench_gate
from harness.bench.gate_models import WEIGHTS, write_model
from harness.bench.gate_took import Took, clock_ratio, middle, other_work, processor_ratio
from harness.bench.repeated import write_repeated
from harness.bench.sections import REST, Sections
from harness.pipeline.assets import assets_root
from harness.store.tables import open_traffic
from harness.store.windows import SealedWindow


@pytest.fixture
def recorded(some_flights, windows):
    return open_traffic([some_flights], windows, None, None)


def test_a_repeated_window_holds_every_request_so_often(recorded, tmp_path):
    size = recorded.info.count
    path = write_repeated(recorded, 2 * size + 10, tmp_path / "w")
    with SealedWindow.open(path) as window:
        found = window.read(np.arange(len(window)))
        once = recorded.read(np.arange(size))
    assert len(set(found.request_id.tolist())) == len(set(found.seq.tolist())) == 2 * size + 10
    for name, tensor in once.inputs.items():
        if tensor.dtype == object:
            assert sorted(found.inputs[name][:size].tolist()) == sorted(tensor.tolist())
        else:
            repeated = np.sort(found.inputs[name][size : 2 * size])
            assert repeated.tobytes() == np.sort(tensor).tobytes()


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_a_weighed_model_answers_as_the_one_it_is_made_of(recorded, tmp_path, name):
    weight = WEIGHTS[name] if name != "heavy" else replace(WEIGHTS[name], width=32, layers=2)
    source = assets_root() / "models" / "flights" / f"{weight.source}.onnx"
    inputs = recorded.read(np.arange(300)).inputs
    old, new = (
        dict(zip(("probability", "label"), session.run(None, inputs), strict=True))
        for session in map(onnxruntime.InferenceSession, (source, write_model(weight, tmp_path)))
    )
    np.testing.assert_allclose(new["probability"], old["probability"], atol=1e-6)
    assert (new["label"] == old["label"]).all()


def test_a_section_counts_for_itself_alone_and_only_inside():
    module = ModuleType("a_program")

    def burn(seconds):
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass

    module.inner = lambda: burn(0.03)
    module.outer = lambda: (burn(0.01), module.inner(), time.sleep(0.02))
    module.whole = lambda: (module.outer(), burn(0.02))
    sys.modules[module.__name__] = module
    try:
        places = {"outer": ["a_program:outer"], "inner": ["a_program:inner"]}
        sections = Sections("a_program:whole", places)
        module.inner()
        began = time.thread_time()
        module.whole()
        whole_s = time.thread_time() - began
    finally:
        del sys.modules[module.__name__]
    # Each has what it burned itself, and no time counts twice: the rest, as on a busy machine, is small change.
    found, burned = sections.cpu_s, {"inner": 0.03, "outer": 0.01, REST: 0.02}
    assert found.keys() == burned.keys()
    assert all(found[name] > seconds - 1e-6 for name, seconds in burned.items())
    assert sum(found.values()) < whole_s + 1e-6
    assert sections.wait_s["outer"] >= 0.019


@pytest.mark.slow
@pytest.mark.parametrize("features", [False, pytest.param(True, marks=pytest.mark.long)])
def test_the_benchmark_compares_with_bare_onnxruntime_in_the_same_run(
    features, windows, monkeypatch, recorded
):
    if not features:
        monkeypatch.setattr(gate_bench, "_with_features", lambda *_: [])
        monkeypatch.setattr(gate_bench, "open_traffic", lambda *_: recorded)
    figures = {
        f.name: f
        # One pair: the figures are not looked at for how exact they are.
        for f in bench_gate(["logistic"], requests=4_000, pairs=1, cache_dir=windows).figures
    }
    bare = figures["logistic: two cores give, both versions"].value
    gate = figures["logistic: gate"].value
    ratio = figures["logistic: ratio"]
    assert ratio.value == pytest.approx(gate / bare)
    assert (ratio.limit, ratio.at_most) == (0.6, False)
    # So few requests may take less time than fewer, beside other work.
    assert ratio.spoiled or "1 pair" in ratio.note
    assert 0 < figures["logistic: bare runs had a processor"].value < 102
    # A slope between two sizes this small may come out on either side; the figure then says so.
    processor = figures["logistic: ratio of processor time"]
    assert processor.spoiled or processor.value > 0
    assert figures["logistic: ratio with the fixed cost"].value > 0
    assert "logistic:   read the window" in figures
    judged = [f.value for name, f in figures.items() if "ratio with features" in name]
    assert len(judged) == 2 * features
    assert all(value > 0 for value in judged)


def test_what_comes_once_is_told_apart_from_what_comes_with_every_request():
    """A gate of n requests takes 3 + n/100 s beside bare runs of n/1000 s."""

    def took(n):
        return Took(
            requests=n, replay_s=3 + n / 100, parent_s={"judge": 1 + n / 500, "read": n / 1000},
            waiting_s=0.5, children_s=2 + n / 200, bare_wall_s=n / 1000, bare_s=n / 250,
        )  # fmt: skip

    whole = took(1000)
    more = whole.more_than(took(400))
    assert more.requests == 600
    assert more.replay_s == pytest.approx(6.0)
    assert more.parent_s == pytest.approx({"judge": 1.2, "read": 0.6})
    assert (more.waiting_s, more.cpu_s) == pytest.approx((0.0, 4.8))
    assert whole.once(more) == pytest.approx((3.0, 3.0))


def slope(**changes):
    usual = {
        "requests": 1000, "replay_s": 2.0, "parent_s": {"judge": 0.5, "read": 0.1},
        "waiting_s": 0.1, "children_s": 1.5, "bare_wall_s": 1.4, "bare_s": 1.5,
    }  # fmt: skip
    return Took(**usual | changes)


@pytest.mark.parametrize(
    ("changes", "by_clock", "by_processor"),
    [
        ({}, "", ""),
        ({"bare_wall_s": 4.126}, "quicker than the models alone", ""),
        ({"bare_s": 2.5}, "", "quicker than the models alone"),
        ({"replay_s": -0.2}, "a longer run took less", ""),
        ({"parent_s": {"judge": 0.8, "read": -0.3}}, "", "a longer run took less"),
        ({"parent_s": {"judge": 0.5, "read": -0.001}}, "", ""),
        ({"share": 0.7}, "bare runs had a processor 70% of their time: other work on the machine", ""),
    ],
)  # fmt: skip
def test_a_ratio_that_other_work_makes_is_told_apart(changes, by_clock, by_processor):
    pairs = [slope(**changes)] * 6
    found = [ratio(pairs, "ratio", 0.6, "") for ratio in (clock_ratio, processor_ratio)]
    assert [figure.spoiled for figure in found] == [by_clock, by_processor]


def test_one_pair_in_six_that_other_work_slowed_moves_no_ratio():
    pairs = [slope(replay_s=2.0 + i / 100) for i in range(6)]
    slowed = [*pairs[:-1], slope(replay_s=6.0)]
    one, other = (clock_ratio(p, "ratio", 0.69, "") for p in (pairs, slowed))
    assert one.value == other.value == pytest.approx(1.4 / 2.025, rel=1e-4)
    assert one.kept
    assert other.kept
    assert "0.683 … 0.700" in one.note
    assert "the limit lies inside the interval" in one.note
    assert middle(slowed, lambda pair: pair.replay_s) == pytest.approx(2.025)


def test_other_work_in_one_pair_of_six_spoils_no_ratio_and_in_most_of_them_does():
    few = [slope()] * 5 + [slope(share=0.5)]
    assert clock_ratio(few, "ratio", 0.6, "").kept
    assert clock_ratio([slope()] + [slope(share=0.5)] * 5, "ratio", 0.6, "").spoiled


def test_seconds_are_worth_something_where_bare_runs_had_their_processors():
    assert not other_work([slope(share=0.95)] * 3)
    assert "70%" in other_work([slope(share=0.7)] * 3)


def test_a_longer_run_that_took_less_in_one_pair_spoils_the_ratio():
    found = clock_ratio([slope()] * 5 + [slope(replay_s=-0.1)], "ratio", 0.6, "")
    assert found.spoiled == "a longer run took less"
    assert found.value == pytest.approx(0.7)
    assert not found.kept
    nothing = clock_ratio([slope(replay_s=-0.7)], "ratio", 0.6, "")
    assert (nothing.value, nothing.kept) == (pytest.approx(-2.0), False)


def test_every_second_round_goes_the_other_way(monkeypatch, tmp_path):
    done = []

    class Bench:
        def window(self, n):
            return n

        def gate(self, *asked):
            n = asked[1]
            done.append(("gate", n))
            return {
                "replay_s": 1.0, "cpu_s": {}, "wait_s": {}, "children_cpu_s": 1.0, "batch": n + 1
            }  # fmt: skip

    def bare(model, window, batch):
        assert batch == window + 1
        done.append(("bare", window))
        return gate_bench._Bare(wall_s=1.0, cpu_s=2.0, share=1.0)

    monkeypatch.setattr(gate_bench, "_bare", bare)
    rounds = gate_bench._rounds(Bench(), tmp_path, (8, 2), 3)
    there = [("gate", 8), ("bare", 8), ("gate", 2), ("bare", 2)]
    assert done == [*there, *reversed(there), *there]
    assert [sorted(one) for one in rounds] == [[2, 8]] * 3

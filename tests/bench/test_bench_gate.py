"""What the gate's benchmark is made of: its window, its models, its clock, and the whole of it."""

import sys
import time
from dataclasses import replace
from types import ModuleType

import numpy as np
import onnxruntime
import pytest

from harness.bench.gate import Took, _took, bench_gate
from harness.bench.gate_models import WEIGHTS, write_model
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
        module.whole()
    finally:
        del sys.modules[module.__name__]
    found = {name: round(s, 2) for name, s in sections.cpu_s.items()}
    assert found == {"inner": 0.03, "outer": 0.01, REST: 0.02}
    assert sections.wait_s["outer"] >= 0.019


@pytest.mark.slow
def test_the_benchmark_compares_with_bare_onnxruntime_in_the_same_run(windows, monkeypatch):
    # Once instead of twice: the figures are not looked at for how exact they are.
    monkeypatch.setitem(_took.__kwdefaults__, "times", 1)
    figures = {
        f.name: f for f in bench_gate(["logistic"], requests=10_000, cache_dir=windows).figures
    }
    bare = figures["logistic: two cores give, both versions"].value
    gate = figures["logistic: gate"].value
    ratio = figures["logistic: ratio"]
    assert ratio.value == pytest.approx(gate / bare)
    assert (ratio.limit, ratio.at_most) == (0.6, False)
    # A slope between two sizes this small may come out above 1 beside other work.
    assert figures["logistic: ratio of processor time"].value > 0
    assert figures["logistic: ratio with the fixed cost"].value > 0
    assert figures["logistic:   read the window"].value > 0


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
        ({"spread": 1.3}, "bare runs of the same batches vary by 30%", ""),
    ],
)
def test_a_ratio_that_other_work_makes_is_told_apart(changes, by_clock, by_processor):
    assert slope(**changes).spoiled() == (by_clock, by_processor)

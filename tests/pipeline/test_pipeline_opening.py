"""Legs and looks that are begun together: in which order, with which bytes, and what a failure leaves."""

import gc
import os
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import psutil
import pytest
from gates import tiny_model

from harness.core.errors import EnvironmentUnavailableError, UsageError
from harness.core.models import PinnedModel
from harness.core.observations import Outcome
from harness.core.policies import SandboxPolicy
from harness.core.traffic import RequestBatch
from harness.pipeline import opening
from harness.pipeline.opening import LegRecipe, leg_recipe, look_at, open_legs
from harness.sandbox.graphs import Looked, ProbeResult
from harness.sandbox.hello import LoadFailure

pytestmark = pytest.mark.usefixtures("each_look_anew", "each_process_started")

LIMITS = SandboxPolicy()


def pinned(path):
    return PinnedModel(given="m", uri="m", name="m", version="file", digest="0" * 64, path=path)


def recipe(path, **options):
    return LegRecipe(role="candidate", model=path, **{"limits": LIMITS, **options})


def batch(x):
    n = len(x)
    return RequestBatch(
        seq=np.arange(n),
        request_id=np.array([f"r{i}" for i in range(n)], object),
        ts_ns=np.zeros(n, np.int64),
        rows=np.ones(n, np.int64),
        inputs={"x": np.array(x, np.float32)},
        recorded={},
        answered=np.ones(n, np.bool_),
        context={},
    )


def open_things():
    """Descriptors and child processes of this process."""
    gc.collect()
    descriptors = {str(p) for p in Path("/proc/self/fd").iterdir()}
    return descriptors, {p.pid for p in psutil.Process().children()}


def assert_nothing_is_left(before):
    """What other tests have left in this process may go meanwhile."""
    for now, known in zip(open_things(), before, strict=True):
        assert now - known == set()


def test_every_process_is_begun_before_any_is_waited_for(tmp_path, monkeypatch):
    seen = []

    class Watched(opening.Start):
        def __init__(self, *arguments, **options):
            seen.append("begun")
            super().__init__(*arguments, **options)

        def load(self):
            seen.append("load")
            super().load()

        def finish(self):
            seen.append("finish")
            return super().finish()

    monkeypatch.setattr(opening, "Start", Watched)
    one, other = (recipe(tiny_model(tmp_path / f"{n}.onnx")) for n in "ab")
    with open_legs(one, other, one) as legs:
        assert [leg.ended for leg in legs] == ["", "", ""]
    waits = [word for word in seen if word != "load"]
    assert seen[:6] == ["begun"] * 3 + ["load"] * 3
    assert waits == ["begun"] * 3 + ["finish"] * 3


def test_nothing_is_left_when_the_legs_are_closed(tmp_path):
    before = open_things()
    one = recipe(tiny_model(tmp_path / "m.onnx"))
    with open_legs(one, one) as legs:
        psutil.Process(legs[0].first.pid).kill()
        legs[0].submit(batch([1.0]), trace=False)
        assert legs[0].collect().outcome.tolist() == [Outcome.OK]
        # Two legs, and one process that waits.
        assert len(open_things()[1] - before[1]) == 3
    assert_nothing_is_left(before)


def test_nothing_is_left_when_the_isolation_is_refused(tmp_path):
    before = open_things()
    one = recipe(tiny_model(tmp_path / "m.onnx"), limits=SandboxPolicy(require="S9"))
    with pytest.raises(UsageError, match="S9"), open_legs(one, one, one):
        pass
    assert_nothing_is_left(before)


def test_nothing_is_left_when_a_file_is_missing(tmp_path):
    before = open_things()
    one = recipe(tiny_model(tmp_path / "m.onnx"))
    missing = recipe(tmp_path / "none.onnx")
    with pytest.raises(UsageError, match=r"none\.onnx"), open_legs(one, missing):
        pass
    assert_nothing_is_left(before)


def test_a_version_that_does_not_load_is_a_leg_that_has_ended(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\xff" * 64)
    with open_legs(recipe(broken), recipe(tiny_model(tmp_path / "m.onnx"))) as (bad, good):
        assert bad.load_failure is not None
        assert bad.load_failure.kind == "load"
        assert good.ended == ""


def test_a_version_whose_locale_is_lacking_is_no_leg_that_has_ended(tmp_path):
    path = tmp_path / "m.onnx"
    text = """<ir_version: 8, opset_import: ["" : 15]> m (string[N] x) => (string[N] y) {
      y = StringNormalizer<locale = "xx_XX.UTF-8", case_change_action = "LOWER">(x)
    }"""
    onnx.save_model(onnx.parser.parse_model(text), str(path))
    said = r"^candidate model: asks for the locale 'xx_XX\.UTF-8'"
    with pytest.raises(EnvironmentUnavailableError, match=said), open_legs(recipe(path)):
        pass


def test_a_restart_runs_the_bytes_that_were_sealed(tmp_path):
    path = tiny_model(tmp_path / "m.onnx")
    with open_legs(recipe(path)) as (leg,):
        tiny_model(path, raised="Neg({x})")
        leg.submit(batch([2.0]), trace=False)
        first = leg.collect()
        assert leg.first is not None
        os.kill(leg.first.pid, 9)
        leg.submit(batch([2.0]), trace=False)
        second = leg.collect()
        assert leg.counters().restarts == 1
    assert second.outcome.tolist() == [Outcome.OK]
    assert second.outputs["probability"].tolist() == first.outputs["probability"].tolist()


def test_both_versions_are_looked_at_and_probed(tmp_path):
    old, new = (pinned(tiny_model(tmp_path / f"{n}.onnx")) for n in "ab")
    seen = look_at((old, new), LIMITS, tmp_path / "probes")
    for role, one in zip(opening.ROLES, seen, strict=True):
        assert isinstance(one, Looked)
        assert one.graph.features == ("doubled",)
        assert isinstance(one.probe, ProbeResult)
        assert one.probe.path == tmp_path / "probes" / f"{role}.onnx"
        assert one.probe.exposed == ("doubled",)


def test_a_look_that_fails_takes_nothing_from_the_other(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\xff" * 64)
    old, new = pinned(tiny_model(tmp_path / "m.onnx")), pinned(broken)
    seen = look_at((old, new), LIMITS, tmp_path / "probes")
    assert isinstance(seen[0], Looked)
    assert isinstance(seen[1], LoadFailure)


def test_a_leg_traces_what_its_look_exposed(tmp_path):
    model = pinned(tiny_model(tmp_path / "m.onnx"))
    seen = look_at((model, model), LIMITS, tmp_path / "probes")
    assert isinstance(seen[0], Looked)
    made = leg_recipe("baseline", model, seen[0].probe, limits=LIMITS)
    with open_legs(made) as (leg,):
        leg.submit(batch([1.0, 2.0]), trace=True)
        assert leg.collect().features["doubled"].tolist() == [2.0, 4.0]
    assert made.untraced == ()


def test_a_probe_that_failed_is_told_and_the_leg_runs_without(tmp_path):
    model = pinned(tiny_model(tmp_path / "m.onnx"))
    made = leg_recipe("baseline", model, LoadFailure(kind="crash", message="why"), limits=LIMITS)
    assert made.trace_model is None
    assert made.untraced == ("no feature of the baseline could be traced: why",)


def children():
    return {p.pid for p in psutil.Process().children()}


def test_while_no_process_is_lost_none_waits(tmp_path):
    before = children()
    with open_legs(recipe(tiny_model(tmp_path / "m.onnx"))) as (leg,):
        assert leg.first is not None
        assert children() - before == {leg.first.pid}


def test_a_leg_that_loses_another_process_gets_the_one_that_waits(tmp_path):
    def lose():
        """Kills the process that answers: (the one that answers then, the one that waits)."""
        psutil.Process(leg._processes.running.pid).kill()
        leg.submit(batch([1.0, 2.0]), trace=False)
        assert leg.collect().outcome.tolist() == [Outcome.OK] * 2
        running = leg._processes.running.pid
        (waiting,) = children() - before - {running}
        return running, waiting

    before = children()
    with open_legs(recipe(tiny_model(tmp_path / "m.onnx"))) as (leg,):
        _, spare = lose()
        assert lose()[0] == spare


@pytest.mark.parametrize(
    ("name", "said"),
    [(b"dou\xffled", "not UTF-8: rename it"), (b"d" * 20_000, "20,000 characters")],
    ids=["no text", "too long"],
)
def test_a_name_that_cannot_be_read_blames_no_version(name, said, tmp_path):
    # onnxruntime takes a name of any bytes and any length.
    model = onnx.load(str(tiny_model(tmp_path / "m.onnx")))
    for node in model.graph.node:
        for tensors in (node.input, node.output):
            for place, tensor in enumerate(tensors):
                if tensor == "doubled":
                    tensors[place] = "d" * len(name)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString().replace(b"d" * len(name), name))
    onnxruntime.InferenceSession(str(path))
    with pytest.raises(
        UsageError, match=rf"onnxruntime loads it, and our own look .*{said}"
    ) as told:
        look_at([pinned(path)], LIMITS, tmp_path / "probes")
    assert "says nothing about the version" in told.value.remedy

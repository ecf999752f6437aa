"""What a candidate does not answer before the replay is told and never promoted."""

from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
from gates import tiny_model, tiny_traffic
from onnx import parser, save_model

from harness.core.policies import SandboxPolicy
from harness.core.traffic import RequestBatch
from harness.core.verdicts import Decision
from harness.pipeline import alone
from harness.pipeline.alone import Alone, alone_from_json, run_alone
from harness.pipeline.gate import run_gate
from harness.pipeline.opening import LegRecipe, open_legs
from harness.replay.order import Batch

pytestmark = pytest.mark.usefixtures("as_many_alone")

POISON = 4.5
FAILING = """
<ir_version: 8, opset_import: ["" : 15]>
failing (float[N] x) => (float[N] probability, int64[N] label) {{
  four = Constant<value = float {{4.0}}>()
  over = Greater(x, four)
  flags = Cast<to = 7>(over)
{size}
  count = Mul(flags, sixes)
  table = Constant<value = float[2] {{0.0, 0.0}}>()
  harm = Gather(table, count)
  harmed = Add(x, harm)
  probability = Sigmoid(harmed)
  half = Constant<value = float {{0.5}}>()
  yes = GreaterOrEqual(probability, half)
  label = Cast<to = 7>(yes)
}}
"""
ANY = "sixes = Constant<value = int64 {6}>()"
ALONE = """
  length = Shape(x)
  one = Constant<value = int64[1] {1}>()
  single = Equal(length, one)
  asked = Cast<to = 7>(single)
  six = Constant<value = int64 {6}>()
  sixes = Mul(asked, six)
"""


def failing(path, size):
    """The tiny model, which raises an error where x > 4: in every batch, or for a single row only."""
    save_model(parser.parse_model(FAILING.format(size=size)), str(path))
    return path


def read(positions):
    n = len(positions)
    return RequestBatch(
        seq=positions,
        request_id=np.array([f"r{i}" for i in positions], object),
        ts_ns=np.zeros(n, np.int64),
        rows=np.ones(n, np.int64),
        inputs={"x": np.where(positions == 300, POISON, 0.5).astype(np.float32)},
        recorded={},
        answered=np.ones(n, np.bool_),
        context={},
    )


def sample(path):
    recipe = LegRecipe(
        role="candidate", model=path, limits=SandboxPolicy(require="S0"), allow_weaker=True
    )
    batches = [
        Batch(index=i, window="newest", order=np.arange(256 * i, 256 * i + 256)) for i in range(4)
    ]
    with open_legs(recipe) as (leg,):
        return run_alone(leg, batches, read, np.random.default_rng(1))


def test_a_request_that_fails_by_itself_is_named(tmp_path):
    found = sample(failing(tmp_path / "m.onnx", ALONE))
    assert (found.failed, found.fails_alone) == (("request r300",), True)
    assert "not all answered" in found.to_text()
    assert "it failed on request r300" in found.to_text()


def test_a_batch_that_fails_is_named_with_its_parts(tmp_path):
    found = sample(failing(tmp_path / "m.onnx", ANY))
    assert found.failed == ("256 requests from r256 on", "84 requests from r256 on")
    assert not found.fails_alone
    assert "it failed on 256 requests from r256 on" in found.to_text()


def test_a_whole_model_fails_on_nothing(tmp_path):
    found = sample(tiny_model(tmp_path / "m.onnx"))
    assert (found.failed, found.fails_alone, found.requests) == ((), False, 1024)


@pytest.mark.parametrize("pauses", [range(100, 101), range(100, 9999)], ids=["one", "many"])
def test_one_pause_of_the_machine_makes_no_version_slow(tmp_path, monkeypatch, pauses):
    looks, now = count(), [0.0]

    def clock():
        now[0] += 3600.0 if next(looks) in pauses else 0.0
        return now[0]

    monkeypatch.setattr(alone, "time", SimpleNamespace(perf_counter=clock))
    found = sample(tiny_model(tmp_path / "m.onnx"))
    assert (found.requests == 1024, found.requests < 150) == (len(pauses) == 1, len(pauses) > 1)


def test_what_failed_is_read_back():
    one = Alone(role="candidate", requests=9, failed=("request a",), fails_alone=True)
    saved = {
        "role": "candidate", "requests": 9, "further": 0, "differ": "nothing",
        "failed": ["request a"], "fails_alone": True,
    }  # fmt: skip
    assert alone_from_json(saved) == one


@pytest.mark.parametrize("size", [ANY, ALONE])
def test_no_gate_promotes_what_failed_before_the_replay(tmp_path, size):
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "version: 1\npreset: refactor\nwindows: {newest: {days: 4000}, min_requests: 100}\n"
        "decision: {output: probability, rule: threshold, value: 0.5}\nsandbox: {require: S0}\n"
    )
    values = np.where(np.arange(1000) == 300, POISON, np.linspace(-3, 3, 1000))
    result = run_gate(
        str(tiny_model(tmp_path / "old.onnx")), str(failing(tmp_path / "new.onnx", size)),
        traffic=[tiny_traffic(tmp_path / "traffic", 1000, values=values)], policy=policy,
        out=tmp_path / "run", cache_dir=tmp_path / "cache", state_dir=tmp_path / "state",
    )  # fmt: skip
    kinds = {f.kind for f in result.findings}
    # By the drawn order the replay meets the request, or ends before it.
    if result.record.decision is Decision.ROLLBACK:
        assert result.record.reason == "candidate_fails"
        assert "candidate_fails_in_sample" not in kinds
    else:
        assert (result.record.decision, result.record.reason) == (
            Decision.HOLD,
            "candidate_fails_in_sample",
        )
        assert "candidate_fails_in_sample" in kinds
    assert "batch_dependent" not in kinds
    assert ("fails_alone" in kinds) == (size == ALONE)

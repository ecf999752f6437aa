"""Batches are as large as the versions' memory and the gate's own allow, from the first question on."""

import json
import tracemalloc

import numpy as np
import pytest
from gates import tiny_model, tiny_traffic
from onnx import helper, parser, save_model

from harness.core.policies import SandboxPolicy
from harness.core.traffic import RequestBatch
from harness.core.verdicts import Decision
from harness.pipeline import judgement, room
from harness.pipeline.gate import resume_gate, run_gate
from harness.pipeline.opening import LegRecipe, open_legs
from harness.replay.order import Batch, smaller

INSIDE = """
<ir_version: 8, opset_import: ["" : 15]>
inside (float[N] x) => (float[N] probability, int64[N] label{output}) {{
  doubled = Add(x, x)
  one = Constant<value = int64[1] {{1}}>()
  shape = Constant<value = int64[2] {{1, {columns}}}>()
  column = Unsqueeze(x, one)
  wide = Expand(column, shape)
  top = ReduceMax<axes = [1], keepdims = 0>(wide)
  probability = Sigmoid(top)
  half = Constant<value = float {{0.5}}>()
  yes = GreaterOrEqual(probability, half)
  label = Cast<to = 7>(yes)
}}
"""
POLICY = (
    "version: 1\npreset: none\nwindows: {{newest: {{days: 4000}}, min_requests: 100}}\n"
    "decision: {{output: probability, rule: threshold, value: 0.5}}\n"
    "guardrails: [{{name: outputs, metric: parity_mismatch, scope: outputs, margin: 0.05}}]\n"
    "sandbox: {{require: S0, memory: {memory}MiB}}\ngraph: {{when: never}}\n"
)


def heavy(path, columns, output=""):
    """The tiny model, which computes so many numbers of each request, and perhaps returns them."""
    model = parser.parse_model(INSIDE.format(columns=columns, output=output))
    helper.set_model_props(model, {"harness.features": '["doubled"]'})
    save_model(model, str(path))
    return path


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """However busy the machine is, all is asked."""
    monkeypatch.setattr(room, "_LONGEST_S", 1000.0)


@pytest.fixture
def gate(tmp_path):
    """Runs a gate on 200 requests: gate(baseline, candidate, memory in MiB)."""

    def run(baseline, candidate, memory):
        policy = tmp_path / "policy.yaml"
        policy.write_text(POLICY.format(memory=memory))
        return run_gate(
            str(baseline), str(candidate), traffic=[tiny_traffic(tmp_path / "traffic", 200)],
            policy=policy, out=tmp_path / "run", cache_dir=tmp_path / "cache",
            state_dir=tmp_path / "state",
        )  # fmt: skip

    return run


def manifest(tmp_path):
    return json.loads((tmp_path / "run" / "manifest.json").read_text())


def test_a_candidate_that_only_large_batches_make_fail_is_promoted(tmp_path, gate):
    new = heavy(tmp_path / "new.onnx", 2_000_000)
    result = gate(tiny_model(tmp_path / "old.onnx"), new, 384)
    assert (result.record.decision, result.record.reason) == (
        Decision.PROMOTE,
        "all_guardrails_pass",
    )
    assert {f.kind for f in result.findings} & {
        "poison_request",
        "memory_limit",
        "fails_alone",
    } == set()
    saved = manifest(tmp_path)
    assert "the candidate's sandbox.memory" in saved["room"]["why"]
    assert "the candidate's sandbox.memory" in saved["batching"]["why"]
    assert 1 <= saved["batching"]["requests"] < 64


def test_a_run_that_is_gone_on_with_keeps_its_batches(tmp_path, gate, monkeypatch):
    new = heavy(tmp_path / "new.onnx", 2_000_000)

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(judgement, "mixing_of_run", stop)
        with pytest.raises(KeyboardInterrupt):
            gate(tiny_model(tmp_path / "old.onnx"), new, 384)
    saved = json.loads((tmp_path / "run" / "room.json").read_text())
    monkeypatch.setattr(room, "room_in", stop)
    assert resume_gate(tmp_path / "run").record.decision is Decision.PROMOTE
    assert manifest(tmp_path)["room"] == saved


def read(positions):
    n = len(positions)
    return RequestBatch(
        seq=positions,
        request_id=np.array([f"r{i}" for i in positions], object),
        ts_ns=np.zeros(n, np.int64),
        rows=np.ones(n, np.int64),
        inputs={"x": np.linspace(-3, 3, n).astype(np.float32)},
        recorded={},
        answered=np.ones(n, np.bool_),
        context={},
    )


BATCHES = [Batch(index=0, window="newest", order=np.arange(256))]


def room_of(path, memory=1024):
    limits = SandboxPolicy(require="S0", memory_bytes=memory << 20)
    recipe = LegRecipe(role="candidate", model=path, limits=limits, allow_weaker=True)
    with open_legs(recipe) as (leg,):
        tracemalloc.start()
        found = room.room_in((leg,), BATCHES, read, traced=())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found, peak


def test_small_answers_allow_for_the_largest_batches(tmp_path):
    found, _ = room_of(tiny_model(tmp_path / "m.onnx"))
    assert found == room.Room(requests=room.LARGEST)


def test_what_heavy_answers_weigh_is_learnt_from_a_few(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "MOST_ANSWERED", 32 << 20)
    path = heavy(tmp_path / "m.onnx", 1_000_000, ", float[N, 1000000] wide")
    found, peak = room_of(path)
    assert found.requests == 4  # 4 MB each, 16 MiB for one of two versions
    assert "4,000,012 bytes" in found.why
    assert peak < 64 << 20


def test_a_bulk_request_in_front_makes_no_small_batches(tmp_path):
    path = heavy(tmp_path / "m.onnx", 1000, ", float[N, 1000] wide")
    bulk = read(np.arange(256))
    rows = np.where(np.arange(256) == 0, 5000, 1)
    inputs = {"x": np.repeat(bulk.inputs["x"], rows)}

    def with_bulk(_):
        return RequestBatch(
            seq=bulk.seq, request_id=bulk.request_id, ts_ns=bulk.ts_ns, rows=rows, inputs=inputs,
            recorded={}, answered=bulk.answered, context={},
        )  # fmt: skip

    recipe = LegRecipe(
        role="candidate", model=path, limits=SandboxPolicy(require="S0"), allow_weaker=True
    )
    with open_legs(recipe) as (leg,):
        found = room.room_in((leg,), BATCHES, with_bulk, traced=())
    assert found.requests > 1000


def test_batches_are_cut_in_their_order():
    batches = [
        Batch(index=0, window="newest", order=np.arange(5)),
        Batch(index=1, window="matured", order=np.arange(10, 12)),
    ]
    found = smaller(batches, 2)
    assert [(b.index, b.window, b.positions.tolist()) for b in found] == [
        (0, "newest", [0, 1]),
        (1, "newest", [2, 3]),
        (2, "newest", [4]),
        (3, "matured", [10, 11]),
    ]

"""A version's word for how long its rows are costs the gate no memory: rows that nobody answered, and tables."""

import json
import tracemalloc

import numpy as np
import pytest
from gates import tiny_traffic
from onnx import helper, parser, save_model

from harness.core.policies import GraphPolicy
from harness.core.verdicts import Decision
from harness.pipeline.compare import compare_models
from harness.pipeline.gate import run_gate

MODEL = """
<ir_version: 8, opset_import: ["" : 15]>
m (float[N] x) => (float[N] probability, int64[N] label, {extra}) {{
  one = Constant<value = int64[1] {{1}}>()
  probability = Sigmoid(x)
  half = Constant<value = float {{0.5}}>()
  yes = GreaterOrEqual(probability, half)
  label = Cast<to = 7>(yes)
  {body}
}}
"""
FREE = MODEL.format(
    extra="float[N,K] z",
    body="""squares = Mul(x, x)
  sum = ReduceSum(squares)
  zero = Constant<value = float {0.0}>()
  nothing = Mul(sum, zero)
  unit = Constant<value = float {1.0}>()
  width = Add(nothing, unit)
  width_n = Cast<to = 7>(width)
  last = Reshape(width_n, one)
  length = Shape(x)
  shape = Concat<axis = 0>(length, last)
  z = Reshape(x, shape)""",
)
"""One column, which no runtime infers."""
BY_VALUE = MODEL.format(
    extra="float[N,K] z",
    body="""most = ReduceMax<keepdims = 0>(x)
  up = Ceil(most)
  size = Abs(up)
  width = Cast<to = 7>(size)
  more = Add(width, one)
  column = Unsqueeze(x, one)
  times = Concat<axis = 0>(one, more)
  z = Tile(column, times)""",
)
"""As many columns as the largest value asks for: each request runs by itself."""
REFUSES = """table = Constant<value = float[2] {{0.0, 0.0}}>()
  most = ReduceMax<keepdims = 0>(x)
  limit = Constant<value = float {{{beyond}}}>()
  low = LessOrEqual(most, limit)
  low_n = Cast<to = 7>(low)
  six = Constant<value = int64 {{6}}>()
  place = Mul(low_n, six)
  harm = Gather(table, place)
  moved = Add(x, harm)
  column = Unsqueeze(moved, one)
  many = Constant<value = int64[1] {{{columns}}}>()
  times = Concat<axis = 0>(one, many)
  z = Tile(column, times)"""
ALL_REFUSED = MODEL.format(
    extra=f"float[N,{10**9}] z", body=REFUSES.format(beyond=1e9, columns=10**9)
)
FEW_ANSWERED = MODEL.format(extra="float[N,K] z", body=REFUSES.format(beyond=2.0, columns=10**6))
"""Of requests by themselves those above 2, with 4 MB each."""
TABLE = MODEL.format(
    extra="float[2000,64] t",
    body="""size = Constant<value = int64[2] {2000, 64}>()
  t = ConstantOfShape<value = float[1] {1.5}>(size)
  doubled = Add(x, x)""",
)
POLICY = {
    "version": 1, "preset": "none",
    "decision": {"output": "label", "rule": "none", "score": "probability"},
    "windows": {"newest": {"days": 200}, "min_requests": 200},
    "guardrails": [{"name": "score", "metric": "score_shift", "margin": 0.05, "direction": "both"}],
    "sandbox": {"require": "S0", "memory": "1GiB"},
    "graph": {"when": "never"},
}  # fmt: skip
MOST = 200 << 20


@pytest.fixture
def peak():
    """Tells the most bytes that were in use at once so far."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


@pytest.fixture
def models(tmp_path):
    def written(*texts):
        paths = [tmp_path / f"{i}.onnx" for i in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            model = parser.parse_model(text)
            if "doubled" in text:
                helper.set_model_props(model, {"harness.features": '["doubled"]'})
            save_model(model, str(path))
        return [*map(str, paths)]

    return written


def gated(folder, old, new, traffic):
    policy = folder / "policy.yaml"
    policy.write_text(json.dumps(POLICY))
    return run_gate(
        old, new, traffic=[traffic], policy=policy, out=folder / "run", cache_dir=folder / "cache",
        state_dir=folder / "state", as_of="2020-12-01T00:00:00Z",
    ).record.decision  # fmt: skip


def compared(folder, old, new, traffic):
    return compare_models(
        old, new, inputs=[traffic], cache_dir=folder / "cache",
        looked_into=GraphPolicy(requests=0), allow_lower_isolation=True,
    ).exit_code  # fmt: skip


def test_a_billion_values_that_are_never_answered_take_no_memory(tmp_path, models, peak):
    old, new = models(FREE, ALL_REFUSED)
    traffic = tiny_traffic(tmp_path / "traffic", 250)
    assert gated(tmp_path, old, new, traffic) is Decision.ROLLBACK
    assert peak() < MOST


def test_refusals_beside_few_wide_answers_are_not_as_wide(tmp_path, models, peak):
    old, new = models(BY_VALUE, FEW_ANSWERED)
    traffic = tiny_traffic(tmp_path / "traffic", 250)
    assert compared(tmp_path, old, new, traffic) == 1
    assert peak() < MOST


@pytest.mark.long
def test_a_table_is_one_value_beside_requests_that_it_is_too_much_for(tmp_path, models, peak):
    """In 2,400 rows it would take more than a quarter of the memory that a leg has: that request is not compared."""
    old, new = models(TABLE, TABLE.replace("Add(x, x)", "Add(x, x)\n  more = Neg(x)"))
    rng = np.random.default_rng(1)
    rows = [2400 if i == 7 else 1 for i in range(30)]
    made = [{"x": rng.normal(size=n).round(3).tolist()} for n in rows]
    traffic = tmp_path / "t.jsonl"
    traffic.write_text("".join(json.dumps(one) + "\n" for one in made))
    assert compared(tmp_path, old, new, traffic) == 2
    assert peak() < MOST

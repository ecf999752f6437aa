"""Outputs that may be tables of as many values as a batch has rows: all versions are read alike."""

import json

import numpy as np
import pytest
from onnx import parser, save_model

from harness.core.policies import GraphPolicy, SandboxPolicy
from harness.pipeline.compare import compare_models
from harness.pipeline.constant_lengths import Tables, tables_of, tables_of_run
from harness.pipeline.opening import LegRecipe, open_legs
from harness.replay.asked import asked_by
from harness.sandbox.graphs import Look, look
from harness.store.runs import RunFolder
from harness.store.tables import open_traffic

MODEL = """
<ir_version: 8, opset_import: ["" : 15]>
m (float[{n},4] x) => (float[{n},4] y, float[3] t) {{
  {t}
}}
"""
TABLE = "y = Neg(x)\n  t = Constant<value = float[3] {1.0, 2.0, 3.0}>()"
OTHER = TABLE.replace("3.0}", "3.5}")
A_VALUE_EACH = """one = Constant<value = int64[1] {1}>()
  y = Neg(x)
  t = ReduceSum<keepdims = 0>(x, one)"""
REFUSES_MORE = "s = Constant<value = int64[2] {3, 4}>()\n  r = Reshape(x, s)\n  " + TABLE.replace(
    "Neg(x)", "Neg(r)"
)
HANGS_ON_MORE = """shape = Shape(x)
  zero = Constant<value = int64 {0}>()
  three = Constant<value = int64 {3}>()
  many = Constant<value = int64 {100000000000}>()
  rows = Gather(shape, zero)
  more = Greater(rows, three)
  turns = Where(more, many, zero)
  on = Constant<value = bool {1}>()
  z = Loop<body = turn (int64 i, bool c, float[N,4] v) => (bool c2, float[N,4] v2) {
    c2 = Identity(c)
    v2 = Identity(v)
  }>(turns, on, x)
  y = Neg(z)
  t = Constant<value = float[3] {1.0, 2.0, 3.0}>()"""


def model(t, n="N"):
    return MODEL.format(t=t, n=n)


@pytest.fixture
def traffic(tmp_path):
    """Requests of so many rows each."""

    def written(*rows):
        rng = np.random.default_rng(1)
        path = tmp_path / "t.jsonl"
        made = [{"x": rng.normal(size=(n, 4)).round(3).tolist()} for n in rows]
        path.write_text("".join(json.dumps(one) + "\n" for one in made))
        return path

    return written


@pytest.fixture
def compared(traffic, tmp_path, windows):
    """Compares two models on requests of three rows."""

    def compare(*texts, mapping=()):
        paths = [tmp_path / f"{i}.onnx" for i in range(2)]
        for path, text in zip(paths, texts, strict=True):
            save_model(parser.parse_model(text), str(path))
        return compare_models(
            *map(str, paths), inputs=[traffic(*[3] * 20)], cache_dir=windows, mapping=mapping,
            looked_into=GraphPolicy(requests=0), allow_lower_isolation=True,
        )  # fmt: skip

    return compare


@pytest.fixture
def shown(traffic, tmp_path, windows):
    """What a baseline shows on such traffic; its recipe, and the window."""

    def ask(text, rows=(3, 3), beside=(), deadline_s=5.0, run=None):
        save_model(parser.parse_model(text), str(tmp_path / "m.onnx"))
        limits = SandboxPolicy(batch_deadline_s=deadline_s)
        recipe = LegRecipe(
            role="baseline", model=tmp_path / "m.onnx", limits=limits, allow_weaker=True, lengths=beside,
        )  # fmt: skip
        (looked,) = look([Look(model=tmp_path / "m.onnx")], limits)
        signature = looked.graph.signature
        window = open_traffic([traffic(*rows)], windows, signature)
        if run is not None:
            return tables_of_run(run, recipe, signature, window)
        return tables_of(recipe, signature, window), recipe, window

    return ask


@pytest.mark.parametrize(
    ("old", "new", "mapping"),
    [
        (model(TABLE, 3), model(TABLE), ()),
        (model(TABLE), model(TABLE, 3), ("narrower:x",)),
        (model(REFUSES_MORE), model(TABLE), ()),
    ],
)
def test_versions_of_which_one_cannot_be_asked_are_read_alike(compared, old, new, mapping):
    same = compared(old, new, mapping=mapping)
    assert same.exit_code == 0
    # A table is in every row of larger batches, which is no change of it.
    assert old == model(REFUSES_MORE) or "change with the batch" not in same.to_text()
    told = any("output t: whether it is about a whole batch" in t for t in same.not_compared)
    assert told == (not mapping)


@pytest.mark.parametrize(
    ("old", "new", "mapping"),
    [
        (model(TABLE, 3), model(OTHER), ()),
        (model(TABLE), model(OTHER, 3), ("narrower:x",)),
        (model(TABLE), model(A_VALUE_EACH, 3), ("narrower:x",)),
        (model(TABLE, 3), model(A_VALUE_EACH), ()),
    ],
)
def test_a_difference_is_none_the_less_for_it(compared, old, new, mapping):
    result = compared(old, new, mapping=mapping)
    assert result.exit_code == 1
    assert not [f for f in result.findings if "the shape" in f.what]


@pytest.mark.parametrize("rows", [(3, 3), (1, 2), (4,)])
def test_the_baseline_shows_what_its_output_is_about(shown, rows):
    assert shown(model(TABLE), rows)[0] == Tables(names=("t",))
    assert shown(model(A_VALUE_EACH), rows)[0] == Tables()


def test_what_it_cannot_be_asked_is_not_known(shown):
    # The runtime infers three rows for y, too.
    assert shown(model(REFUSES_MORE))[0] == Tables(unshown=("t", "y"))
    assert shown(model(TABLE, 3), beside=(("t", 3),))[0] == Tables(unshown=("t",))


def test_a_question_that_takes_too_long_is_no_requests_failure(shown):
    found, recipe, window = shown(model(HANGS_ON_MORE), deadline_s=0.3)
    assert found == Tables(unshown=("t",))
    with open_legs(recipe) as (leg,):
        asked = asked_by(leg)
        asked.submit(window.read(np.arange(1)), trace=False)
        assert asked.collect().outputs["t"].shape == (3,)
        assert leg.counters().restarts == 0


def test_a_resumed_run_reads_as_the_interrupted_one_did(shown, tmp_path):
    with RunFolder.create(tmp_path / "run") as run:
        first = shown(model(TABLE), run=run)
        assert first == Tables(names=("t",))
        assert shown(model(REFUSES_MORE), run=run) == first

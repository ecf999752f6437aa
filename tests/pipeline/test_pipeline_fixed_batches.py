"""Versions that take batches of one size only, and requests or rows of another."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gates import tiny_traffic
from onnx import parser, save_model

from harness.core.verdicts import Decision
from harness.pipeline.compare import compare_models
from harness.pipeline.gate import run_gate

MODEL = """
<ir_version: 8, opset_import: ["" : 15]>
m (float[{n}] x) => (float[{n}] y) {{
  k = Constant<value = float[{width}] {{{k}}}>()
  y = Mul(x, k)
}}
"""
POLICY = """
version: 1
preset: refactor
sandbox: {require: S0}
windows: {newest: {days: 36500}, min_requests: 20}
drop: [outputs, features]
mapping: {narrower: [x]}
guardrails:
  - {name: same, metric: parity_mismatch, scope: outputs, margin: 0.2}
"""


def model(n, *k):
    return MODEL.format(n=n, width=len(k), k=", ".join(map(str, k)))


PLAIN = model(8, 2.0)
ONE_PLACE = model(8, *[2.0] * 5, 2.5, 2.0, 2.0)
"""Another answer in the sixth place of a batch."""


TABLE = """
<ir_version: 8, opset_import: ["" : 15]>
m (float[{n}] x) => (float[{n}] y, float[3] t) {{
  y = Neg(x)
  t = Constant<value = float[3] {{1.0, 2.0, {k}}}>()
}}
"""
"""Beside batches of three rows, t may be a value for each."""


@pytest.fixture
def given(tmp_path):
    """Both models as files, and forty values as rows of a table, or recorded as so many requests."""

    def write(old, new, recorded):
        paths = [tmp_path / f"{name}.onnx" for name in ("old", "new")]
        for path, text in zip(paths, (old, new), strict=True):
            save_model(parser.parse_model(text), str(path))
        values = np.linspace(-3, 3, 333, dtype=np.float32)
        if recorded:
            tiny_traffic(tmp_path / "traffic", values=values[::8])
            return [*map(str, paths), tmp_path / "traffic"]
        np.savez(tmp_path / "t.npz", x=values)
        return [*map(str, paths), tmp_path / "t.npz"]

    return write


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (PLAIN, PLAIN, 0),
        (PLAIN, model("N", 2.0), 0),
        (PLAIN, ONE_PLACE, 1),
        (PLAIN, model("N", 2.5), 1),
        (model("N", 2.0), PLAIN, 0),
        (model("N", 2.0), ONE_PLACE, 1),
    ],
)
def test_rows_of_a_table_are_compared_in_batches_that_the_model_takes(
    given, windows, old, new, code
):
    *models, traffic = given(old, new, recorded=False)
    result = compare_models(
        *models, inputs=[traffic], cache_dir=windows, mapping=["narrower:x"] * ("[N]" in old)
    )
    assert (result.exit_code, result.compared) == (code, 42)
    assert "rows_put_together" in {f.kind for f in result.findings}


def test_recorded_requests_that_only_the_candidate_refuses_are_told_with_their_rows(given, windows):
    *models, traffic = given(model("N", 2.0), PLAIN, recorded=True)
    result = compare_models(*models, inputs=[traffic], cache_dir=windows, mapping=["narrower:x"])
    assert result.exit_code == 1
    (told,) = [f for f in result.findings if f.kind == "rows_not_taken"]
    assert "only batches of 8 rows are taken by both versions, and 42 requests" in told.what


def test_recorded_requests_stay_as_they_are_and_the_remedy_is_one(given, windows):
    *models, traffic = given(PLAIN, PLAIN, recorded=True)
    result = compare_models(*models, inputs=[traffic], cache_dir=windows)
    assert (result.exit_code, result.compared) == (2, 0)
    (told,) = [f for f in result.findings if f.kind == "rows_not_taken"]
    assert (
        "batches of 8 rows are taken by both versions, and 42 requests have other numbers of rows"
        in told.what
    )
    assert "nothing but tables of single rows (.npz" in told.remedy
    assert "both versions reject 42 requests" in result.to_text()


def test_a_bare_table_beside_another_stays_as_it_is_and_the_remedy_says_so(
    given, windows, tmp_path
):
    *models, bare = given(PLAIN, PLAIN, recorded=False)
    lists = tmp_path / "lists.parquet"
    pq.write_table(pa.table({"x": [[1.0] * 8, [2.0] * 8]}), lists)
    result = compare_models(*models, inputs=[bare, lists], cache_dir=windows)
    (told,) = [f for f in result.findings if f.kind == "rows_not_taken"]
    assert "333 requests have other numbers of rows" in told.what
    assert "beside any other table they are not" in told.remedy


OF_THREE = TABLE.format(n=3, k=3.0)


@pytest.mark.parametrize(
    ("versions", "recorded", "decision", "kind"),
    [
        ((PLAIN, PLAIN), True, Decision.HOLD, "rows_not_taken"),
        ((OF_THREE, TABLE.format(n="N", k=3.0)), False, Decision.PROMOTE, "rows_put_together"),
        ((OF_THREE, TABLE.format(n="N", k=3.5)), False, Decision.ROLLBACK, "rows_put_together"),
        ((model("N", 2.0), PLAIN), False, Decision.PROMOTE, "rows_put_together"),
    ],
)
def test_so_does_a_gate(given, tmp_path, versions, recorded, decision, kind):
    *models, traffic = given(*versions, recorded=recorded)
    (tmp_path / "policy.yaml").write_text(POLICY)
    result = run_gate(
        *models, traffic=[traffic], policy=tmp_path / "policy.yaml", out=tmp_path / "run",
        cache_dir=tmp_path / "cache", state_dir=tmp_path / "state",
    )  # fmt: skip
    assert result.decision is decision
    assert kind in (tmp_path / "run" / "findings.json").read_text()

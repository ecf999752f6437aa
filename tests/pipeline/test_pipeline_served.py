"""Features that production logged, through whole comparisons and gates."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gates import REFACTOR, TINY_START_NS, tiny_model

from harness.core.findings import Severity
from harness.core.policies import GraphPolicy
from harness.core.traffic import Exchange
from harness.core.verdicts import Decision
from harness.pipeline.compare import compare_models
from harness.pipeline.gate import run_gate
from harness.store.traffic import TrafficWriter
from harness.wire import MODEL_INFER
from harness.wire.messages import request_bytes, response_bytes

N = 500


@pytest.fixture
def logged(tmp_path):
    """Records N requests whose responses carry the served features beside the answer."""

    def record(**served):
        x = np.random.default_rng(7).uniform(0.5, 9, N).astype(np.float32)
        p = (1 / (1 + np.exp(-x))).astype(np.float32)
        columns = {f"feature:{n}": serve(x).astype(np.float32) for n, serve in served.items()}
        folder = tmp_path / "traffic"
        with TrafficWriter(folder) as writer:
            writer.write(
                Exchange(
                    ts_ns=TINY_START_NS + i * 1_000_000_000, latency_ns=1, code=0, method=MODEL_INFER,
                    model="tiny", version="1", request_id=f"t-{i}",
                    request=request_bytes("tiny", {"x": x[i : i + 1]}, f"t-{i}"),
                    response=response_bytes(
                        "tiny", "1",
                        {"probability": p[i : i + 1], "label": np.ones(1, np.int64),
                         **{n: v[i : i + 1] for n, v in columns.items()}},
                        f"t-{i}",
                    ),
                )
                for i in range(N)
            )  # fmt: skip
        return folder

    return record


@pytest.fixture
def model(tmp_path):
    return str(tiny_model(tmp_path / "model.onnx"))


def compared(model, traffic, windows):
    """A version against itself, without a look into the graphs."""
    return compare_models(
        model, model, inputs=[traffic], cache_dir=windows, looked_into=GraphPolicy(requests=0)
    )


@pytest.fixture
def skewed(logged, model, windows):
    return lambda serve: compared(model, logged(doubled=serve), windows)


def skews(result):
    return [f for f in result.findings if f.kind == "train_serve_skew"]


@pytest.mark.parametrize(
    ("serve", "relation", "value", "words"),
    [
        (lambda x: 2 * x * 1.609344, "scaled", 1.609344, "served = recomputed × 1.609344"),
        # Relations between two columns are the differ's, and tested there; these are said in the same words.
        pytest.param(
            lambda x: 2 * x + 7.5,
            "shifted",
            7.5,
            "served = recomputed + 7.5",
            marks=pytest.mark.long,
        ),
        pytest.param(
            np.zeros_like,
            "filled_with_zero",
            0,
            "served is 0 where the recomputed one",
            marks=pytest.mark.long,
        ),
        (
            lambda x: np.concatenate([[0], 2 * x[:-1]]),
            "stale",
            1.0,
            "served = the recomputed one's value 1 row earlier (stale copy?), in 100 % of 500 requests",
        ),
        (np.sort, "other", None, "in 100 % of 500 requests"),
    ],
)
def test_skew_is_named(serve, relation, value, words, skewed):
    result = skewed(serve)
    (found,) = skews(result)
    assert (found.where, found.relation, found.severity) == ("doubled", relation, Severity.WARNING)
    assert found.value == (value if value is None else pytest.approx(value, rel=1e-5))
    assert words in found.what
    assert result.exit_code == 0


def test_features_served_as_they_are_computed_are_no_skew(logged, model, windows):
    result = compared(model, logged(doubled=lambda x: 2 * x), windows)
    assert skews(result) == []
    assert result.intermediates["served"]["requests"] == N


def test_a_logged_feature_that_the_baseline_does_not_show_is_said(logged, model, windows):
    result = compared(model, logged(other=lambda x: x), windows)
    assert "logged feature other: the baseline's trace does not return it" in result.not_compared


def test_a_gate_tells_it_and_decides_as_before(logged, model, windows, write_policy, tmp_path):
    result = run_gate(
        model, model, traffic=[logged(doubled=lambda x: 2 * x * 60)], policy=write_policy(REFACTOR),
        out=tmp_path / "run", cache_dir=windows,
    )  # fmt: skip
    (found,) = skews(result)
    assert (found.relation, found.value) == ("scaled", 60.0)
    assert result.decision is Decision.PROMOTE
    assert not [f for f in result.findings if "feature:doubled" in f.what]


def exchanges(x, context):
    """Requests of one row each, or, where x has two columns, of two."""
    return [
        Exchange(
            ts_ns=TINY_START_NS + i * 1_000_000_000, latency_ns=1, code=0, method=MODEL_INFER,
            model="tiny", version="1", request_id=f"t-{i}", context=context[i],
            request=request_bytes("tiny", {"x": np.atleast_1d(row)}, f"t-{i}"), response=b"",
        )
        for i, row in enumerate(x)
    ]  # fmt: skip


def test_features_logged_as_context_are_compared_where_they_are_there(model, windows, tmp_path):
    x = np.random.default_rng(7).uniform(0.5, 9, N).astype(np.float32)
    context = [{"feature:doubled": str(2 * v * 60)} if i % 2 else {} for i, v in enumerate(x)]
    with TrafficWriter(tmp_path / "traffic") as writer:
        writer.write(exchanges(x, context))
    result = compared(model, tmp_path / "traffic", windows)
    (found,) = skews(result)
    assert (found.relation, found.value) == ("scaled", pytest.approx(60.0))
    served = result.intermediates["served"]
    assert (served["requests"], served["mismatched_requests"]) == (N // 2, N // 2)


def test_a_context_value_says_nothing_about_the_rows_of_a_request_with_several(
    model, windows, tmp_path
):
    x = np.random.default_rng(7).uniform(0.5, 9, (N, 2)).astype(np.float32)
    with TrafficWriter(tmp_path / "traffic") as writer:
        writer.write(exchanges(x, [{"feature:doubled": "1"}] * N))
    result = compared(model, tmp_path / "traffic", windows)
    assert skews(result) == []
    assert result.intermediates["served"]["requests"] == 0


@pytest.mark.parametrize(
    ("logged", "differ"),
    [(lambda x: 2 * x, 0), (lambda x: 2 * x + 7.5, N)],
    ids=["equal", "shifted"],
)
def test_a_column_of_a_table_is_a_logged_feature(logged, differ, model, windows, tmp_path):
    x = np.random.default_rng(7).uniform(0.5, 9, N).astype(np.float32)
    table = pa.table({"x": x, "feature:doubled": logged(x)})
    pq.write_table(table, tmp_path / "t.parquet")
    result = compared(model, tmp_path / "t.parquet", windows)
    assert result.intermediates["served"]["mismatched_requests"] == differ
    assert result.intermediates["served"]["requests"] == N
    assert len(skews(result)) == (differ > 0)


def test_logged_text_that_is_no_number_is_not_compared_and_named(model, windows, tmp_path):
    x = np.random.default_rng(7).uniform(0.5, 9, N).astype(np.float32)
    texts = np.where(np.arange(N) % 10 == 0, "none", (2 * x).astype(str))
    pq.write_table(pa.table({"x": x, "feature:doubled": texts}), tmp_path / "t.parquet")
    result = compared(model, tmp_path / "t.parquet", windows)
    assert skews(result) == []
    assert result.intermediates["served"]["requests"] == N - 50
    said = "logged feature doubled: 50 values cannot be read, such as 'none'"
    assert said in result.not_compared

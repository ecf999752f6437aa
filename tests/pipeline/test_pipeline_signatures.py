"""Versions that take or return other things than their names say, from the file to the answer."""

import json

import numpy as np
import pytest
from onnx import parser, save_model

from harness.core.errors import SignatureError
from harness.core.policies import GraphPolicy
from harness.pipeline.compare import compare_models

NEGATED = '<ir_version: 8, opset_import: ["" : 15]> m (float[{n}, 4] x) => (float[{n}, 4] y) {{ y = Neg(x) }}'
SCORES = """
<ir_version: 8, opset_import: ["" : 15, "ai.onnx.ml" : 3]>
m (float[N, 4] x) => (seq(map({key}, float)) y) {{ y = ai.onnx.ml.ZipMap<{classes}>(x) }}
"""
NUMBERS = SCORES.format(key="int64", classes="classlabels_int64s = [0, 1, 2, 3]")
WORDS = SCORES.format(key="string", classes='classlabels_strings = ["0", "1", "2", "3"]')


@pytest.fixture
def models(tmp_path):
    def saved(*texts):
        x = np.random.default_rng(1).normal(size=(30, 4)).astype(np.float32)
        np.savez(tmp_path / "t.npz", x=x)
        paths = [tmp_path / f"{i}.onnx" for i in range(2)]
        for path, text in zip(paths, texts, strict=True):
            save_model(parser.parse_model(text), str(path))
        return [str(path) for path in paths]

    return saved


@pytest.fixture
def compared(models, tmp_path, windows):
    def compare(*texts, mapping=(), traced=0):
        return compare_models(
            *models(*texts), inputs=[tmp_path / "t.npz"], cache_dir=windows, mapping=mapping,
            looked_into=GraphPolicy(requests=traced), allow_lower_isolation=True,
        )  # fmt: skip

    return compare


def test_scores_by_number_are_not_scores_by_word(compared):
    with pytest.raises(SignatureError, match=r"output y seq.map.int64,.* is y seq.map.string,"):
        compared(NUMBERS, WORDS)


@pytest.mark.parametrize("text", [NUMBERS, WORDS])
def test_scores_by_class_are_equal_to_themselves(compared, text):
    assert compared(text, text).exit_code == 0


@pytest.mark.parametrize("classes", ['"0", "1", "2", "4"', '"4", "1", "2", "0"'])
def test_scores_of_another_class_are_where_the_graphs_part(compared, classes):
    other = SCORES.format(key="string", classes=f"classlabels_strings = [{classes}]")
    found = compared(WORDS, other, traced=30)
    assert found.exit_code == 1
    assert [d.divergence.baseline for d in found.graph.report.divergences] == ["y"]
    assert "optimiser_or_runtime" not in {f.kind for f in found.findings}


def test_scores_of_the_same_classes_in_another_order_part_where_their_values_do(compared):
    other = SCORES.format(key="string", classes='classlabels_strings = ["3", "1", "2", "0"]')
    found = compared(WORDS, other, traced=30)
    assert (found.exit_code, found.graph.report.equal) == (1, 0)


def test_a_batch_that_becomes_fixed_is_refused(compared):
    with pytest.raises(SignatureError, match=r"x FP32\[\?, 4\] is x FP32\[1, 4\]"):
        compared(NEGATED.format(n="N"), NEGATED.format(n=1))


@pytest.mark.parametrize("sizes", [(1, 1), (1, "N")])
def test_a_batch_that_was_fixed_may_stay_or_become_free(compared, sizes):
    assert compared(*(NEGATED.format(n=n) for n in sizes)).exit_code == 0


def test_a_batch_that_becomes_fixed_may_be_accepted_and_is_told(compared):
    result = compared(NEGATED.format(n="N"), NEGATED.format(n=1), mapping=["narrower:x"])
    assert result.exit_code == 0
    assert (
        "input x FP32[?, 4] is x FP32[1, 4] in the candidate, which takes no other lengths than these: "
        "accepted by the mapping" in result.not_compared
    )


UNDECLARED = NEGATED.replace("[{n}, 4]", "[]")
FREE = NEGATED.format(n="N")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (UNDECLARED.format(), UNDECLARED.format()),
        (UNDECLARED.format(), FREE),
        (FREE, UNDECLARED.format()),
        (UNDECLARED.format().replace("(float[] y)", "(float[N, 4] y)"), FREE.replace("(float[N, 4] y)", "(float[] y)")),
    ],
)  # fmt: skip
def test_an_undeclared_rank_is_any(compared, old, new):
    assert compared(old, new).exit_code == 0
    assert compared(old, new.replace("Neg", "Abs")).exit_code == 1


@pytest.mark.parametrize(("text", "shape"), [(UNDECLARED.format(), (1, 3, 4)), (FREE, (3, 4))])
def test_lists_are_rows_of_an_undeclared_rank_unless_the_other_version_declares_one(
    models, tmp_path, windows, text, shape
):
    (tmp_path / "t.jsonl").write_text(json.dumps({"x": [[1.0, 2.0, 3.0, 4.0]] * 3}) + "\n")
    result = compare_models(
        *models(UNDECLARED.format(), text), inputs=[tmp_path / "t.jsonl"], cache_dir=windows,
        looked_into=GraphPolicy(requests=0), allow_lower_isolation=True,
    )  # fmt: skip
    assert (result.exit_code, result.compared) == (0, 1)
    assert result.intermediates["outputs"][0]["rows"] == shape[0]

"""What a comparison says in its text and on its page: once, and in the right words."""

import json
import re

import numpy as np
import onnx
import pytest

from harness.pipeline.compare import compare_models

TEXT = """
<ir_version: 8, opset_import: ["" : 15]>
grows (float[N] x) => (float[N] y) {{
  grown = Exp(x)
  little = Constant<value = float {{{added}}}>()
  moved = Add(grown, little)
  y = Identity(moved)
}}
"""


SPREAD = np.linspace(-14, 8, 200, dtype=np.float32)


@pytest.fixture
def compared(tmp_path, windows):
    """Compares exp(x) + one number with exp(x) + another, over seven decades."""

    def compare(old, new, features=None):
        paths = []
        for name, added in (("old", old), ("new", new)):
            model = onnx.parser.parse_model(TEXT.format(added=added))
            if features:
                onnx.helper.set_model_props(model, {"harness.features": json.dumps(features)})
            paths.append(str(tmp_path / f"{name}.onnx"))
            onnx.save(model, paths[-1])
        np.savez(tmp_path / "in.npz", x=np.random.default_rng(3).permutation(SPREAD))
        return compare_models(*paths, inputs=[tmp_path / "in.npz"], cache_dir=windows)

    return compare


def test_models_without_features_are_told_once(compared):
    text = compared("0.5", "0.5").to_text()
    assert text.count("feature") == 2
    assert (
        "- neither version declares features: nothing upstream of the outputs was compared" in text
    )
    assert "    Declare the same features in both versions' metadata." in text


def test_models_with_features_have_a_line_about_them(compared):
    text = compared("0.5", "0.5", ["grown"]).to_text()
    assert "features: 1 of 1 tensors equal; 0 requests differ" in text


def test_small_values_are_counted_in_the_graph(compared):
    result = compared("0.0", "1e-6", ["grown"])
    assert (
        "graph: 3 of 3 tensors equal in 200 requests, 2 tensors of these but for small"
        in result.to_text()
    )
    (moved,) = [s for s in result.graph.report.states if s.baseline == "moved"]
    assert 0 < moved.small < moved.rows
    assert "equal within the tolerance, and yet some small values differ" in result.to_html()


def test_graphs_whose_small_values_agree_say_nothing_of_them(compared):
    result = compared("0.5", "0.5", ["grown"])
    assert "small" not in result.to_text() + result.to_html().split("<main>")[-1]


TURNED = """
<ir_version: 8, opset_import: ["" : 15]>
turns (float[N, 3] x) => (float[N, 3] y) {{
  turned = Transpose<perm = [1, 0]>(x)
  {copy}
  factor = Constant<value = float {{{factor}}}>()
  times = Mul({read}, factor)
  y = Transpose<perm = [1, 0]>(times)
}}
"""


def test_a_tensor_without_rows_is_counted_in_batches_and_every_finding_has_a_remedy(
    tmp_path, windows
):
    np.savez(tmp_path / "in.npz", x=np.random.default_rng(3).normal(size=(120, 3)).astype("f4"))
    paths = []
    for factor, copy in (("1.5", ""), ("2.5", ""), ("1.5", "same = Identity(turned)")):
        text = TURNED.format(factor=factor, copy=copy, read="same" if copy else "turned")
        paths.append(str(tmp_path / f"{len(paths)}.onnx"))
        onnx.save(onnx.parser.parse_model(text), paths[-1])
    other, same = (
        compare_models(paths[0], path, inputs=[tmp_path / "in.npz"], cache_dir=windows)
        for path in paths[1:]
    )
    batches = r"the graphs part at times: (\d) of \1 batches differ \(of 120 requests in all; which"
    assert re.search(batches, other.to_text())
    assert re.search(r"(\d) of \1 batches", other.to_html())
    assert "y is equal in all 120 rows" in other.to_text()
    assert {f.kind for f in same.findings} == {"features_not_compared"}
    assert all(f.remedy for f in (*other.findings, *same.findings))
    assert "\n    \n" not in same.to_text()

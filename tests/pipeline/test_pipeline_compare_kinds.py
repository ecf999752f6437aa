"""Values without a row a request, or of a type that no session hands out, are compared or are no EQUAL."""

import numpy as np
import pytest

SCALAR = """
<ir_version: 8, opset_import: ["" : 15]>
m (float[N,4] x) => (float[N,4] y, float t) {{
  y = Neg(x)
  t = Constant<value = float {{{k}}}>()
}}
"""
OF_THE_BATCH = """
<ir_version: 8, opset_import: ["" : 15]>
m (float[N,4] x) => (float y) {{
  k = Constant<value = float {{{k}}}>()
  a = Mul(x, k)
  y = ReduceSum<keepdims = 0>(a)
}}
"""
TABLE = """
<ir_version: 8, opset_import: ["" : 15]>
m (float[N,4] x) => (float[N,4] y, float[3] t) {{
  y = Neg(x)
  t = Constant<value = float[3] {{1.0, 2.0, {k}}}>()
}}
"""
COLUMN_SUMS = """
<ir_version: 8, opset_import: ["" : 15]>
m (float[N,4] x) => (float[N,4] y, float[2,4] t) {{
  y = Neg(x)
  k = Constant<value = float {{{k}}}>()
  a = Mul(x, k)
  z = Constant<value = int64[1] {{0}}>()
  s = ReduceSum<keepdims = 1>(a, z)
  t = Concat<axis = 0>(s, s)
}}
"""
LOW = """
<ir_version: 9, opset_import: ["" : 19]>
m (float[N,4] x) => ({low}[N,4] y, float[N,4] z) {{
  k = Constant<value = float {{{k}}}>()
  a = Mul(x, k)
  y = Cast<to = {number}>(a)
  z = Neg(x)
}}
"""
SINGLE = """
<ir_version: 8, opset_import: ["" : 15]>
m (float[N,4] x) => (float[N,4] y) {{
  s = Constant<value = int64[2] {{1, 4}}>()
  k = Constant<value = float {{{k}}}>()
  a = Mul(x, k)
  f = Reshape(a, s)
  y = Neg(f)
}}
"""
INSIDE = """
<ir_version: 8, opset_import: ["" : 15]>
m (float[N,4] x) => (float[N,4] y) {{
  c = Constant<value = float {{{k}}}>()
  f = Neg(c)
  y = Mul(x, f)
}}
"""


DETECTIONS = """
<ir_version: 8, opset_import: ["" : 15]>
m (float[N,4] x) => (float[M,1] y) {{
  s = Constant<value = int64[2] {{-1, 1}}>()
  k = Constant<value = float {{{k}}}>()
  a = Mul(x, k)
  y = Reshape(a, s)
}}
"""
WORDS = """
<ir_version: 8, opset_import: ["" : 15, "ai.onnx.ml" : 3]>
m (float[N,4] x) => (string[N,4] y) {{
  h = Constant<value = float {{0.0}}>()
  b = Greater(x, h)
  i = Cast<to = 7>(b)
  y = ai.onnx.ml.LabelEncoder<keys_int64s = [0, 1], values_strings = ["u", {k}]>(i)
}}
"""


def two(text, old=1.0, new=1.0, **given):
    """Both versions of a drawn model."""
    return (text.format(k=k, **given) for k in (old, new))


@pytest.mark.parametrize("text", [SCALAR, OF_THE_BATCH])
@pytest.mark.parametrize(("new", "code"), [(1.0, 0), (1.5, 1)])
def test_a_scalar_output_is_compared_in_each_request(compared, text, new, code):
    result = compared(*two(text, new=new), requests=0)
    assert (result.exit_code, result.compared) == (code, 30)
    differ = [c["mismatched_requests"] for c in result.intermediates["outputs"]]
    assert max(differ) == 30 * code


@pytest.mark.parametrize(("new", "unlike"), [(1.0, []), (1.5, ["t[2]"])])
def test_a_table_is_compared_beside_ordinary_outputs(compared, new, unlike):
    result = compared(*two(TABLE, new=new), requests=0)
    assert (result.exit_code, result.compared) == (len(unlike), 30)
    columns = {c["name"]: c["mismatched_requests"] for c in result.intermediates["outputs"]}
    assert columns == {name: 30 * (name in unlike) for name in (*Y, "t[0]", "t[1]", "t[2]")}


@pytest.mark.parametrize(("new", "code"), [(1.0, 0), (1.5, 1)])
def test_a_table_that_depends_on_the_batch_is_compared_in_each_request_by_itself(
    compared, new, code
):
    result = compared(*two(COLUMN_SUMS, new=new), requests=0)
    assert (result.exit_code, result.compared) == (code, 30)
    assert "every request was replayed by itself" in result.to_text()


Y = [f"y[{i}]" for i in range(4)]
LOWS = [("bfloat16", 16), ("float8e4m3fn", 17)]


@pytest.mark.parametrize(("low", "number"), LOWS)
def test_an_output_that_no_session_hands_out_differs_in_the_graphs(compared, low, number):
    result = compared(*two(LOW, new=3.0, low=low, number=number))
    text = result.to_text()
    assert result.exit_code == 1
    assert "y differs, as 30 requests in the graphs show" in text
    assert "agree all the same" not in text


@pytest.mark.parametrize(("requests", "code"), [(60, 0), (0, 2), (10, 2)])
def test_such_an_output_is_equal_only_where_the_graphs_saw_every_request(compared, requests, code):
    # No identical file, which would prove the rest.
    result = compared(
        *two(LOW.replace("z = Neg", "q = Neg(x)\n  z = Neg"), new=np.nextafter(np.float32(1), 2),
             low="bfloat16", number=16), requests=requests,
    )  # fmt: skip
    assert result.exit_code == code
    assert any("output y" in t for t in result.not_compared) == (code == 2)


def test_answers_without_a_row_for_each_row_are_not_called_rejected(compared):
    result = compared(*two(DETECTIONS), requests=0)
    text = result.to_text()
    assert (result.exit_code, result.compared) == (2, 0)
    assert "both versions answer 30 requests with outputs that have no row for each row" in text
    assert '"y has the shape (4, 1) for 1 row"' in text
    assert "reject" not in text


REFUSING = """
<ir_version: 8, opset_import: ["" : 15]>
m (float[N,4] x) => (float[N,4] y) {{
  most = Constant<value = float {{{k}}}>()
  over = Greater(x, most)
  flags = Cast<to = 7>(over)
  six = Constant<value = int64 {{6}}>()
  count = Mul(flags, six)
  table = Constant<value = float[2] {{0.0, 0.0}}>()
  harm = Gather(table, count)
  y = Add(x, harm)
}}
"""
BOXES = """
<ir_version: 8, opset_import: ["" : 17]>
m (float[N,4] x) => (float[N,4] y, float[K] boxes) {{
  y = Neg(x)
  most = Constant<value = float {{{above}}}>()
  over = Greater(x, most)
  flags = Cast<to = 7>(over)
  any = ReduceMax<keepdims = 0>(flags)
  one = Constant<value = int64 {{1}}>()
  count = Add(any, one)
  first = Constant<value = int64[1] {{0}}>()
  times = Unsqueeze(count, first)
  k = Constant<value = float {{{k}}}>()
  left = Cast<to = 1>(any)
  wrong = Mul(left, k)
  axis = Constant<value = int64[1] {{1}}>()
  sum = ReduceSum<keepdims = 0>(x, axis)
  harm = Add(sum, wrong)
  boxes = Tile(harm, times)
}}
"""


MANY_BOXES, BOXES_ONCE = BOXES.replace("{above}", "1.0"), BOXES.replace("{above}", "2.6")


@pytest.mark.parametrize(
    ("text", "old", "new", "code", "unanswered"),
    [
        (REFUSING, 1.5, 1.5000001, 2, True),
        (REFUSING, 2.6, 2.6000002, 0, False),
        (REFUSING, 1.5, 9.0, 1, False),
        (MANY_BOXES, 1.0, 9.0, 2, True),
        (BOXES_ONCE, 1.0, 9.0, 2, False),
    ],
    ids=[
        "both refuse many",
        "both refuse one",
        "one refuses",
        "both answer without a row for each",
        "both answer one without a row for each",
    ],
)
def test_what_neither_version_answers_is_bounded(compared, text, old, new, code, unanswered):
    result = compared(*two(text, old=old, new=new), requests=0)
    assert result.exit_code == code
    assert 0 < result.compared < 30
    assert ("neither version answers" in result.to_text()) == unanswered
    assert ("whether both answer alike is not known" in result.to_text()) == (text != REFUSING)


@pytest.mark.parametrize(("old", "new"), [("v", "v\u200b"), ("\u00e9", "e\u0301"), ("v", "v ")])
def test_words_that_differ_look_different(compared, old, new):
    told = compared(*two(WORDS, old=f'"{old}"', new=f'"{new}"')).to_text()
    (line,) = [t for t in told.splitlines() if "values_strings" in t]
    shown = [ascii(w) if "\u0301" in w else repr(w) for w in (old, new)]
    assert f"['u', {shown[0]}] → ['u', {shown[1]}]" in line


def test_a_scalar_feature_of_the_same_version_is_no_difference(compared):
    assert compared(*two(INSIDE), ["f"], requests=0).exit_code == 2
    assert compared(*two(INSIDE), ["f"]).exit_code == 0


def test_versions_that_answer_only_single_requests_are_compared_with_their_features(compared):
    result = compared(*two(SINGLE), ["f"])
    text = result.to_text()
    assert (result.exit_code, result.compared) == (0, 30)
    assert "features: 1 of 1 tensors equal (4 of 4 columns)" in text
    assert "the candidate fails" not in text
    assert "in one batch only" not in text

"""Features and outputs that no trace returns, where the rest still proves them equal: no NOT COMPARABLE."""

import pytest

LOW = """
<ir_version: 9, opset_import: ["" : 19]>
m (float[N,4] x) => (float8e4m3fn[N,4] y) {{
  k = Constant<value = float {{{k}}}>()
  a = Mul(x, k)
  y = Cast<to = 17>(a)
}}
"""
LOW_AFTER_PARTS = """
<ir_version: 9, opset_import: ["" : 19]>
m (float[N,4] x) => (float8e4m3fn[N,4] y) {{
  k = Constant<value = float {{{k}}}>()
  a = Mul(x, k)
  f = SequenceConstruct(a, x)
  g = ConcatFromSequence<axis = 1>(f)
  b = Sigmoid(x)
  y = Cast<to = 17>(b)
}}
"""
LOW_WITHOUT_VALUES = """
<ir_version: 9, opset_import: ["" : 19]>
m (float[N,4] x) => (float8e4m3fn[N,0] y) {{
  k = Constant<value = float {{{k}}}>()
  a = Mul(x, k)
  s = Constant<value = int64[1] {{0}}>()
  i = Constant<value = int64[1] {{1}}>()
  b = Slice(a, s, s, i)
  y = Cast<to = 17>(b)
}}
"""
PLAIN = """
<ir_version: 8, opset_import: ["" : 15]>
m (float[N,4] x) => (float[N,4] y) <float[4] w = {{1.0, 2.0, 3.0, {k}}}> {{
  c = Identity(w)
  m = Mul(x, c)
  {sign}
}}
"""
TANH, SIGN = "y = Tanh(m)", "z = Abs(m)\n  y = Sign(z)"


@pytest.mark.parametrize(("requests", "code", "counted"), [(60, 0, 30), (10, 0, 10), (0, 2, 0)])
def test_an_only_output_that_no_session_hands_out_is_equal_to_itself_where_the_graphs_show_it(
    compared, requests, code, counted
):
    one = LOW.format(k=1.0)
    result = compared(one, one, requests=requests)
    assert (result.exit_code, result.compared) == (code, counted)
    assert any("output y" in t for t in result.not_compared) == (code == 2)


@pytest.mark.parametrize(
    ("low", "number", "k", "code"), [("bfloat16", 16, 1.0, 0), ("float8e5m2", 19, 1.5, 1)]
)
def test_so_is_one_of_a_type_that_the_runtime_cannot_return(compared, low, number, k, code):
    text = LOW.replace("float8e4m3fn", low).replace("17", str(number))
    result = compared(text.format(k=1.0), text.format(k=k))
    assert (result.exit_code, result.compared) == (code, 30)
    assert "reject" not in result.to_text()


@pytest.mark.parametrize(
    ("k", "requests", "code"), [(1.01, 60, 1), (1.0000001, 60, 0), (1.0000001, 10, 2)]
)
def test_such_an_output_of_another_file_is_equal_only_where_the_graphs_saw_every_request(
    compared, k, requests, code
):
    assert compared(LOW.format(k=1.0), LOW.format(k=k), requests=requests).exit_code == code


def test_beside_such_an_output_a_sequence_that_few_requests_show_stays_unproven(compared):
    old, new = (LOW_AFTER_PARTS.format(k=k) for k in (1.0, 1.0000001))
    result = compared(old, new, ["f"], requests=10)
    assert result.exit_code == 2
    assert any("equal in the 10 requests" in t and "f" in t for t in result.not_compared)


def test_such_an_output_without_a_value_is_not_called_equal(compared):
    one = LOW_WITHOUT_VALUES.format(k=1.0)
    assert compared(one, one).exit_code == 2


@pytest.mark.parametrize(
    ("feature", "requests", "why"),
    [
        ("c", 10, "is a constant of the same values in both versions"),
        ("w", 10, "is a constant of the same values in both versions"),
        ("x", 0, "is an input: both versions are given the same values"),
        ("y", 0, "is an output, and equal as such"),
    ],
)
def test_a_feature_that_needs_no_trace_is_equal(compared, feature, requests, why):
    # Another file, of which identical bytes prove nothing.
    old, new = (PLAIN.format(k=4.0, sign=s) for s in ("y = Tanh(m)", "z = Neg(m)\n  y = Tanh(m)"))
    result = compared(old, new, [feature], requests)
    assert result.exit_code == 0
    assert f"{feature} {why}" in result.to_text()
    assert "features: 1 of 1 tensors equal; 0 requests differ" in result.to_text()
    assert not [f for f in result.findings if f.kind == "features_not_compared"]


@pytest.mark.parametrize(("feature", "requests"), [("c", 10), ("w", 0), ("nope", 10)])
def test_a_feature_that_nothing_shows_equal_is_no_parity(compared, feature, requests):
    # The outputs agree, whatever the constant is.
    old, new = (PLAIN.format(k=k, sign=SIGN) for k in (4.0, 5.0))
    result = compared(old, new, [feature], requests)
    assert result.exit_code == 2
    assert feature in " ".join(f.what for f in result.findings if f.kind == "features_not_compared")


def test_an_output_that_differs_is_no_equal_feature(compared):
    old, new = (PLAIN.format(k=k, sign=TANH) for k in (4.0, 5.0))
    result = compared(old, new, ["y"], 0)
    assert result.exit_code == 1
    assert "is an output, and equal" not in result.to_text()

"""Candidates of the tiny model that do harm when x is above a threshold; below it they answer as it does.

Each adds 0 or worse to p = sigmoid(x): the sum must be computed, so that nothing can be optimised away.
"""

from __future__ import annotations

from pathlib import Path

ALWAYS, POISON = -1e9, 4.0
"""Thresholds: every request, and only those that a test plants."""

_FRAME = """
<ir_version: 8, opset_import: ["" : 15]>
hostile (float[N] x) => (float[N] probability, int64[N] label) {{
  doubled = Add(x, x)
  threshold = Constant<value = float {{{threshold}}}>()
  over = Greater(x, threshold)
  flags = Cast<to = 7>(over)
  any = ReduceMax<keepdims = 0>(flags)
  zero = Sub(x, x)
{lines}
  harmed = Add(x, harm)
  probability = Sigmoid(harmed)
  half = Constant<value = float {{0.5}}>()
  yes = GreaterOrEqual(probability, half)
  label = Cast<to = 7>(yes)
}}
"""
CRASH = """
  lowest = Constant<value = int64 {-9223372036854775808}>()
  minus = Constant<value = int64 {-1}>()
  one = Constant<value = int64 {1}>()
  top = Where(over, lowest, one)
  quotient = Div(top, minus)
  wide = Cast<to = 1>(quotient)
  harm = Mul(wide, zero)
"""
"""INT_MIN / −1: SIGFPE."""
LOOP = """
  many = Constant<value = int64 {4611686018427387904}>()
  times = Mul(any, many)
  harm = Loop<body = turn (int64 i, bool c, float[M] v) => (bool c2, float[M] v2) {
    c2 = Identity(c)
    v2 = Add(v, v)
  }>(times, , zero)
"""
"""2**62 turns."""
HUNGRY = """
  one_axis = Constant<value = int64[1] {0}>()
  big = Constant<value = int64 {13421772800}>()
  size = Mul(any, big)
  shape = Unsqueeze(size, one_axis)
  block = ConstantOfShape<value = float[1] {0.0}>(shape)
  total = ReduceSum<keepdims = 0>(block)
  harm = Mul(zero, total)
"""
"""50 GB of float32."""
ERROR = """
  sixes = Constant<value = int64 {6}>()
  index = Mul(flags, sixes)
  table = Constant<value = float[2] {0.0, 0.0}>()
  harm = Gather(table, index)
"""
"""An index out of range: the runtime raises."""


def hostile_model(path: Path, lines: str, threshold: float) -> Path:
    """Writes a candidate.

    Args:
      path: where to.
      lines: one of this module's harms.
      threshold: x above which it is done.
    """
    import onnx
    from onnx import parser

    model = parser.parse_model(_FRAME.format(lines=lines, threshold=threshold))
    onnx.helper.set_model_props(
        model,
        {"harness.features": '["doubled"]', "harness.training_cutoff": "2020-01-01T00:00:00Z"},
    )
    onnx.save_model(model, str(path))
    return path

"""Element types of ONNX as TensorProto numbers them, and which numbers each of them holds.

A type is known by its significant bits, its smallest step from 0 and its largest value. It holds another one's
numbers where it has at least as many bits, as fine a step, and reaches as far. Runs in a sandboxed child.
"""

from __future__ import annotations

from dataclasses import dataclass

UNKNOWN, SINGLE, INT64, STRING, BOOL, DOUBLE = 0, 1, 7, 8, 9, 11
FLOATS = frozenset({SINGLE, 10, 16, 17, 18, 19, 20, 23, 24, 27, 28})
"""float32 and all that is narrower."""
WHOLE = frozenset({2, 3, 4, 5, 6, INT64, STRING, BOOL, 12, 13, 21, 22, 25, 26})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Numbers:
    """What a type holds."""

    bits: int
    """Significant ones; of whole numbers those that the largest odd ones need."""
    least: int
    """Exponent of 2 of the smallest step from 0."""
    most: float
    """Largest finite value."""


def _numbers(bits: int, least: int, most: float) -> _Numbers:
    return _Numbers(bits=bits, least=least, most=most)


_HELD = {
    SINGLE: _numbers(24, -149, (2.0 - 2.0**-23) * 2.0**127),
    10: _numbers(11, -24, 65504.0),
    DOUBLE: _numbers(53, -1074, (2.0 - 2.0**-52) * 2.0**1023),
    16: _numbers(8, -133, (2.0 - 2.0**-7) * 2.0**127),
    17: _numbers(4, -9, 448.0),
    18: _numbers(4, -10, 240.0),
    19: _numbers(3, -16, 57344.0),
    20: _numbers(3, -17, 57344.0),
    23: _numbers(2, -1, 6.0),
    24: _numbers(1, -127, 2.0**127),
    27: _numbers(4, -3, 7.5),
    28: _numbers(3, -4, 28.0),
    2: _numbers(8, 0, 255.0),
    3: _numbers(7, 0, 128.0),
    4: _numbers(16, 0, 65535.0),
    5: _numbers(15, 0, 32768.0),
    6: _numbers(31, 0, 2.0**31),
    INT64: _numbers(63, 0, 2.0**63),
    BOOL: _numbers(1, 0, 1.0),
    12: _numbers(32, 0, 2.0**32 - 1.0),
    13: _numbers(64, 0, 2.0**64),
    21: _numbers(4, 0, 15.0),
    22: _numbers(3, 0, 8.0),
    25: _numbers(2, 0, 3.0),
    26: _numbers(1, 0, 2.0),
}
"""Types that have numbers. float16, bfloat16, float8 (E4M3FN, E4M3FNUZ, E5M2, E5M2FNUZ), float4 (E2M1), E8M0 and
float6 (E2M3, E3M2) are 10, 16, 17 to 20, 23, 24, 27 and 28; the others whole numbers."""
_POWERS = 24
"""A type of powers of 2: it has no 0 and no sign."""
_ONE_ZERO = (18, 20)
"""Types that have no −0, as all other floats do."""


def holds(kind: int, given: int) -> bool:
    """Whether every number of one type is one of another's: False where this is not known.

    Args:
      kind: the type that a number is cast to.
      given: the type that it has.
    """
    if kind == given:
        return kind != UNKNOWN
    wide, narrow = _HELD.get(kind), _HELD.get(given)
    if wide is None or narrow is None or kind == _POWERS:
        return False
    if kind in _ONE_ZERO and given not in WHOLE:
        return False
    return narrow.bits <= wide.bits and narrow.least >= wide.least and narrow.most <= wide.most

"""Sequences and optionals as their tensors and a short text that says how these hang together.

`t` is a tensor, `-` an optional that is absent, `[…]` a sequence of tensors. ONNX has no deeper nests:
no sequence of sequences is ever made. The text is checked against the declared type, so a child cannot
claim a structure that its model does not return.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

MOST_LEAVES = 20_000
"""Tensors in the values of one answer: a header of 4 MB describes no more."""
ANY_FORM = re.compile(r"\[t*\]|t|-")
_FORMS = (
    ("optional(seq(", "))", re.compile(r"\[t*\]|-")),
    ("optional(", ")", re.compile(r"t|-")),
    ("seq(", ")", re.compile(r"\[t*\]")),
)
"""Beginning and end of a type, and the forms of its values."""


def leaf_kind(kind: str) -> str:
    """The type of the tensors inside: tensor(float) for seq(tensor(float)); "" for all other types."""
    for begin, end, _ in _FORMS:
        if kind.startswith(begin) and kind.endswith(end):
            inner = kind[len(begin) : -len(end)]
            return inner if inner.startswith("tensor(") else ""
    return ""


def fits(form: str, kind: str) -> bool:
    """Whether a value of a type that has a `leaf_kind` can have the form."""
    return next(f for begin, _, f in _FORMS if kind.startswith(begin)).fullmatch(form) is not None


def taken_apart(value: Any) -> tuple[str, list[Array]]:  # noqa: ANN401 - what onnxruntime returns
    """A value's form and its tensors in order.

    Raises:
      TypeError: it holds something else.
      ValueError: it holds more than MOST_LEAVES tensors.
    """
    if value is None:
        return "-", []
    leaves = value if isinstance(value, list) else [value]
    if len(leaves) > MOST_LEAVES:
        msg = f"a sequence of {len(leaves)} tensors; at most {MOST_LEAVES} can be compared"
        raise ValueError(msg)
    odd = [type(v).__name__ for v in leaves if not isinstance(v, np.ndarray | np.generic)]
    if odd:
        msg = f"a sequence holds a {odd[0]}, which cannot be compared"
        raise TypeError(msg)
    return f"[{'t' * len(leaves)}]" if isinstance(value, list) else "t", list(
        map(np.asarray, leaves)
    )


def put_together(forms: Mapping[str, str], leaves: Iterable[Array]) -> dict[str, list[Array]]:
    """Sequences as onnxruntime takes them.

    Args:
      forms: name → form of a sequence.
      leaves: the tensors of all of them, in order.
    """
    left = iter(leaves)
    return {name: list(itertools.islice(left, form.count("t"))) for name, form in forms.items()}

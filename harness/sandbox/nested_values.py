"""Sequences and optionals that a child sent, checked and put together."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from harness.core.tensors import Array, Nested
from harness.sandbox.child import columns, nested
from harness.sandbox.child.frames import FrameError

T = TypeVar("T")
Forms = tuple[tuple[str, str], ...]
"""(name, form), in the order in which their tensors were sent."""
_MOST_FORM = nested.MOST_LEAVES + 2


def forms_from(given: object, leaves: Sequence[columns.Entry]) -> Forms:
    """The forms of an answer's nested values, which take up all its leaves and no more.

    Args:
      given: the header's table of forms.
      leaves: the tensors that were sent for them.

    Raises:
      FrameError: it is none, a form is none, the tensors are other ones, or a value mixes types.
    """
    if not isinstance(given, dict):
        msg = "the forms of sequences are missing"
        raise FrameError(msg)
    forms: list[tuple[str, str]] = []
    for name, form in given.items():
        fair = isinstance(form, str) and len(form) <= _MOST_FORM and nested.ANY_FORM.fullmatch(form)
        if not fair or not columns.is_unicode(name):
            msg = f"sequence {name[:200]!r} has no valid form"
            raise FrameError(msg)
        forms.append((name, form))
    told = sum(form.count("t") for _, form in forms)
    if [leaf.name for leaf in leaves] != [str(place) for place in range(told)]:
        msg = f"{len(leaves)} tensors came for sequences that hold {told}"
        raise FrameError(msg)
    for (name, _), parts in _shared_out(forms, leaves):
        if len({columns.DTYPES[leaf.dtype] for leaf in parts}) > 1:
            msg = f"sequence {name[:200]!r} mixes types"
            raise FrameError(msg)
    return tuple(forms)


def expect_declared(
    forms: Forms,
    leaves: Sequence[columns.Entry],
    kinds: Mapping[str, str],
    dtypes: Mapping[str, np.dtype[np.generic]],
) -> None:
    """The values are those that the signature declares.

    Args:
      forms: from `forms_from`.
      leaves: their tensors.
      kinds: name → onnxruntime's type, of all nested values that are due.
      dtypes: type of a plain tensor → what it becomes.

    Raises:
      FrameError: one is missing, of another form or of another dtype.
    """
    if {name for name, _ in forms} != set(kinds):
        msg = f"the sequences are not those of the signature: {str(sorted(kinds)[:10])[:1000]}"
        raise FrameError(msg)
    for (name, form), parts in _shared_out(forms, leaves):
        dtype = dtypes[nested.leaf_kind(kinds[name])]
        if not nested.fits(form, kinds[name]) or any(
            columns.DTYPES[leaf.dtype] != dtype for leaf in parts
        ):
            held = parts[0].dtype if parts else "nothing"
            msg = f"output {name[:200]!r} came as {form[:40]} of {held}, declared as {kinds[name]}"
            raise FrameError(msg)


def nested_from(forms: Forms, leaves: Iterable[Array]) -> dict[str, Nested]:
    """The values themselves.

    Args:
      forms: from `forms_from`.
      leaves: all their tensors.
    """
    return {
        name: Nested(form=form, leaves=tuple(parts))
        for (name, form), parts in _shared_out(forms, leaves)
    }


def _shared_out(
    forms: Iterable[tuple[str, str]], leaves: Iterable[T]
) -> list[tuple[tuple[str, str], list[T]]]:
    """Each value's own part of the leaves."""
    left = iter(leaves)
    return [(entry, list(itertools.islice(left, entry[1].count("t")))) for entry in forms]

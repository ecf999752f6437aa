"""Sequences and optionals, request by request: their form first, then all their values as one column.

A request's value has no rows. Where both sides have the same form and shapes, the values of all
tensors stand in one column, owned by the request; where they have not, the request differs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.core.tensors import Array, Ints, Nested
from harness.diff.columns import Aligned, ComparedRows


@dataclass(frozen=True, slots=True, kw_only=True)
class LaidOut:
    """The compared requests' values of one output."""

    values: Aligned
    """One column: the values of requests whose forms and shapes are the same."""
    view: ComparedRows
    """Of these values: each is a row."""
    unlike: Aligned
    """One row for each other request."""
    unlike_view: ComparedRows
    """Of these."""


def laid_out(baseline: Array, candidate: Array, view: ComparedRows) -> LaidOut:
    """Lays the values of sequences out for a comparison by rows.

    Args:
      baseline: `Nested` in each of the compared rows, shape (R',).
      candidate: the same.
      view: whose rows they are.
    """
    first = np.flatnonzero(np.diff(view.owner, prepend=-1))
    ours: list[Array] = []
    theirs: list[Array] = []
    alike: list[int] = []
    apart: list[int] = []
    why = ""
    for row in first.tolist():
        before, after = baseline[row], candidate[row]
        said = unlike(before, after)
        if said:
            apart.append(int(view.owner[row]))
            why = why or said
            continue
        alike.append(int(view.owner[row]))
        ours.append(before.flat())
        theirs.append(after.flat())
    owner = np.repeat(np.array(alike, np.int64), [len(part) for part in ours])
    nothing = np.empty((len(apart), 0))
    return LaidOut(
        values=Aligned(labels=("",), baseline=_column(ours), candidate=_column(theirs)),
        view=_owned(owner, view),
        unlike=Aligned(labels=("",), baseline=nothing, candidate=nothing, unlike=why),
        unlike_view=_owned(np.array(apart, np.int64), view),
    )


def unlike(baseline: Nested, candidate: Nested) -> str:
    """Why two values cannot be compared number by number; "" where they can."""
    if baseline.form != candidate.form:
        return f"it was {_shown(baseline)} and is {_shown(candidate)}"
    for place, (ours, theirs) in enumerate(zip(baseline.leaves, candidate.leaves, strict=True)):
        if ours.shape != theirs.shape:
            which = f"tensor {place} of it" if len(baseline.leaves) > 1 else "its tensor"
            return f"{which} had the shape {list(ours.shape)} and has {list(theirs.shape)}"
    return ""


def _shown(value: Nested) -> str:
    if value.form == "-":
        return "absent"
    if value.form == "t":
        return "a tensor"
    count = len(value.leaves)
    return f"a sequence of {count} tensor{'' if count == 1 else 's'}"


def _column(parts: list[Array]) -> Array:
    filled = [part for part in parts if len(part)]
    return np.concatenate(filled).reshape(-1, 1) if filled else np.empty((0, 1))


def _owned(owner: Ints, view: ComparedRows) -> ComparedRows:
    return ComparedRows(
        requests=view.requests,
        rows=None,
        owner=owner,
        ids=view.ids,
        single=False,
        total=len(owner),
        count=len(np.unique(owner)),
    )

"""Which operators of two regions stand for each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.core.graphs import Node

_MOST_CELLS = 250_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """Two lists of operators side by side."""

    pairs: list[tuple[Node, Node]]
    """One that stands for one."""
    replaced: list[tuple[Sequence[Node], Sequence[Node]]] = field(default_factory=list)
    """Some in whose place the candidate has another number of others."""
    removed: list[Node] = field(default_factory=list)
    """Only the baseline has them, and nothing in their place."""
    added: list[Node] = field(default_factory=list)
    """Only the candidate has them, and the baseline nothing in their place."""


def aligned_nodes(ours: Sequence[Node], theirs: Sequence[Node]) -> Alignment:
    """Which operators stand for which.

    The last ones make the same matched tensor, so the lists are aligned from their ends: equal
    operators as a longest common subsequence, then what is left between two of these, one for one.
    """
    n, m = len(ours), len(theirs)
    if n * m > _MOST_CELLS:
        common: list[tuple[int, int]] = []
    else:
        common = _common_subsequence([x.op for x in ours], [x.op for x in theirs])
    found = Alignment(pairs=[(ours[i], theirs[j]) for i, j in common])
    before = (-1, -1)
    for i, j in [*common, (n, m)]:
        left, right = ours[before[0] + 1 : i], theirs[before[1] + 1 : j]
        if len(left) == len(right):
            found.pairs.extend(zip(left, right, strict=True))
        elif left and right:
            found.replaced.append((left, right))
        else:
            found.removed.extend(left)
            found.added.extend(right)
        before = (i, j)
    return found


def _common_subsequence(ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[int, int]]:
    n, m = len(ours), len(theirs)
    longest = [[0] * (m + 1) for _ in range(n + 1)]
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            same = ours[i - 1] == theirs[j - 1]
            longest[i][j] = (
                longest[i - 1][j - 1] + 1 if same else max(longest[i - 1][j], longest[i][j - 1])
            )
    found = []
    while n and m:
        if ours[n - 1] == theirs[m - 1]:
            found.append((n - 1, m - 1))
            n, m = n - 1, m - 1
        elif longest[n - 1][m] >= longest[n][m - 1]:
            n -= 1
        else:
            m -= 1
    return found[::-1]

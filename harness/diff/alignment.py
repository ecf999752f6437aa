"""Which operators of two regions stand for each other."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.graphs import Node

_MOST_CELLS = 250_000


def aligned_nodes(
    ours: Sequence[Node], theirs: Sequence[Node]
) -> tuple[list[tuple[Node, Node]], list[Node], list[Node]]:
    """Nodes that stand for each other, those only the baseline has, those only the candidate has.

    The last ones make the same matched tensor, so the lists are aligned from their ends: equal
    operators as a longest common subsequence, then what is left between two of these, one for one.
    """
    n, m = len(ours), len(theirs)
    if n * m > _MOST_CELLS:
        common: list[tuple[int, int]] = []
    else:
        common = _common_subsequence([x.op for x in ours], [x.op for x in theirs])
    pairs = [(ours[i], theirs[j]) for i, j in common]
    removed: list[Node] = []
    added: list[Node] = []
    before = (-1, -1)
    for i, j in [*common, (n, m)]:
        left, right = ours[before[0] + 1 : i], theirs[before[1] + 1 : j]
        if len(left) == len(right):
            pairs += zip(left, right, strict=True)
        else:
            removed += left
            added += right
        before = (i, j)
    return pairs, removed, added


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

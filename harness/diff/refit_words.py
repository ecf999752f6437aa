"""Vocabularies that gained words at their end: old codes mean what they did, and no fault is in the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.core.counted import counted
from harness.core.tensors import Array
from harness.diff.reports import Refit

VOCABULARY = "vocabulary"
_WORDS = 4
Words = Mapping[str, tuple[str, ...]]


def gained(old: tuple[str, ...] | None, new: tuple[str, ...] | None) -> tuple[int, int] | None:
    """(words before, words after) where the candidate knows more words and every old code is as it was."""
    if not old or not new or len(new) <= len(old) or new[: len(old)] != old:
        return None
    return len(old), len(new)


def without_gained(baseline: Array, candidate: Array, counts: tuple[int, int]) -> Array:
    """The candidate's codes, as the baseline's where only the baseline does not know the word.

    Args:
      baseline: codes, shape (R, …); outside [0, before) = an unknown word.
      candidate: the same of the candidate.
      counts: see `gained`.
    """
    before, after = counts
    if baseline.shape != candidate.shape or "O" in (baseline.dtype.kind, candidate.dtype.kind):
        return candidate
    old, code = (side.astype(np.float64) for side in (baseline, candidate))
    new = ~((old >= 0) & (old < before)) & (code >= before) & (code < after)
    return np.where(new, baseline, candidate) if new.any() else candidate


def gained_words(pairs: Sequence[tuple[str, str]], words: tuple[Words, Words]) -> list[Refit]:
    """One entry a vocabulary of the candidate's that has more words at its end.

    Args:
      pairs: (baseline's, candidate's) names of the raw features.
      words: vocabularies of baseline and candidate.
    """
    found = []
    for ours, theirs in pairs:
        old, new = words[0].get(ours), words[1].get(theirs)
        counts = gained(old, new)
        if old is None or new is None or counts is None:
            continue
        more = new[counts[0] :]
        some = ", ".join(more[:_WORDS]) + (" …" if len(more) > _WORDS else "")
        found.append(
            Refit(
                tensor=ours, feature=ours, role=VOCABULARY, baseline=counted(counts[0], "word"),
                candidate=f"{counted(counts[1], 'word')}, new: {some}", suspicious="",
            )
        )  # fmt: skip
    return found

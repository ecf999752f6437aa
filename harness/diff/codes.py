"""Categories under other codes, and words that changed."""

from __future__ import annotations

import numpy as np

from harness.core.counted import counted
from harness.core.tensors import Array, Bools, Floats, Ints
from harness.core.words import coded
from harness.diff.pairs import ENOUGH, Pairs, Relation, RelationKind, Vocabularies

_CHECKS = 3
"""Differing rows per distinct code: with fewer, any pairing of codes would look like a rule."""
_MOST = 0.5
"""Share of the rows of codes that became others, from which on no chance is asked about."""
_UNTOUCHED = 7.0
"""Rows of a code that must have become another one, on average, so that it is no accident that none did."""
_SELDOM = 1e-4
"""Chance below which few rows show a rule."""
_MOST_CODES = 2048
_SHOWN = 4
_MOST_TOLD = 200
"""Characters of a word."""
_FEW = 3


def permuted(pairs: Pairs) -> Relation | None:
    """Whole numbers whose values stand for each other one to one."""
    finite = np.isfinite(pairs.baseline) & np.isfinite(pairs.candidate)
    if finite[pairs.differs].mean() < ENOUGH:
        return None
    before, after = pairs.baseline[finite], pairs.candidate[finite]
    if not ((before == np.round(before)).all() and (after == np.round(after)).all()):
        return None
    codes, was = np.unique(before, return_inverse=True)
    found = _bijection(was, after, pairs.differs[finite])
    if found is None or len(codes) > _MOST_CODES:
        return None
    from_codes, image, share = found
    moved = [(float(codes[b]), float(c)) for b, c in zip(from_codes, image, strict=True)]
    return Relation(
        kind=RelationKind.PERMUTED,
        value=None,
        share=share,
        text=_permuted_text(moved, pairs.vocabularies),
    )


def name_words(baseline: Array, candidate: Array) -> Relation:
    """Names the relation between two columns of words, shape (r,)."""
    differs = np.asarray(baseline != candidate, dtype=np.bool_)
    if not differs.any():
        return Relation(kind=RelationKind.EQUAL, value=None, share=1.0, text="candidate = baseline")
    before, after = baseline[differs], candidate[differs]
    olds, news = set(before.tolist()), set(after.tolist())
    if (
        len(before) >= _FEW
        and len(news) == 1
        and (len(olds) > 1 or olds.isdisjoint(baseline[~differs]))
    ):
        where = (
            f"wherever the baseline is {_told(olds.pop())}"
            if len(olds) == 1
            else "where the baseline has other words"
        )
        text = f"candidate is {_told(news.pop())} {where}"
        return Relation(kind=RelationKind.FILLED_WITH_CONSTANT, value=None, share=1.0, text=text)
    plain = [
        str(b).strip().casefold() == str(c).strip().casefold()
        for b, c in zip(before, after, strict=True)
    ]
    if np.mean(plain) >= ENOUGH:
        text = "candidate differs only in capitals or blanks at the ends"
        return Relation(kind=RelationKind.OTHER, value=None, share=float(np.mean(plain)), text=text)
    return _renamed(baseline, candidate, differs)


def _renamed(baseline: Array, candidate: Array, differs: Bools) -> Relation:
    words, was = coded(baseline)
    _, now = coded(candidate)
    found = _bijection(was, now.astype(np.float64), differs)
    if found is None:
        several = len(set(baseline[differs].tolist()))
        verb = "differs" if several == 1 else "differ"
        text = f"{counted(several, 'word')} {verb}, with no rule"
        return Relation(kind=RelationKind.OTHER, value=None, share=0.0, text=text)
    first = {str(b): str(c) for b, c in zip(baseline[differs], candidate[differs], strict=True)}
    moved = [(b, first[b]) for b in words if b in first and first[b] != b]
    some = ", ".join(f"{_short(b)} → {_short(c)}" for b, c in moved)
    return Relation(
        kind=RelationKind.PERMUTED,
        value=None,
        share=found[2],
        text=f"words stand for each other: {_cut(some)}",
    )


def _told(word: object) -> str:
    """A word in quotes."""
    text = str(word) if isinstance(word, str) else repr(word)
    return (
        repr(word)
        if len(text) <= _MOST_TOLD
        else f"{text[:_MOST_TOLD]!r}… ({len(text):,} characters)"
    )


def _short(word: str) -> str:
    """The beginning of a word."""
    return word if len(word) <= _MOST_TOLD else f"{word[:_MOST_TOLD]}…"


def _bijection(was: Ints, now: Floats, differs: Bools) -> tuple[Ints, Floats, float] | None:
    """Which codes became which values, and the share of differing rows that say so; None if not one to one.

    What the differing rows show is asked, so that rows which nothing happened to spoil nothing. Where most rows
    of these codes are such ones, more rows must agree than do by chance: of two codes each is the other's.

    Args:
      was: index of the baseline's distinct code, shape (r,).
      now: the candidate's value, shape (r,).
      differs: rows to explain, shape (r,).
    """
    moved = np.unique(was[differs])
    if len(moved) < 2 or differs.sum() < _CHECKS * len(moved):  # noqa: PLR2004 - one code is a fill
        return None
    values, after = np.unique(now, return_inverse=True)
    kept, became = (
        _most_frequent(was[~differs], after[~differs]),
        _most_frequent(was[differs], after[differs]),
    )
    codes, image = (np.array(side) for side in zip(*sorted(became.items()), strict=True))
    if len(np.unique(image)) < len(image):
        return None
    best = np.zeros(int(was.max()) + 1, dtype=np.int64)
    best[codes] = image
    share = float((best[was[differs]] == after[differs]).mean())
    touched = float(differs[np.isin(was, moved)].mean())
    rows = np.bincount(was)
    # A code that only stays as it is, and that another one became: two codes are one now.
    merged = [c for c, to in kept.items() if c not in became and to in image]
    if any(rows[c] * touched >= _UNTOUCHED for c in merged) or share < ENOUGH:
        return None
    if touched < _MOST and _chance(was, after, differs, kept, image) > _SELDOM:
        return None
    return codes, values[image].astype(np.float64), share


def _most_frequent(was: Ints, after: Ints) -> dict[int, int]:
    """Per code what most of its rows have; rows of shape (n,)."""
    pairs, counts = np.unique(np.stack([was, after]), axis=1, return_counts=True)
    by_count = np.argsort(counts, kind="stable")
    return dict(pairs[:, by_count].T.tolist())


def _chance(was: Ints, after: Ints, differs: Bools, kept: dict[int, int], image: Ints) -> float:
    """How often values that are drawn anew in these rows are the same for the same code.

    Drawn among the values of the codes that became others, as the candidate has them, but for a row's own: of
    two codes each is the other's.

    Args:
      was: index of the baseline's distinct code, shape (r,).
      after: index of the candidate's distinct value, shape (r,).
      differs: rows to explain, shape (r,).
      kept: code → its own value, where it still has it.
      image: what the codes became.
    """
    moved, first = np.unique(was[differs], return_index=True)
    among = np.union1d(image, [kept[c] for c in moved.tolist() if c in kept]).astype(np.int64)
    common = np.zeros(int(after.max()) + 1)
    counts = np.bincount(after)
    common[among] = counts[among] / counts[among].sum()
    own = np.zeros(int(was.max()) + 1)
    for code in moved.tolist():
        own[code] = common[kept[code]] if code in kept else 0.0
    one = np.fmin(common[after[differs]] / np.fmax(1.0 - own[was[differs]], _SELDOM), 1.0)
    # What no rule explains shows none; and the first row of each code says what it becomes.
    one[~np.isin(after[differs], among)] = 1.0
    return float(np.delete(one, first).prod())


def _permuted_text(moved: list[tuple[float, float]], vocabularies: Vocabularies) -> str:
    old, new = vocabularies
    words = [_word(b, old) for b, _ in moved]
    if old is not None and new is not None:
        renamed = [_word(c, new) for _, c in moved]
        if words == renamed:
            some = ", ".join(
                f"{w} {b:.0f} → {c:.0f}" for w, (b, c) in zip(words, moved, strict=True)
            )
            return f"codes assigned in another order: {_cut(some)}"
        some = ", ".join(f"{w} is read as {r}" for w, r in zip(words, renamed, strict=True))
        return f"codes stand for other words: {_cut(some)}"
    if old is not None:
        some = ", ".join(f"{w} {b:.0f} → {c:.0f}" for w, (b, c) in zip(words, moved, strict=True))
        return f"codes permuted: {_cut(some)}"
    return "codes permuted: " + _cut(", ".join(f"{b:.0f} → {c:.0f}" for b, c in moved))


def _word(code: float, vocabulary: tuple[str, ...] | None) -> str:
    if vocabulary is not None and 0 <= code < len(vocabulary):
        return vocabulary[int(code)]
    return f"{code:.0f}"


def _cut(some: str) -> str:
    parts = some.split(", ")
    more = len(parts) - _SHOWN
    return some if more <= 0 else f"{', '.join(parts[:_SHOWN])} and {more} more"

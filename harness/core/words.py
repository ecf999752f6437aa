"""Words of a column as codes and counts.

Python's own strings are compared: numpy's take as much room for each word as for the longest one of
the column, four bytes a character, and lose NULs at a word's end.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from harness.core.tensors import Array, Ints


def coded(words: Array) -> tuple[list[str], Ints]:
    """The different words, ascending, and each row's place among them, shape (r,).

    Args:
      words: shape (r,); what is no text counts as it is printed.
    """
    texts = [str(word) for word in words.tolist()]
    found = sorted(set(texts))
    place = {word: i for i, word in enumerate(found)}
    return found, np.array([place[text] for text in texts], np.int64)


def word_counts(words: Array) -> dict[str, int]:
    """Rows of each different word, ascending by word; `words` as in `coded`."""
    return dict(sorted(Counter(str(word) for word in words.tolist()).items()))

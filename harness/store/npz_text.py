"""Text as numpy saves it without a pickle: every value as wide as the longest, four bytes a character."""

from __future__ import annotations

import numpy as np

from harness.core.tensors import Array

MOST_TEXT = 256 << 20
"""Bytes that one array of text may take when it is saved."""


def fixed_width(values: Array) -> Array | None:
    """Numbers as they are, text in one width; None where it would not come back the same, or takes too much.

    Args:
      values: any shape; text as objects.
    """
    if values.dtype != object:
        return values
    texts = values.ravel().tolist()
    if not all(isinstance(text, str) and not text.endswith("\0") for text in texts):
        return None
    longest = max(map(len, texts), default=0)
    return values.astype(np.str_) if 4 * longest * len(texts) <= MOST_TEXT else None

"""Text of unknown origin made fit for a terminal and a page: what is not seen must not turn what is."""

from __future__ import annotations

import re
import unicodedata

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
_UNSEEN = {"Cf", "Zl", "Zp"}


def printable(text: str) -> str:
    """Text without terminal colours, control characters and half characters; lines stay.

    What is not seen but turns or breaks a line (U+202E, U+2028) is written as its number.
    """
    plain = _SURROGATE.sub("\ufffd", _CONTROL.sub("", _COLOUR.sub("", text)))
    if plain.isascii():
        return plain
    return "".join(f"\\u{ord(c):04x}" if unicodedata.category(c) in _UNSEEN else c for c in plain)


def one_line(text: str) -> str:
    """As `printable`, in one line: names of tensors are whatever a model's author chose.

    A line break is written as its number, so that no name begins a line of ours.
    """
    return printable(text.replace("\n", "\\u000a"))

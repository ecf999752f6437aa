"""Reading a run folder's JSON without trusting it.

A run that ended early leaves files out, and every string in a run folder may come from recorded
traffic or from a model. So the report never indexes JSON directly: a `Doc` answers with an empty
value where something is missing or of another type, and every text it gives out is made visible
and bounded. Escaping for HTML, XML or markdown is the renderers' part.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

# Control, direction-changing, zero-width and unpaired characters: they hide or reorder what a
# reader sees, and XML or UTF-8 refuse some of them. Written out, they do neither.
_INVISIBLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\U000e0000-\U000e0fff]"
)
_WORDS = {"Infinity": math.inf, "-Infinity": -math.inf}

SHORT = 300
"""Characters a single value may show."""
MOST_DIGITS = 80
"""Digits that a whole number keeps: as many as one of 256 bits has, and a few more."""
LONG = 4_000
"""Characters a paragraph may show."""
BLOCK_LINES = 400
"""Lines a verbatim block may show."""
_LAST_WORD = 0.1
"""Part of a text that may be left out to end it with a whole word."""


def visible(text: str, limit: int = SHORT) -> str:
    """One line in which every character can be seen, at most `limit` characters long."""
    # Cut first: a recorded value may be megabytes.
    cut = text[: limit + 1].replace("\r\n", " ").replace("\n", " ").replace("\t", " ")
    shown = _INVISIBLE.sub(lambda found: f"\\u{ord(found[0]):04x}", cut)
    if len(shown) <= limit:
        return shown
    kept = shown[: limit - 1]
    words = kept.rpartition(" ")[0]
    # At a word's end, unless the text has none near.
    return f"{words} …" if len(words) >= (1.0 - _LAST_WORD) * limit else f"{kept}…"


def visible_block(text: str) -> str:
    """Like `visible`, keeping the line breaks."""
    lines = text.replace("\r\n", "\n").split("\n")
    shown = [visible(line) for line in lines[:BLOCK_LINES]]
    if len(lines) > BLOCK_LINES:
        shown.append(f"… {len(lines) - BLOCK_LINES:,} more lines")
    return "\n".join(shown)


@dataclass(frozen=True, slots=True)
class Doc:
    """One place in a JSON document, which may hold nothing."""

    value: object = None
    """What `json.loads` gave; None where there is nothing."""

    def at(self, *keys: str) -> Doc:
        """The value under a path of keys, empty when any step is missing."""
        here = self.value
        for key in keys:
            here = here.get(key) if isinstance(here, Mapping) else None
        return Doc(here)

    def __bool__(self) -> bool:
        """Whether there is anything here: not null, not an empty list, mapping or text."""
        return self.value is not None and self.value not in ([], {}, "")

    def text(self, default: str = "", limit: int = SHORT) -> str:
        """Text in one line; numbers and booleans as written in JSON, everything else `default`."""
        match self.value:
            case bool():
                return "true" if self.value else "false"
            case str() if self.value:
                return visible(self.value, limit)
            case float():
                return f"{self.value:.6g}"
            case int():
                # A number of a thousand digits is refused by str().
                few = abs(self.value) < 10**MOST_DIGITS
                return f"{self.value}" if few else f"{self.number():.6g}"
            case _:
                return default

    def block(self) -> str:
        """Text with its line breaks; "" when there is none."""
        return visible_block(self.value) if isinstance(self.value, str) else ""

    def number(self) -> float | None:
        """A number that is not NaN; ±inf stays, also in its written form."""
        match self.value:
            case bool():
                return None
            case str():
                return _WORDS.get(self.value)
            case int():
                try:
                    return float(self.value)
                except OverflowError:
                    return math.inf if self.value > 0 else -math.inf
            case float() if not math.isnan(self.value):
                return self.value
            case _:
                return None

    def finite(self) -> float | None:
        """A finite number."""
        number = self.number()
        return number if number is not None and math.isfinite(number) else None

    def whole(self) -> int | None:
        """A finite number without its fraction."""
        number = self.finite()
        if number is None:
            return None
        return self.value if isinstance(self.value, int) else int(number)

    def flag(self, *, default: bool) -> bool:
        """A boolean, `default` when it is none."""
        return self.value if isinstance(self.value, bool) else default

    def items(self) -> tuple[Doc, ...]:
        """The members of a list; () when it is none."""
        return tuple(Doc(v) for v in self.value) if isinstance(self.value, list | tuple) else ()

    def fields(self) -> tuple[tuple[str, Doc], ...]:
        """(key, value) of a mapping or of a list of pairs, keys made visible; () otherwise."""
        if isinstance(self.value, Mapping):
            return tuple((visible(str(k)), Doc(v)) for k, v in self.value.items())
        pairs = (item.items() for item in self.items())
        return tuple((pair[0].text(), pair[1]) for pair in pairs if len(pair) == 2)  # noqa: PLR2004

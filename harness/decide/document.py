"""A YAML document read strictly: every value has a place, no key is unknown or given twice.

The composed nodes are read, not a constructed dict: a dict has lost the lines, and of two equal
keys it keeps the last one in silence.
"""

from __future__ import annotations

import difflib
import enum
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import yaml

from harness.core.clock import seconds_from_duration
from harness.core.errors import PolicyError, UsageError, nearest

_Choice = TypeVar("_Choice", bound=enum.StrEnum)
_Read = TypeVar("_Read")

_TAG = "tag:yaml.org,2002:"
# YAML 1.1 reads 1e-3 as text; every user means the number.
_EXPONENT = re.compile(r"^[+-]?\d+(\.\d*)?[eE][+-]?\d+$")
_LARGEST_END = 1e100
"""Of a declared range; sums of values beyond it leave what a float can hold."""
_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*(B|KB|MB|GB|KiB|MiB|GiB)$")
_SIZES = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_LARGEST_SIZE = float(1 << 50)
_SLIP = 0.9
"""How close a key of another place is to one that it may be a slip of the pen for: window, windows."""


class _Loader(yaml.SafeLoader):
    """Safe scalars; documents are composed, never constructed as a whole."""


class Section:
    """One mapping of the document, read key by key."""

    def __init__(self, node: yaml.Node, where: str, path: str) -> None:
        """Checks that it is a mapping of distinct text keys.

        Args:
          node: composed YAML.
          where: the document, as the user knows it.
          path: keys that lead here, e.g. windows.newest; "" for the document.

        Raises:
          PolicyError: it is no mapping, or a key is given twice or is no text.
        """
        self._where = where
        self._path = path
        self._node = node
        if not isinstance(node, yaml.MappingNode):
            raise self._error(node, path, f"needs keys and values, not {_shown(node)}")
        self._keys: dict[str, yaml.Node] = {}
        self._values: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != f"{_TAG}str":
                remedy = (
                    f"Quote it: '{key.value}'."
                    if isinstance(key, yaml.ScalarNode)
                    else "Write a word."
                )
                raise self._error(key, path, f"has the key {_shown(key)}, which is no word", remedy)
            if key.value in self._keys:
                first = self._keys[key.value].start_mark.line + 1
                raise self._error(
                    key, self._at(key.value), f"is given twice, first in line {first}", "Keep one."
                )
            self._keys[key.value] = key
            self._values[key.value] = value

    def __contains__(self, key: str) -> bool:
        """Whether the key is given."""
        return key in self._keys

    def names(self) -> tuple[str, ...]:
        """Given keys, in order."""
        return tuple(self._keys)

    def only(self, known: Collection[str], elsewhere: Mapping[str, str] | None = None) -> None:
        """Refuses every other key.

        Args:
          known: valid keys.
          elsewhere: keys of other places → where they belong.

        Raises:
          PolicyError: names the key, its line and the nearest valid key.
        """
        for key, node in self._keys.items():
            if key in known:
                continue
            what, remedy = "is an unknown key", _sentence(nearest(key, known))
            if elsewhere and key in elsewhere:
                what = f"{what} here: it belongs {elsewhere[key]}"
                # A slip of the pen may be a key of another place.
                slip = difflib.get_close_matches(key, known, n=1, cutoff=_SLIP)
                remedy = f"{remedy} If not, write it there." if slip else "Write it there."
            raise self._error(node, self._at(key), what, remedy)

    def error(self, key: str, what: str, remedy: str = "Correct the value.") -> PolicyError:
        """An error at a key's value, or at the section when the key is missing."""
        return self._error(self._values.get(key, self._node), self._at(key), what, remedy)

    def text(self, key: str) -> str:
        """A non-empty text."""
        node = self._scalar(key, "a text")
        if node.tag == f"{_TAG}str" and not node.value:
            raise self.error(key, "is empty", "Write a text, or leave the key out.")
        if node.tag != f"{_TAG}str":
            raise self.error(key, f"needs a text, not {_shown(node)}", f"Quote it: '{node.value}'.")
        return str(node.value)

    def number(self, key: str) -> float:
        """A finite number."""
        return self._number(self._at(key), self._scalar(key, "a number"))

    def interval(self, key: str) -> tuple[float, float]:
        """[lo, hi] with lo < hi."""
        ends = self.numbers(key)
        if len(ends) != 2 or ends[0] >= ends[1]:  # noqa: PLR2004 - lo and hi
            raise self.error(key, "needs two numbers, the smaller one first", "Write [lo, hi].")
        if max(map(abs, ends)) > _LARGEST_END:
            raise self.error(key, f"ends beyond ±{_LARGEST_END:g}", "Declare a narrower range.")
        return ends[0], ends[1]

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of numbers."""
        nodes = enumerate(self._items(key))
        return tuple(self._number(f"{self._at(key)}[{i}]", node) for i, node in nodes)

    def integer(self, key: str, *, least: int) -> int:
        """A whole number ≥ `least`."""
        value = self.number(key)
        if value != int(value) or value < least:
            raise self.error(key, f"needs a whole number of at least {least}, not {value:g}")
        return int(value)

    def positive(self, key: str) -> float:
        """A number > 0."""
        value = self.number(key)
        if value <= 0.0:
            raise self.error(key, f"needs a number above 0, not {value:g}")
        return value

    def flag(self, key: str) -> bool:
        """True or false."""
        node = self._scalar(key, "true or false")
        if node.tag != f"{_TAG}bool":
            raise self.error(key, f"needs true or false, not {_shown(node)}")
        return bool(_constructed(node))

    def choice(
        self, key: str, kind: type[_Choice], later: Mapping[str, str] | None = None
    ) -> _Choice:
        """One of an enum's words.

        Args:
          key: what to read.
          kind: its words are valid.
          later: word → what it will do; refused as not supported yet.
        """
        word = self.text(key)
        if later and word in later:
            raise self.error(key, *_not_yet(word, later[word]))
        words = [member.value for member in kind]
        if word not in words:
            raise self.error(
                key, f"has the unknown value '{word}'", _sentence(nearest(word, words))
            )
        return kind(word)

    def seconds(self, key: str) -> float:
        """A duration > 0 like 24h, in seconds."""
        word = self.text(key)
        try:
            value = seconds_from_duration(word, key)
        except UsageError as problem:
            raise self.error(key, problem.what, problem.remedy) from None
        if value <= 0.0:
            raise self.error(key, "needs a duration above 0")
        return value

    def size_bytes(self, key: str) -> int:
        """A size > 0 like 1GiB, in bytes."""
        size = size_from_text(self.text(key))
        if not size:
            raise self.error(key, f"'{self.text(key)}' is no size", "Write it like 512MiB or 2GiB.")
        return size

    def section(self, key: str) -> Section:
        """A nested mapping."""
        if key not in self:
            raise self.error(key, "is missing", "Add it: it needs keys and values.")
        return Section(self._values[key], self._where, self._at(key))

    def sections(self, key: str) -> tuple[Section, ...]:
        """A list of mappings."""
        return tuple(
            Section(node, self._where, f"{self._at(key)}[{i}]")
            for i, node in enumerate(self._items(key))
        )

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of distinct, non-empty texts."""
        found: list[str] = []
        for i, node in enumerate(self._items(key)):
            path = f"{self._at(key)}[{i}]"
            if not isinstance(node, yaml.ScalarNode) or node.tag != f"{_TAG}str" or not node.value:
                raise self._error(node, path, f"needs a text, not {_shown(node)}")
            if node.value in found:
                raise self._error(node, path, f"repeats '{node.value}'", "Name it once.")
            found.append(node.value)
        return tuple(found)

    def pairs(self, key: str) -> tuple[tuple[str, str], ...]:
        """A mapping of texts, whose right sides are distinct too."""
        inner = self.section(key)
        found = tuple((name, inner.text(name)) for name in inner.names())
        right = [value for _, value in found]
        for name, value in found:
            if right.count(value) > 1:
                raise inner.error(name, f"maps to '{value}' like another name", "Map one to one.")
        return found

    def maybe(self, key: str, read: Callable[[str], _Read], default: _Read) -> _Read:
        """`read(key)` where the key is given, else the default."""
        return read(key) if key in self else default

    def _number(self, path: str, node: yaml.Node) -> float:
        value: Any = None
        if not isinstance(node, yaml.ScalarNode):
            raise self._error(node, path, f"needs a number, not {_shown(node)}")
        if node.style is None and _EXPONENT.match(node.value):
            value = float(node.value)
        elif node.tag in (f"{_TAG}int", f"{_TAG}float") and ":" not in node.value:
            value = _constructed(node)
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise self._error(node, path, f"needs a number, not {_shown(node)}")
        return float(value)

    def _items(self, key: str) -> list[yaml.Node]:
        if key not in self:
            raise self.error(key, "is missing", "Add it: it needs a list.")
        node = self._values[key]
        if not isinstance(node, yaml.SequenceNode):
            raise self.error(key, f"needs a list, not {_shown(node)}", "Write it as [a, b].")
        return list(node.value)

    def _scalar(self, key: str, wanted: str) -> yaml.ScalarNode:
        if key not in self:
            raise self.error(key, "is missing", f"Add it: it needs {wanted}.")
        node = self._values[key]
        if not isinstance(node, yaml.ScalarNode) or node.tag == f"{_TAG}null":
            raise self.error(key, f"needs {wanted}, not {_shown(node)}")
        return node

    def _at(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def _error(
        self, node: yaml.Node, path: str, what: str, remedy: str = "Correct the value."
    ) -> PolicyError:
        place = f"{self._where}, line {node.start_mark.line + 1}"
        return PolicyError(f"{place}, {path}" if path else place, what, remedy)


def read_document(text: str, where: str) -> Section:
    """Composes a YAML document of one mapping.

    Args:
      text: YAML, with the meaning of `yaml.safe_load`.
      where: the document, as the user knows it.

    Raises:
      PolicyError: it is no YAML, is empty or is no mapping.
    """
    try:
        node = _composed(text)
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark
        place = f"{where}, line {mark.line + 1}" if mark else where
        raise PolicyError(place, f"is no YAML: {problem.problem}", "Correct it.") from None
    except (yaml.YAMLError, RecursionError) as problem:
        what = f"is no YAML: {type(problem).__name__}"
        raise PolicyError(where, what, "Save it as UTF-8 text, without deep nesting.") from None
    if node is None:
        raise PolicyError(where, "is empty", "Start with `version: 1` and a preset.")
    return Section(node, where, "")


def size_from_text(text: str) -> int:
    """Bytes of a size like 512MiB; 0 for what is none, or more than any machine has."""
    found = _SIZE.match(text)
    size = float(found[1]) * _SIZES[found[2]] if found else 0.0
    return int(size) if size <= _LARGEST_SIZE else 0


def _composed(text: str) -> yaml.Node | None:
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def _constructed(node: yaml.ScalarNode) -> Any:  # noqa: ANN401 - what YAML makes of a scalar
    """A scalar's value; None when its text does not fit its tag."""
    loader = _Loader("")
    try:
        return loader.construct_object(node)
    except (ValueError, yaml.YAMLError):
        return None
    finally:
        loader.dispose()


def _shown(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return "nothing" if node.tag == f"{_TAG}null" else f"'{node.value}'"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


def _not_yet(word: str, meaning: str) -> tuple[str, str]:
    return f"'{word}' is not supported yet", f"Leave it out: {meaning} comes with a later version."


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"

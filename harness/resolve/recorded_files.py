"""The small text files that lie beside a model, read with limits: whoever made the model wrote them.

YAML is read as plain data only. An alias makes a file of a kilobyte unfold to gigabytes, nesting without
end exhausts the reader's stack, a tag asks for a type, and a number of many thousand digits takes
quadratic time: MLflow writes none of them, so all are refused.
"""

from __future__ import annotations

import codecs
import os
from pathlib import Path
from typing import Any

import yaml

from harness.core.errors import ResolveError

_LIMIT_BYTES = 1 << 20
_MOST_NESTED = 64
_MOST_NODES = 50_000
_LONGEST_VALUE = 100
"""Characters of a number, a date or any other value that is not text."""
_LONGEST_SHOWN = 200
_TEXT = "tag:yaml.org,2002:str"
_REMEDY = "Log the model again."
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""How a text begins that is not in UTF-8, as PowerShell writes it and pip reads it; the longer marks first."""


def text_from_file(path: Path, where: str) -> str | None:
    """A small text file, without the mark that it begins with; None when there is none.

    It is in UTF-8, or in what its mark says.

    Args:
      path: the file.
      where: how errors name the model.

    Raises:
      ResolveError: it is no plain file, larger than 1 MiB, or no text in its encoding.
    """
    if not path.is_file():
        # A pipe, a folder or a link to nothing would be a record that nobody reads.
        if os.path.lexists(path):
            raise ResolveError(where, f"{path.name} is there and is no plain file", _REMEDY)
        return None
    if path.stat().st_size > _LIMIT_BYTES:
        raise ResolveError(where, f"{path.name} is larger than 1 MiB", _REMEDY)
    with path.open("rb") as file:
        head = file.read(4)
    encoding = next((e for mark, e in _MARKS.items() if head.startswith(mark)), "utf-8-sig")
    try:
        return path.read_text(encoding=encoding)
    except UnicodeDecodeError as error:
        said = encoding.removesuffix("-sig").upper()
        raise ResolveError(
            where, f"{path.name} is no {said} text", "Save it as UTF-8 and log the model again."
        ) from error


def yaml_from_file(path: Path, where: str) -> object:
    """What a YAML file holds; None when there is no file, or nothing in it.

    Args:
      path: the file.
      where: how errors name the model.

    Raises:
      ResolveError: it is no YAML, or more than plain data.
    """
    text = text_from_file(path, where)
    if text is None:
        return None
    try:
        # _PlainLoader makes plain Python values only, as its parent does.
        return yaml.load(text, Loader=_PlainLoader)  # noqa: S506 - a safe loader with limits
    except (yaml.YAMLError, ValueError) as error:
        first = str(error).splitlines()[0][:_LONGEST_SHOWN]
        raise ResolveError(
            where, f"{path.name} is no YAML to be read ({first})", _REMEDY
        ) from error


class _PlainLoader(yaml.SafeLoader):
    """Mappings, lists and short scalars; raises YAMLError for anything else."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:  # noqa: ANN401
        """Composes one node within the limits."""
        if self.check_event(yaml.AliasEvent):
            raise self._refused("an alias")
        if getattr(self._next(), "tag", None) not in {None, "!"}:
            raise self._refused("a tag")
        self._depth += 1
        self._nodes += 1
        if self._depth > _MOST_NESTED:
            raise self._refused(f"nested deeper than {_MOST_NESTED}")
        if self._nodes > _MOST_NODES:
            raise self._refused(f"more than {_MOST_NODES:,} values")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, yaml.MappingNode):
            self._refuse_twice([key for key, _ in node.value])
        if isinstance(node, yaml.ScalarNode) and node.tag != _TEXT:
            length = len(node.value)
            if length > _LONGEST_VALUE:
                raise self._refused(f"a number or date of {length:,} characters")
        return node

    def _refuse_twice(self, keys: list[yaml.Node]) -> None:
        """The second of two equal keys would hide the first, and a pin with it."""
        seen: set[str] = set()
        for key in keys:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    line = key.start_mark.line + 1
                    msg = f"the key {key.value[:_LONGEST_VALUE]} is there twice, line {line}"
                    raise yaml.YAMLError(msg)
                seen.add(key.value)

    def _refused(self, what: str) -> yaml.YAMLError:
        mark = self._next().start_mark
        return yaml.YAMLError(f"{what}, line {mark.line + 1}" if mark else what)

    def _next(self) -> yaml.Event:
        # The stubs leave this one method without types.
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        return event

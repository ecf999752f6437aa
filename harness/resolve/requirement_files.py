"""Requirement files as pip reads them: lines that go on, comments, and other files that they name.

Files named by `-r` and `-c` are read where they lie in the version's own folder. What a constraint
says of the runtime counts as if it were required: it is what pip would install.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.core.errors import ResolveError
from harness.resolve.recorded_files import text_from_file
from harness.resolve.requirement_line import seen

_MOST_FILES = 20
_LONGEST_NAME = 1000
_REMEDY = "Put the requirements into one requirements.txt and log the model again."
_COMMENT = re.compile(r"(?<!\S)#.*")
_INCLUDED = re.compile(r"(?:-[rc]\s*|--(?:requirement|constraint)(?:\s*=\s*|\s+))(.+)")


@dataclass(slots=True, kw_only=True)
class RequirementFiles:
    """Reads the requirement files of one version."""

    folder: Path
    """The version's; nothing outside it is read."""
    where: str
    """How errors name the version."""
    _under_way: list[Path] = field(default_factory=list)
    _read: int = 0

    def lines(self, path: Path) -> list[str] | None:
        """Requirement lines of a file and of those that it names; None when there is no such file.

        Args:
          path: in the folder.

        Raises:
          ResolveError: a file cannot be read, or what it names is not in the folder.
        """
        real = Path(os.path.realpath(path))
        if real in self._under_way:
            raise self._refused(f"{path.name} names itself, perhaps by way of others")
        self._read += 1
        if self._read > _MOST_FILES:
            raise self._refused(f"more than {_MOST_FILES} requirement files name each other")
        text = text_from_file(path, self.where)
        if text is None:
            return None
        self._under_way.append(real)
        found = self.lines_of_text(text, path)
        self._under_way.pop()
        return found

    def lines_of_text(self, text: str, path: Path) -> list[str]:
        """The same for a text that stands in a file.

        Args:
          text: lines as in requirements.txt.
          path: the file; what the lines name is looked for beside it.

        Raises:
          ResolveError: as `lines`.
        """
        found = []
        for line in self._logical(text, path.name):
            if named := _INCLUDED.fullmatch(line):
                found += self._included(named[1], path)
            elif line:
                found.append(line)
        return found

    def _logical(self, text: str, name: str) -> Iterator[str]:
        """Lines without comments; one that ends in a backslash goes on in the next."""
        parts: list[str] = []
        for line in text.splitlines():
            comment = _COMMENT.search(line)
            # A comment line ends where it ends, whatever stands there.
            goes_on = line.rstrip().endswith("\\") and not line.lstrip().startswith("#")
            if goes_on and comment:
                raise self._refused(
                    f"in {name} a comment goes on in the next line by a backslash ('{seen(line)}'), "
                    "where a requirement would be lost"
                )
            parts.append(_COMMENT.sub("", line.rstrip().rstrip("\\") if goes_on else line).strip())
            if not goes_on:
                yield " ".join(filter(None, parts))
                parts = []
        yield " ".join(filter(None, parts))

    def _included(self, named: str, by: Path) -> list[str]:
        """What the file holds that a -r or -c names."""
        try:
            names = shlex.split(named) if len(named) <= _LONGEST_NAME else []
        except ValueError:
            names = []
        if len(names) == 1 and names[0].isprintable():
            path = Path(os.path.realpath(by.parent / names[0]))
            inside = path.is_relative_to(os.path.realpath(self.folder))
            found = self.lines(path) if inside else None
            if found is not None:
                return found
        raise self._refused(
            f"{by.name} names '{seen(named)}', which is no file of the version's own"
        )

    def _refused(self, what: str) -> ResolveError:
        return ResolveError(self.where, what, _REMEDY)

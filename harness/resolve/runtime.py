"""Which onnxruntime and numpy a version asks for, and whether the running environment has them.

A leg runs a graph and nothing else: of a version's requirements only onnxruntime and numpy can change
what it answers. scikit-learn, mlflow and the like made or served the model; they are named and left
out. The recorded Python changes no answer either, so it alone asks for nothing; it is the second
choice where the running Python has no wheel of the pinned versions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from harness.core.errors import ResolveError
from harness.core.models import PinnedModel

RUNTIME, ARRAYS = "onnxruntime", "numpy"
NEEDED = (RUNTIME, ARRAYS)
"""What a leg's process imports besides the standard library."""
_OTHER_BUILDS = {"onnxruntime-gpu"}
_FIRST_WITH_NUMPY_2 = Version("1.19.0")
_UNREADABLE = (InvalidRequirement, UndefinedComparison, UndefinedEnvironmentName, RecursionError)
"""What reading a line raises; the last for parentheses in parentheses."""
_HASH = re.compile(r"\s--hash[= ]")
"""Begins each hash of a line."""
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeWish:
    """What a version's leg needs."""

    unmet: tuple[str, ...]
    """Requirements that the running environment does not meet, as recorded; empty = it will do."""
    requirements: tuple[str, ...]
    """One line for each of NEEDED: what an environment of its own must hold."""
    left_out: tuple[str, ...]
    """Names of recorded packages that no graph needs."""
    notes: tuple[str, ...]
    """What was read otherwise than it stands, as sentences."""


def runtime_wish(model: PinnedModel, running: Mapping[str, str]) -> RuntimeWish:
    """Reads what a version asks for.

    Args:
      model: the pinned version.
      running: version of each of NEEDED in this process's environment.

    Raises:
      ResolveError: a requirement on onnxruntime or numpy cannot be read, or names an address.
    """
    asked = {name: _Asked() for name in NEEDED}
    left_out: list[str] = []
    notes: list[str] = []
    for line in model.requirements:
        read = _requirement(line, model)
        if read is None:
            continue
        found, hashes = read
        name = canonicalize_name(found.name)
        if name in _OTHER_BUILDS:
            notes.append(f"{found} is run as {RUNTIME}, the CPU build of the same version")
            name, hashes = canonicalize_name(RUNTIME), set()
        if name in asked:
            asked[name].specifier &= found.specifier
            asked[name].hashes |= hashes
        else:
            left_out.append(found.name)
    _refuse_contradictions(asked, model)
    return RuntimeWish(
        unmet=tuple(
            f"{name}{a.specifier}"
            for name, a in asked.items()
            if not a.specifier.contains(running[name], prereleases=True)
        ),
        requirements=(
            _line(RUNTIME, asked[RUNTIME], running[RUNTIME]),
            _line(ARRAYS, asked[ARRAYS], running[ARRAYS], old=_is_old(asked[RUNTIME].specifier)),
        ),
        left_out=tuple(dict.fromkeys(left_out)),
        notes=tuple(notes),
    )


def _refuse_contradictions(asked: Mapping[str, _Asked], model: PinnedModel) -> None:
    for name, wanted in asked.items():
        pinned = _pinned(wanted.specifier)
        if pinned is not None and not wanted.specifier.contains(pinned, prereleases=True):
            raise ResolveError(
                model.uri,
                f"its requirements contradict each other: {name}{wanted.specifier}",
                f"Keep one pin of {name} and register the version again.",
            )


@dataclass(slots=True)
class _Asked:
    """Everything that a version says about one package."""

    specifier: SpecifierSet = field(default_factory=SpecifierSet)
    hashes: set[str] = field(default_factory=set)


def _requirement(line: str, model: PinnedModel) -> tuple[Requirement, set[str]] | None:
    """A line as a requirement and its hashes; None when it is none that concerns a leg.

    What is installed is written anew from the parts read here: nothing else of a line reaches the
    installer, which would obey an option that stands in it.
    """
    plain, *hashes = _HASH.split(line)
    try:
        found = Requirement(plain)
        name = canonicalize_name(found.name)
        if found.marker is not None and not found.marker.evaluate({"extra": ""}):
            return None
    except _UNREADABLE as error:
        if not canonicalize_name(line.strip()).startswith(NEEDED):
            return None
        raise _unreadable(line, model) from error
    if name not in {*NEEDED, *_OTHER_BUILDS}:
        return found, set()
    if found.url:
        raise ResolveError(
            model.uri,
            f"the requirement '{found.name}' names an address instead of a version",
            "Runtimes come from the package index only: pin a version, like onnxruntime==1.26.0.",
        )
    given = {h.strip() for h in hashes}
    if not all(map(_SHA256.fullmatch, given)) or any(s.operator == "===" for s in found.specifier):
        raise _unreadable(line, model)
    return found, given


def _unreadable(line: str, model: PinnedModel) -> ResolveError:
    return ResolveError(
        model.uri,
        f"the requirement '{''.join(filter(str.isprintable, line))[:100]}' cannot be read",
        "Write it like onnxruntime==1.26.0, with --hash=sha256:… and 64 digits or without, and log the"
        " model again.",
    )


def _line(name: str, asked: _Asked, running: str, *, old: bool = False) -> str:
    """The requirement to install: what is pinned, else the running version where it fits.

    Args:
      name: of the package.
      asked: what the version says about it.
      running: the version that this process has.
      old: for numpy: the runtime was built before numpy 2.
    """
    if _pinned(asked.specifier) is not None:
        hashes = "".join(f" --hash={h}" for h in sorted(asked.hashes))
        return f"{name}{asked.specifier}{hashes}"
    if old:
        return f"{name}{asked.specifier & SpecifierSet('<2')}"
    fits = asked.specifier.contains(running, prereleases=True)
    return f"{name}=={running}" if fits else f"{name}{asked.specifier}"


def _pinned(specifier: SpecifierSet) -> Version | None:
    """The one version that a specifier allows; None when it allows several."""
    exact = [s.version for s in specifier if s.operator == "==" and "*" not in s.version]
    return Version(exact[0]) if exact else None


def _is_old(specifier: SpecifierSet) -> bool:
    """Whether a pinned onnxruntime was built before numpy 2."""
    pinned = _pinned(specifier)
    return pinned is not None and pinned < _FIRST_WITH_NUMPY_2

"""Which onnxruntime and numpy a version asks for, and whether the running environment has them.

A leg runs a graph and nothing else: of a version's requirements only onnxruntime and numpy can change
what it answers. scikit-learn, mlflow and the like made or served the model; they are named and left
out. The recorded Python changes no answer either, so it alone asks for nothing; it is the second
choice where the running Python has no wheel of the pinned versions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from harness.core.errors import ResolveError
from harness.core.models import PinnedModel
from harness.resolve.requirement_line import (
    ARRAYS,
    GPU_BUILD,
    NEEDED,
    RUNTIME,
    requirement_from_line,
)

_FIRST_WITH_NUMPY_2 = Version("1.19.0")


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeWish:
    """What a version's leg needs."""

    unmet: tuple[str, ...]
    """Requirements that the running environment does not meet, as recorded; empty = it will do."""
    requirements: tuple[str, ...]
    """One line for each of NEEDED: what an environment of its own must hold."""
    not_pinned: tuple[str, ...]
    """Of NEEDED, those that no requirement pins to one version."""
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
      ResolveError: the requirements contradict each other, or one may be about onnxruntime or numpy
        and cannot be read.
    """
    asked = {name: _Asked() for name in NEEDED}
    left_out: list[str] = []
    notes = [
        f"{option} in its requirements is not followed: packages come from the index that this "
        "machine's own settings name"
        for option in model.not_followed
    ]
    for line in model.requirements:
        found = requirement_from_line(line, model.uri)
        if not found.applies:
            continue
        name, hashes = found.package, found.hashes
        if name == GPU_BUILD:
            notes.append(
                f"{name}{found.specifier} is run as {RUNTIME}, the CPU build of the same version"
            )
            name, hashes = RUNTIME, frozenset()
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
        not_pinned=tuple(name for name, a in asked.items() if _pinned(a.specifier) is None),
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
                f"Keep one pin of {name}, the same in requirements.txt, conda.yaml and what they name, and register"
                " the version again.",
            )


@dataclass(slots=True)
class _Asked:
    """Everything that a version says about one package."""

    specifier: SpecifierSet = field(default_factory=SpecifierSet)
    hashes: set[str] = field(default_factory=set)


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

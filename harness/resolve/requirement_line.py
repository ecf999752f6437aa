"""What one requirement line says about the runtime: a version of onnxruntime or numpy, or nothing.

A line that cannot be read is left out only where it is surely about another package. Everything else
that nobody understands (an option, an address, a path, a character that cannot be seen) may be what
names the runtime: it is refused, because a pin that is lost makes two runtimes look like one.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field

from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from harness.core.errors import ResolveError

RUNTIME, ARRAYS = "onnxruntime", "numpy"
NEEDED = (RUNTIME, ARRAYS)
"""What a leg's process imports besides the standard library."""
GPU_BUILD = "onnxruntime-gpu"
_BESIDE = {"cpp", "extensions", "tools", "genai", "genai-cuda", "genai-directml"}
"""Packages of other content whose names begin with onnxruntime; cpp is conda's, without Python."""
_OTHER_ARRAYS = {"intel-numpy", "numpy-base", "numpy-mkl"}
_UNREADABLE = (InvalidRequirement, UndefinedComparison, UndefinedEnvironmentName, RecursionError)
"""What reading a line raises; the last for parentheses in parentheses."""
_HASH = re.compile(r"\s--hash[= ]")
"""Begins each hash of a line."""
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_OTHER = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9._-]*)(\[[^]]*\])?\s*"
    r"([=<>!~]|\s--(global-option|install-option|config-settings?|hash)\b)"
)
"""A name and then what only follows a name: legacy versions, options of one package."""
_SPEAKS_OF_RUNTIME = re.compile(r"onnxruntime|numpy|\bort[-_.]", re.IGNORECASE)
_PLACES = {"-i": "--index-url", "-f": "--find-links"}
_PLACES |= {
    name: name for name in ("--index-url", "--extra-index-url", "--find-links", "--trusted-host")
}
"""Options that say where packages come from, and their long names."""
_USER = re.compile(r"//[^/@\s]*@")
_SHOWN = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RequirementLine:
    """One line, read."""

    name: str
    """Of the package, as written."""
    applies: bool = True
    """Its marker holds on this machine, or it has none."""
    specifier: SpecifierSet = field(default_factory=SpecifierSet)
    """Versions allowed; empty for a package that no leg needs."""
    hashes: frozenset[str] = frozenset()
    """sha256:…, of a package that a leg needs."""

    @property
    def package(self) -> str:
        """The name in its canonical spelling."""
        return canonicalize_name(self.name)

    @property
    def concerns_leg(self) -> bool:
        """It is about onnxruntime or numpy."""
        return self.package in {*NEEDED, GPU_BUILD}


def requirement_from_line(line: str, where: str) -> RequirementLine:
    """Reads a line.

    What is installed is written anew from the parts read here: nothing else of a line reaches the
    installer, which would obey an option that stands in it.

    Args:
      line: without comments, on one line.
      where: how errors name the version.

    Raises:
      ResolveError: it may be about onnxruntime or numpy, and cannot be read, names an address or
        another build of theirs.
    """
    plain, *hashes = _HASH.split(line)
    try:
        # Behind the last semicolon a marker may be missing: pip allows that.
        found = Requirement(plain.rstrip("; \t"))
        applies = found.marker is None or found.marker.evaluate({"extra": ""})
    except _UNREADABLE as error:
        name = _surely_other(line)
        if name is None:
            raise _unreadable(line, where) from error
        return RequirementLine(name=name)
    name = canonicalize_name(found.name)
    if not applies or name not in {*NEEDED, GPU_BUILD}:
        if applies and is_other_build(name):
            raise _other_build(found.name, where)
        return RequirementLine(name=found.name, applies=applies)
    if found.url:
        raise ResolveError(
            where,
            f"the requirement '{found.name}' names an address instead of a version",
            "Runtimes come from the package index only: pin a version, like onnxruntime==1.26.0.",
        )
    given = frozenset(h.strip() for h in hashes)
    if not all(map(_SHA256.fullmatch, given)) or any(s.operator == "===" for s in found.specifier):
        raise _unreadable(line, where)
    return RequirementLine(name=found.name, specifier=found.specifier, hashes=given)


def places_named(line: str) -> tuple[str, ...]:
    """Options of a line that says nothing but where packages come from; empty for any other line.

    They are not followed: who runs the gate has said which index is trusted, and a version's author has
    no say in that.

    Args:
      line: without comments, on one line.
    """
    try:
        words = shlex.split(line)
    except ValueError:
        return ()
    found: list[str] = []
    while words:
        name, told, value = words.pop(0).partition("=")
        if name not in _PLACES or (told and not name.startswith("--")):
            return ()
        value = value if told else words.pop(0) if words else ""
        if not value or value.startswith("-"):
            return ()
        found.append(_PLACES[name])
    return tuple(found)


def is_other_build(name: str) -> bool:
    """Whether a package brings a runtime or numpy that is not the one of the package index.

    Args:
      name: in its canonical spelling.
    """
    if name.startswith(RUNTIME):
        rest = name.removeprefix(RUNTIME).removeprefix("-")
        return name not in {RUNTIME, GPU_BUILD} and rest not in _BESIDE
    return name in _OTHER_ARRAYS or (name.startswith("ort-") and "nightly" in name)


def seen(text: str) -> str:
    """A text of someone else's for an error: short, no password, and what cannot be seen made visible."""
    text = _USER.sub("//…@", text)
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text[:_SHOWN])


def _surely_other(line: str) -> str | None:
    """Name of the package that an unreadable line is about; None when it may be a runtime."""
    place, *rest = line.split(maxsplit=1) or [""]
    if place.partition("#")[0].partition("?")[0].endswith(".whl"):
        name = _wheel(place)
        alone = not rest or rest[0].startswith((";", "--hash"))
        return name if name and alone and not _is_relevant(name) else None
    found = _OTHER.match(line)
    return found[1] if found and not _SPEAKS_OF_RUNTIME.search(line) else None


def _wheel(place: str) -> str | None:
    """The package that a wheel's path or address names."""
    try:
        return parse_wheel_filename(place.partition("#")[0].partition("?")[0].rpartition("/")[2])[0]
    except InvalidWheelFilename:
        return None


def _is_relevant(name: str) -> bool:
    return name in {*NEEDED, GPU_BUILD} or is_other_build(name)


def _unreadable(line: str, where: str) -> ResolveError:
    return ResolveError(
        where,
        f"the requirement '{seen(line)}' cannot be read, and may be what names the runtime",
        "Write it like onnxruntime==1.26.0, with --hash=sha256:… and 64 digits or without; options,"
        " addresses and paths are not followed. Then log the model again.",
    )


def _other_build(name: str, where: str) -> ResolveError:
    return ResolveError(
        where,
        f"the requirement '{seen(name)}' is a build of its own, which is not run here",
        f"Pin the {RUNTIME} (or {ARRAYS}) of the same version from the package index, and log the"
        " model again.",
    )

"""What a conda file says of onnxruntime, numpy and Python, in pip's words.

Conda writes `name=1.26.0`, perhaps with a channel before and a build behind; its `pip:` holds lines
as in requirements.txt. Other conda packages made or served the model and are passed over.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from packaging.utils import canonicalize_name

from harness.core.errors import ResolveError
from harness.resolve.requirement_line import (
    ARRAYS,
    GPU_BUILD,
    NEEDED,
    RUNTIME,
    is_other_build,
    seen,
)

_REMEDY = "Write it like onnxruntime=1.26.0, or below pip: like onnxruntime==1.26.0, and log the model again."
_NAME = re.compile(r"_*[A-Za-z0-9][A-Za-z0-9._-]*")
_EXACT = re.compile(r"(=|==|\s+)\s*(\d+(?:\.\d+)*)(?:(?:=|\s+)(\S+))?", re.ASCII)
_RANGE = re.compile(r"\s*(?:(?:[<>]=?|[!=]=|~=)\s*\d[\w.]*(?:\.\*)?,?\s*)+", re.ASCII)
_STARRED = re.compile(r"={0,2}\s*(\d+(?:\.\d+)*)\.\*", re.ASCII)
_PYTHON = re.compile(r"python\s*={1,2}\s*([\d.]+)(?:=\S+)?")
_LONGEST_SPEC = 1000
_FULL_VERSION = 3
"""Numbers of a version that leaves nothing open: conda's 1.26 is any 1.26."""
_ALIASES = {"numpy-base": ARRAYS}
"""Conda divides numpy in two packages of one version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CondaFile:
    """What is read of one."""

    pip: str = ""
    """Lines as in requirements.txt."""
    runtime: tuple[str, ...] = ()
    """What conda itself would install of onnxruntime and numpy, as requirement lines."""
    pythons: tuple[str, ...] = ()
    """Versions of Python that it names."""


def conda_file(found: object, where: str) -> CondaFile:
    """Reads the content of a conda.yaml.

    Args:
      found: its plain data; None when there is no file.
      where: how errors name the version.

    Raises:
      ResolveError: it has another form than conda's, or says of a runtime what cannot be read.
    """
    if found is None:
        return CondaFile()
    if not isinstance(found, dict):
        raise ResolveError(where, "conda.yaml holds no mapping", _REMEDY)
    dependencies = found.get("dependencies")
    if not isinstance(dependencies, list | None):
        raise _refused(dependencies, where)
    pip: list[str] = []
    runtime: list[str] = []
    pythons: list[str] = []
    for one in dependencies or ():
        if isinstance(one, str):
            runtime += requirement_from_spec(one, where)
            if python := _PYTHON.fullmatch(one.rpartition("::")[2].strip()):
                pythons.append(python[1])
        elif isinstance(one, dict) and one.keys() == {"pip"}:
            pip += _texts(one["pip"], where)
        else:
            raise _refused(one, where)
    return CondaFile(pip="\n".join(pip), runtime=tuple(runtime), pythons=tuple(pythons))


def requirement_from_spec(spec: str, where: str) -> list[str]:
    """One of conda's lines as a requirement line; empty when it is about another package.

    Args:
      spec: as in onnxruntime=1.26.0, conda-forge::numpy>=2.
      where: how errors name the version.

    Raises:
      ResolveError: it may be about a runtime and cannot be read.
    """
    plain = spec.rpartition("::")[2].strip()
    found = _NAME.match(plain)
    name = canonicalize_name(found[0]) if found else ""
    name = _ALIASES.get(name, name)
    if found is None or "/" in plain or len(plain) > _LONGEST_SPEC:
        raise _refused(spec, where)
    if name not in {*NEEDED, GPU_BUILD} and not is_other_build(name):
        return []
    rest = plain[found.end() :]
    rest = rest if rest.lstrip()[:1].isdigit() else rest.lstrip()
    if not rest or _RANGE.fullmatch(rest):
        return [f"{name}{''.join(rest.split())}"]
    if starred := _STARRED.fullmatch(rest.lstrip()):
        return [f"{name}=={starred[1]}.*"]
    if exact := _EXACT.fullmatch(rest):
        operator, version, build = exact.groups()
        if name == RUNTIME and "cuda" in (build or ""):
            name = GPU_BUILD
        is_open = operator == "=" and not build and version.count(".") + 1 < _FULL_VERSION
        return [f"{name}=={version}{'.*' * is_open}"]
    raise _refused(spec, where)


def _texts(given: object, where: str) -> list[str]:
    """The lines below pip:, which may be one text."""
    lines = [] if given is None else given if isinstance(given, list) else [given]
    texts = [line for line in lines if isinstance(line, str)]
    if len(texts) < len(lines):
        raise _refused(given, where)
    return texts


def _refused(given: object, where: str) -> ResolveError:
    return ResolveError(
        where,
        f"the dependency '{seen(str(given))}' in conda.yaml cannot be read, and may be what names "
        "the runtime",
        _REMEDY,
    )

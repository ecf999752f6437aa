"""Which runtime each version runs in: the running environment's, or an environment of its own.

What a version pins decides (`resolve.runtime`); `sandbox.environments` builds what is missing. That
the two versions run in different runtimes is a finding, and where their bytes are equal it is the
cause of whatever differs.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import UsageError
from harness.core.findings import Finding, Severity
from harness.core.models import PinnedModel
from harness.pipeline.assets import default_environments_dir
from harness.pipeline.opening import ANCHOR, ROLES
from harness.pipeline.progress import Listener, Progress
from harness.resolve.digest import model_content
from harness.resolve.requirement_line import NEEDED
from harness.resolve.runtime import runtime_wish
from harness.sandbox.environments import environment_for

_LEGS = (*ROLES, ANCHOR)
_PARTS = ("onnxruntime", "numpy", "python")


@dataclass(frozen=True, slots=True, kw_only=True)
class LegRuntime:
    """What one version's leg runs in."""

    python: Path | None
    """Interpreter of the version's own environment; None = the running one."""
    packages: tuple[tuple[str, str], ...]
    """(name, version) of onnxruntime and numpy there."""
    unmet: tuple[str, ...] = ()
    """What the version pins and the running environment has not."""
    not_pinned: tuple[str, ...] = ()
    """Of onnxruntime and numpy, what the version pins to no single version."""
    left_out: tuple[str, ...] = ()
    """Recorded packages that a graph does not need."""
    notes: tuple[str, ...] = ()
    """What was read otherwise than it stands, as sentences."""

    def saved(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "own_environment": self.python is not None,
            "packages": dict(self.packages),
            "because_of": list(self.unmet),
            "not_pinned": list(self.not_pinned),
            "left_out": list(self.left_out),
            "notes": list(self.notes),
        }


Runtimes = tuple[LegRuntime, ...]
"""Baseline's, candidate's and, where there is one, the anchor's."""


def running_packages() -> dict[str, str]:
    """Versions of what a leg needs, as this process has them."""
    return {name: importlib.metadata.version(name) for name in NEEDED}


def runtimes(models: Sequence[PinnedModel], listener: Listener) -> Runtimes:
    """Finds or builds what the versions run in.

    Args:
      models: baseline, candidate and, where there is one, the anchor.
      listener: hears when something is built, which takes seconds.

    Raises:
      ResolveError: what a version pins cannot be read.
      EnvironmentUnavailableError: a version's environment cannot be built. That is no fault of the model's, so it is no
        verdict about it.
    """
    return tuple(_runtime(model, listener) for model in models)


def saved_runtimes(found: Runtimes) -> dict[str, Any]:
    """Role → what it runs in, for the manifest."""
    return {role: runtime.saved() for role, runtime in zip(_LEGS, found, strict=False)}


def check_same(found: Sequence[LegRuntime], manifest: Mapping[str, Any]) -> None:
    """A run that is gone on with must go on in the runtimes that it was begun in.

    Raises:
      UsageError: another version of a package is there now.
    """
    for role, runtime in zip(_LEGS, found, strict=False):
        before = manifest.get("runtimes", {}).get(role, {}).get("packages")
        if before is not None and before != dict(runtime.packages):
            raise UsageError(
                f"runtime of the {role}",
                f"was {_listed(before)} and is {_listed(dict(runtime.packages))} now",
                "Start a new run.",
            )


def environment_findings(
    models: Sequence[PinnedModel], versions: Mapping[str, Mapping[str, str]], *, differ: bool
) -> list[Finding]:
    """Says that the versions ran in different runtimes, and what that explains.

    Args:
      models: baseline and candidate.
      versions: role → python, numpy and onnxruntime as its process reported them.
      differ: whether answers or features differ.
    """
    old, new = (versions.get(role, {}) for role in ROLES)
    changed = [p for p in _PARTS if old.get(p) and new.get(p) and old[p] != new[p]]
    if not changed:
        return []
    told = ", ".join(f"{part} {old[part]} → {new[part]}" for part in changed)
    pins = "; ".join(filter(None, map(_unpinned, ROLES, models)))
    found = [
        Finding(
            kind="environment_differs",
            severity=Severity.INFO,
            where="runtime",
            what=f"the versions run in different environments: {told}{f' ({pins})' if pins else ''}",
            remedy="A difference between their answers may come from there. To tell, gate the candidate's "
            "model with the baseline's requirements.",
        )
    ]
    if differ and changed != ["python"] and same_bytes(models):
        found.insert(
            0,
            Finding(
                kind="same_bytes_other_runtime",
                severity=Severity.HARM,
                where="runtime",
                what=f"same bytes, other runtime: both versions are the same model file, and only the "
                f"runtime can make them differ ({told})",
                remedy=f"Keep {changed[0]} {old[changed[0]]}, or find a release that answers alike.",
            ),
        )
    return found


def _unpinned(role: str, model: PinnedModel) -> str:
    """What a version leaves open, in words; "" when it pins all that it runs in."""
    names = runtime_wish(model, running_packages()).not_pinned
    return f"not pinned by the {role}: {', '.join(names)}" if names else ""


def _runtime(model: PinnedModel, listener: Listener) -> LegRuntime:
    running = running_packages()
    wish = runtime_wish(model, running)
    python: Path | None = None
    packages = tuple(sorted(running.items()))
    if wish.unmet:
        note = " ".join(wish.requirements)
        environment = environment_for(
            wish.requirements,
            default_environments_dir(),
            where=model.given,
            second_python=".".join(model.python.split(".")[:2]),
            building=lambda: listener(Progress(stage="environment", done=0, total=0, note=note)),
        )
        python, packages = environment.interpreter, environment.packages
    return LegRuntime(
        python=python, packages=packages, unmet=wish.unmet, not_pinned=wish.not_pinned,
        left_out=wish.left_out, notes=wish.notes,
    )  # fmt: skip


def same_bytes(models: Sequence[PinnedModel]) -> bool:
    """Whether model and external data are equal, whatever the requirements are."""
    return len({model_content(model.path).digest for model in models}) == 1


def _listed(packages: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))

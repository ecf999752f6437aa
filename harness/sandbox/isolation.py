"""Which isolation a child really has, and whether a policy accepts it.

This version reaches tier S0. The layers above it (namespaces, Landlock, seccomp) are listed as not
there, so that no report can be read as if they were.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import UsageError, nearest

TIERS = ("S0", "S1", "S2", "S3")
"""S0 limits and a scrubbed process; S1 Landlock or namespaces; S2 seccomp; S3 all three."""

_PARENT_LAYERS = (
    "scrubbed_environment",
    "empty_working_directory",
    "new_session",
    "closed_descriptors",
)
_NOT_IN_THIS_VERSION = ("network_namespace", "landlock", "seccomp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One measure."""

    name: str
    """Stable word: rlimit_as, no_new_privs, landlock …"""
    on: bool
    """Whether it was seen to hold."""
    detail: str
    """How it was checked, or why it is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """What one child runs in."""

    tier: str
    """Highest tier whose layers all hold; "none" when not even S0's do."""
    layers: tuple[Layer, ...]
    """Every layer, there or not."""

    def missing(self) -> tuple[str, ...]:
        """Layers that are not there, each with its reason."""
        return tuple(f"{layer.name}: {layer.detail}" for layer in self.layers if not layer.on)


def isolation_from_child(said: dict[str, str], pid: int) -> Isolation:
    """Joins what the child read back with what the parent sees from outside.

    Args:
      said: layer → "" when it holds, else why not; sent before the child saw any model.
      pid: the child.
    """
    seen = _seen_from_outside(pid)
    layers = [Layer(name=n, on=True, detail="set by the parent") for n in _PARENT_LAYERS]
    for name, why in said.items():
        contradiction = seen.get(name, "")
        layers.append(
            Layer(
                name=name,
                on=not why and not contradiction,
                detail=why
                or contradiction
                or ("seen from outside" if name in seen else "read back"),
            )
        )
    # The parent-death signal guards against leftovers, not against the model: no tier depends on it.
    held = all(layer.on or layer.name == "parent_death_signal" for layer in layers)
    layers.extend(
        Layer(name=n, on=False, detail="not part of this version") for n in _NOT_IN_THIS_VERSION
    )
    return Isolation(tier="S0" if held and said else "none", layers=tuple(layers))


def refuse_weaker(found: Isolation, required: str, *, allow_weaker: bool) -> None:
    """Refuses a sandbox weaker than the policy wants.

    Raises:
      UsageError: it is weaker and that was not allowed, or the required tier is no tier.
    """
    if required not in TIERS:
        raise UsageError(
            "sandbox.require", f"'{required}' is no isolation tier", nearest(required, TIERS)
        )
    level = TIERS.index(found.tier) if found.tier in TIERS else -1
    if level >= TIERS.index(required) or allow_weaker:
        return
    raise UsageError(
        "sandbox.require",
        f"the policy requires {required}, this machine and version give {found.tier} "
        f"({'; '.join(found.missing())})",
        "Lower sandbox.require in the policy, or allow a weaker sandbox explicitly for models you "
        "trust: every page of the report will say so.",
    )


def _seen_from_outside(pid: int) -> dict[str, str]:
    """Layer → "" when /proc confirms it, else what it shows instead."""
    seen: dict[str, str] = {}
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        limits = Path(f"/proc/{pid}/limits").read_text()
    except OSError:
        return seen
    seen["no_new_privs"] = "" if "NoNewPrivs:\t1" in status else "/proc shows it unset"
    for name, title in (
        ("rlimit_as", "Max address space"),
        ("rlimit_nofile", "Max open files"),
        ("rlimit_fsize", "Max file size"),
        ("rlimit_core", "Max core file size"),
    ):
        line = next((text for text in limits.splitlines() if text.startswith(title)), "")
        seen[name] = "/proc shows it unlimited" if "unlimited" in line else ""
    return seen

"""Which isolation a child really has, and whether a policy accepts it.

The tier follows from what the child tried on itself and from what the parent sees in /proc. It is
settled before the child has seen a byte of the model, so it is our own program's word, not the model's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import UsageError, nearest

TIERS = ("S0", "S1", "S2", "S3")
"""S0 limits and a scrubbed process; S1 Landlock or a network of its own; S2 system calls filtered; S3
all three."""

_PARENT_LAYERS = (
    "scrubbed_environment",
    "empty_working_directory",
    "new_session",
    "closed_descriptors",
)
_BASE = (
    "no_new_privs",
    "rlimit_as",
    "rlimit_nofile",
    "rlimit_fsize",
    "rlimit_core",
    "no_files",
)
"""Without these there is no tier at all."""
REFUSED = ("EACCES", "EPERM")
"""Answers of a self-test that show a lock; anything else counts as let through, but for `_refused`."""
SELF_TESTS = (
    "read a system file",
    "look at a system file",
    "create a file",
    "run memory as code",
    "fork",
    "run a program",
    "signal the parent",
    "trace a process",
    "TCP socket",
    "UDP socket",
    "local socket",
    "memory file",
    "io_uring",
)


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
class SelfTest:
    """Something that the locked child tried to do."""

    name: str
    """What: one of SELF_TESTS."""
    refused: bool
    """Whether it was refused."""
    answer: str
    """The error's name; "allowed", or another error, where nothing refused it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """What one child runs in."""

    tier: str
    """Highest tier whose layers all hold; "none" when not even S0's do."""
    layers: tuple[Layer, ...]
    """Every layer, there or not."""
    self_tests: tuple[SelfTest, ...]
    """What the child tried, before it saw the model."""

    def missing(self) -> tuple[str, ...]:
        """Layers that are not there, each with its reason."""
        return tuple(f"{layer.name}: {layer.detail}" for layer in self.layers if not layer.on)

    @property
    def level(self) -> int:
        """For comparing: the tier's place in TIERS, −1 for none."""
        return TIERS.index(self.tier) if self.tier in TIERS else -1


def weakest(found: Iterable[Isolation]) -> Isolation:
    """The least isolated of several processes."""
    return min(found, key=lambda isolation: isolation.level)


def is_weaker(found: Isolation, required: str) -> bool:
    """Whether this is less than a tier."""
    return found.level < TIERS.index(required)


def isolation_from_child(said: Mapping[str, str], tried: Mapping[str, str], pid: int) -> Isolation:
    """Joins what the child read back with what the parent sees from outside.

    Args:
      said: layer → "" when it holds, else why not.
      tried: self-test → the answer it got.
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
                or ("tried, and seen from outside" if name in seen else "tried or read back"),
            )
        )
    on = {layer.name for layer in layers if layer.on}
    tests = tuple(
        SelfTest(name=name, refused=_refused(name, answer, on), answer=answer)
        for name, answer in tried.items()
    )
    return Isolation(tier=_tier(layers, tests), layers=tuple(layers), self_tests=tests)


def refuse_weaker(found: Isolation, required: str, *, allow_weaker: bool) -> None:
    """Refuses a sandbox weaker than the policy wants.

    Raises:
      UsageError: it is weaker and that was not allowed, or the required tier is no tier.
    """
    if required not in TIERS:
        raise UsageError(
            "sandbox.require", f"'{required}' is no isolation tier", nearest(required, TIERS)
        )
    if allow_weaker or not is_weaker(found, required):
        return
    raise UsageError(
        "sandbox.require",
        f"the policy requires {required}, this machine gives {found.tier} "
        f"({'; '.join(found.missing())})",
        "`harness doctor` says what this machine lacks and how to get it. Or lower sandbox.require in "
        "the policy, or allow a weaker sandbox explicitly for models you trust: every page of the "
        "report will say so.",
    )


def _refused(name: str, answer: str, on: set[str]) -> bool:
    """Whether an answer shows a lock.

    A limit of no processes says EAGAIN. So does a machine that is short of them for a moment: it is a
    refusal only where that limit holds.
    """
    return answer in REFUSED or (name == "fork" and answer == "EAGAIN" and "rlimit_nproc" in on)


def _tier(layers: list[Layer], tests: tuple[SelfTest, ...]) -> str:
    on = {layer.name for layer in layers if layer.on}
    if not on.issuperset(_BASE):
        return "none"
    if "no_capabilities" not in on:
        # Root with its rights could undo most of the rest.
        return "S0"
    filtered = "seccomp" in on and {t.name for t in tests if t.refused} >= set(SELF_TESTS)
    files, network = "landlock" in on, "network_namespace" in on
    if filtered:
        return "S3" if files and network else "S2"
    return "S1" if files or network else "S0"


def _seen_from_outside(pid: int) -> dict[str, str]:
    """Layer → "" when /proc confirms it, else what it shows instead."""
    seen: dict[str, str] = {}
    try:
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        limits = Path(f"/proc/{pid}/limits").read_text()
    except OSError:
        return seen
    seen["no_new_privs"] = "" if status.get("NoNewPrivs") == "1" else "/proc shows it unset"
    sets = [int(status.get(name, "0"), 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")]
    seen["no_capabilities"] = "/proc shows some" if any(sets) else ""
    if "Seccomp" in status:
        seen["seccomp"] = "" if status["Seccomp"] == "2" else "/proc shows no filter"
    for name, title in (
        ("rlimit_as", "Max address space"),
        ("rlimit_nofile", "Max open files"),
        ("rlimit_fsize", "Max file size"),
        ("rlimit_core", "Max core file size"),
        ("rlimit_cpu", "Max cpu time"),
        ("rlimit_nproc", "Max processes"),
    ):
        line = next((text for text in limits.splitlines() if text.startswith(title)), "")
        seen[name] = "/proc shows it unlimited" if "unlimited" in line else ""
    return seen

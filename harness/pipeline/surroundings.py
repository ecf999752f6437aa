"""Where the gate runs: kernel, container, settings that decide what a process may take from itself."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path

_SETTINGS = {
    "max_user_namespaces": "user/max_user_namespaces",
    "unprivileged_userns_clone": "kernel/unprivileged_userns_clone",
    "apparmor_restrict_unprivileged_userns": "kernel/apparmor_restrict_unprivileged_userns",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What was found."""

    release: str
    """The kernel's own name for its version: 6.8.0-45-generic."""
    machine: str
    """Kind of processor: x86_64, aarch64."""
    container: str
    """Docker, Podman, Kubernetes, a container; "" outside of one."""
    wsl: bool
    """Whether this is the Windows Subsystem for Linux."""
    settings: dict[str, str]
    """Kernel setting → value; those that this kernel does not have are not there."""
    security_modules: tuple[str, ...]
    """Which are switched on; empty when that cannot be seen."""

    @property
    def kernel(self) -> tuple[int, int]:
        """First two numbers of the release, for comparing; zeros when it has none."""
        found = re.match(r"(\d+)\.(\d+)", self.release)
        return (int(found[1]), int(found[2])) if found else (0, 0)


def surroundings(
    root: Path = Path("/"), *, release: str | None = None, machine: str | None = None
) -> Surroundings:
    """Looks around.

    Args:
      root: where proc, sys and run lie.
      release: the kernel's; None asks it.
      machine: kind of processor; None asks the kernel.
    """
    name = platform.release() if release is None else release
    settings = {n: _text(root / "proc/sys" / path) for n, path in _SETTINGS.items()}
    return Surroundings(
        release=name,
        machine=platform.machine() if machine is None else machine,
        container=_container(root),
        wsl="microsoft" in name.lower(),
        settings={n: value for n, value in settings.items() if value},
        security_modules=tuple(filter(None, _text(root / "sys/kernel/security/lsm").split(","))),
    )


def _container(root: Path) -> str:
    groups = _text(root / "proc/self/cgroup")
    for name, signs in (
        ("Kubernetes", (root / "var/run/secrets/kubernetes.io", "kubepods")),
        ("Podman", (root / "run/.containerenv", "libpod")),
        ("Docker", (root / ".dockerenv", "docker")),
        ("a container", (root / "run/systemd/container", "lxc")),
    ):
        path, word = signs
        if path.exists() or word in groups:
            return name
    return ""


def _text(path: Path) -> str:
    """A small file's text; "" when it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""

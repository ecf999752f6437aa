"""Each layer of the sandbox as a check of the doctor: what a child really got, why not, how to get it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from harness.core.policies import SandboxPolicy
from harness.pipeline.machine import Check, State
from harness.pipeline.surroundings import Surroundings
from harness.report import words
from harness.sandbox.isolation import TIERS, Isolation, Layer, is_weaker

_LANDLOCK_SINCE = (5, 13)
_KILL_SINCE = (4, 14)
_NAMESPACE_SETTINGS = {
    "max_user_namespaces": (
        "0",
        "Raise the number of user namespaces: sysctl -w user.max_user_namespaces=10000",
    ),
    "unprivileged_userns_clone": (
        "0",
        "Let users make namespaces: sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    "apparmor_restrict_unprivileged_userns": (
        "1",
        (
            "AppArmor restricts user namespaces: give this Python interpreter a profile with the rule "
            "'userns,', or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
        ),
    ),
}
"""Setting → (value that closes the way, what to do)."""
_LIMITS = (
    "rlimit_as", "rlimit_nofile", "rlimit_fsize", "rlimit_core", "rlimit_cpu", "rlimit_nproc", "no_files",
)  # fmt: skip
_PRIVILEGES = ("no_new_privs", "no_capabilities", "other_user", "not_dumpable", "one_thread")


def isolation_checks(found: Isolation, here: Surroundings) -> Iterator[Check]:
    """The tier, then what it is made of.

    Args:
      found: of a child that was started for this.
      here: where it ran.
    """
    layers = {layer.name: layer for layer in found.layers}
    yield _tier(found)
    yield _layer(layers, ("seccomp", "seccomp_kill"), "seccomp", here, filter_remedy)
    yield _layer(layers, ("landlock", "landlock_imports"), "landlock", here, landlock_remedy)
    yield _layer(layers, ("network_namespace",), "network_namespace", here, namespace_remedy)
    yield _layer(layers, _PRIVILEGES, "privileges", here, _privilege_remedy)
    yield _layer(layers, _LIMITS, "limits", here, _limit_remedy)
    yield _self_tests(found)


def filter_remedy(why: str, here: Surroundings) -> str:
    """How to get a system call filter."""
    if why.startswith("no table"):
        return "Gate on x86-64 or 64-bit ARM: the filter's numbers are known for these only."
    if why.startswith("lets through"):
        return "Report this with the kernel's version: the filter did not hold."
    if why in {"EPERM", "EACCES"}:
        return (
            f"Something around this process forbids filters{_in(here)}: allow the call seccomp(2)."
        )
    if here.wsl:
        return "Use WSL 2: the first version has no system call filters."
    if here.kernel < _KILL_SINCE and "EINVAL" in why:
        return "Use Linux 4.14 or newer."
    return "Use a kernel with CONFIG_SECCOMP_FILTER=y, and no emulated one (gVisor, user-mode emulation)."


def landlock_remedy(why: str, here: Surroundings) -> str:
    """How to get Landlock."""
    if here.kernel < _LANDLOCK_SINCE:
        return f"Use Linux 5.13 or newer; this is {here.release}."
    if why == "ENOTSUP":
        modules = ",".join(("landlock", *here.security_modules)) if here.security_modules else ""
        return (
            "The kernel has Landlock switched off: start it with "
            f"lsm={modules or 'landlock,… (what /sys/kernel/security/lsm lists)'}."
        )
    if here.wsl:
        return "WSL's own kernel leaves Landlock out: build one with CONFIG_SECURITY_LANDLOCK=y."
    if why == "EPERM" or (here.container and why == "ENOSYS"):
        return (
            f"The system call profile around this process{_in(here)} forbids it: use a profile that "
            "knows landlock_create_ruleset (Docker 23 or newer), or a kernel with "
            "CONFIG_SECURITY_LANDLOCK=y."
        )
    if why == "ENOSYS":
        return "Use a kernel with CONFIG_SECURITY_LANDLOCK=y."
    return "Report this with the kernel's version: Landlock is there and did not hold."


def namespace_remedy(why: str, here: Surroundings) -> str:
    """How to get a network namespace."""
    if why == "ENOSPC":
        return _NAMESPACE_SETTINGS["max_user_namespaces"][1]
    for name, (closed, remedy) in _NAMESPACE_SETTINGS.items():
        if here.settings.get(name) == closed:
            return remedy
    if here.container == "Kubernetes":
        return (
            "The pod's system call profile forbids unshare: name one that allows it in "
            "securityContext.seccompProfile (type: Localhost), or run the pod with hostUsers: false."
        )
    if here.container:
        return (
            f"The system call profile of {here.container} forbids unshare: start the container with "
            "--security-opt seccomp=PROFILE where PROFILE allows unshare (or, for models you trust, "
            "seccomp=unconfined). Network: --network none gives the same for the whole container."
        )
    if why in {"ENOSYS", "EINVAL"}:
        return "Use a kernel with CONFIG_USER_NS=y and CONFIG_NET_NS=y."
    return "Allow this user to make user namespaces, or run the gate as root."


def _tier(found: Isolation) -> Check:
    default = SandboxPolicy().require
    text = f"tier {found.tier}: {words.TIERS.get(found.tier, 'not even the limits hold')}"
    if not is_weaker(found, default):
        return Check(name="isolation", state=State.OK, found=text)
    tier = found.tier if found.tier in TIERS else TIERS[0]
    return Check(
        name="isolation",
        state=State.PROBLEM,
        found=text,
        remedy=f"Policies require {default} unless they say otherwise. See below for what is missing; or "
        f"gate only models you trust, with sandbox.require: {tier} or --allow-lower-isolation.",
    )


def _layer(
    layers: dict[str, Layer],
    names: tuple[str, ...],
    title: str,
    here: Surroundings,
    remedy: Callable[[str, Surroundings], str],
) -> Check:
    """One measure, or several that belong together; the first that is off says why."""
    there = [layers[name] for name in names if name in layers]
    off = [layer for layer in there if not layer.on]
    if there and not off:
        how = there[0].detail if len(there) == 1 else f"{len(there)} of {len(there)} hold"
        return Check(name=title, state=State.OK, found=f"on ({how})")
    found = "; ".join(f"{layer.name}: {layer.detail}" for layer in off) or "not reported"
    why = off[0].detail if off else ""
    return Check(name=title, state=State.WARNING, found=f"off ({found})", remedy=remedy(why, here))


def _self_tests(found: Isolation) -> Check:
    through = [f"{t.name} ({t.answer})" for t in found.self_tests if not t.refused]
    total = len(found.self_tests)
    if total and not through:
        return Check(name="self_tests", state=State.OK, found=f"{total} of {total} refused")
    return Check(
        name="self_tests",
        state=State.WARNING,
        found=f"a model's process could: {', '.join(through) or 'not reported'}",
        remedy="Get the system call filter: it refuses all of these.",
    )


def _privilege_remedy(why: str, here: Surroundings) -> str:
    if "without the capabilities" in why:
        return (
            "Run the gate as an ordinary user, or leave root its capabilities KILL, SETUID and SETGID "
            f"(container: --cap-add){_in(here)}."
        )
    return "Run the gate as an ordinary user."


def _limit_remedy(why: str, here: Surroundings) -> str:
    del why
    return f"Raise the hard limits of this process (ulimit -H){_in(here)}."


def _in(here: Surroundings) -> str:
    return f" in {here.container}" if here.container else ""

"""What the doctor says of a layer that is off, on machines of many kinds."""

from dataclasses import replace

import pytest

from harness.pipeline.isolation_advice import filter_remedy, landlock_remedy, namespace_remedy
from harness.pipeline.surroundings import Surroundings, surroundings

PLAIN = Surroundings(
    release="6.8.0-45-generic", machine="x86_64", container="", wsl=False, settings={},
    security_modules=(),
)  # fmt: skip


def test_surroundings_are_read_off_the_file_system(tmp_path):
    for path, text in {
        "proc/sys/user/max_user_namespaces": "0\n",
        "proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n",
        "sys/kernel/security/lsm": "lockdown,yama,apparmor",
        "proc/self/cgroup": "0::/system.slice",
        ".dockerenv": "",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert surroundings(tmp_path, release="5.15.90.1-microsoft-standard-WSL2", machine="m") == (
        Surroundings(
            release="5.15.90.1-microsoft-standard-WSL2", machine="m", container="Docker", wsl=True,
            settings={"max_user_namespaces": "0", "apparmor_restrict_unprivileged_userns": "1"},
            security_modules=("lockdown", "yama", "apparmor"),
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("var/run/secrets/kubernetes.io/serviceaccount", "Kubernetes"),
        ("run/.containerenv", "Podman"),
        (".dockerenv", "Docker"),
        ("run/systemd/container", "a container"),
        ("etc", ""),
    ],
)
def test_containers_are_told_apart(tmp_path, path, name):
    (tmp_path / path).mkdir(parents=True)
    assert surroundings(tmp_path).container == name


@pytest.mark.parametrize(
    ("release", "expected"), [("6.8.0-45", (6, 8)), ("5.4", (5, 4)), ("unknown", (0, 0))]
)
def test_the_kernels_number(release, expected):
    assert replace(PLAIN, release=release).kernel == expected


def set_to(name, value):
    return replace(PLAIN, settings={"max_user_namespaces": "96365", name: value})


@pytest.mark.parametrize(
    ("why", "here", "word"),
    [
        ("ENOSPC", PLAIN, "sysctl -w user.max_user_namespaces"),
        ("EPERM", set_to("max_user_namespaces", "0"), "sysctl -w user.max_user_namespaces"),
        ("EPERM", set_to("unprivileged_userns_clone", "0"), "unprivileged_userns_clone=1"),
        ("EACCES", set_to("apparmor_restrict_unprivileged_userns", "1"), "'userns,'"),
        ("EPERM", replace(PLAIN, container="Docker"), "--security-opt seccomp="),
        ("EPERM", replace(PLAIN, container="Podman"), "Podman forbids unshare"),
        ("EPERM", replace(PLAIN, container="Kubernetes"), "seccompProfile"),
        ("EINVAL", PLAIN, "CONFIG_USER_NS=y"),
        ("EPERM", PLAIN, "as root"),
    ],
)
def test_ways_to_a_network_namespace(why, here, word):
    assert word in namespace_remedy(why, here)


@pytest.mark.parametrize(
    ("why", "here", "word"),
    [
        ("ENOSYS", replace(PLAIN, release="5.4.0"), "5.13 or newer"),
        ("ENOTSUP", PLAIN, "lsm=landlock,…"),
        ("ENOTSUP", replace(PLAIN, security_modules=("yama", "bpf")), "lsm=landlock,yama,bpf"),
        ("ENOSYS", replace(PLAIN, wsl=True), "WSL"),
        ("ENOSYS", replace(PLAIN, container="Docker"), "Docker 23"),
        ("EPERM", PLAIN, "profile"),
        ("ENOSYS", PLAIN, "CONFIG_SECURITY_LANDLOCK=y"),
        ("a file could be opened (allowed)", PLAIN, "Report this"),
    ],
)
def test_ways_to_landlock(why, here, word):
    assert word in landlock_remedy(why, here)


@pytest.mark.parametrize(
    ("why", "here", "word"),
    [
        ("no table of system calls for riscv64", PLAIN, "64-bit ARM"),
        ("lets through: fork", PLAIN, "Report this"),
        ("EPERM", replace(PLAIN, container="Docker"), "in Docker"),
        ("ENOSYS", replace(PLAIN, wsl=True), "WSL 2"),
        ("EINVAL", replace(PLAIN, release="3.10.0"), "4.14 or newer"),
        ("ENOSYS", PLAIN, "CONFIG_SECCOMP_FILTER=y"),
    ],
)
def test_ways_to_a_filter(why, here, word):
    assert word in filter_remedy(why, here)

"""Forked processes, which tests of this folder get, are what started ones are."""

import os
from pathlib import Path

import pytest
from forked import Servers
from gates import tiny_model

from harness.core.policies import SandboxPolicy
from harness.sandbox import child_process
from harness.sandbox.process import Sandbox

pytestmark = [
    pytest.mark.usefixtures("each_process_started"),
    pytest.mark.skipif(os.geteuid() != 0, reason="what another process has only root may see"),
]


@pytest.fixture
def ways():
    """How processes begin: as the product's, and forked."""
    servers = Servers()
    yield {"started": servers.started, "forked": servers}
    servers.close()


def found(spawned, model, monkeypatch):
    """What is to be seen of a process whose model is loaded."""
    monkeypatch.setattr(child_process, "_spawned", spawned)
    with Sandbox.start(model, name="candidate", limits=SandboxPolicy()) as sandbox:
        seen = Path(f"/proc/{sandbox.pid}")
        status = dict(line.split(":\t", 1) for line in (seen / "status").read_text().splitlines())
        kept = (
            "PPid",
            "Uid",
            "Gid",
            "Threads",
            "NoNewPrivs",
            "Seccomp",
            "CapEff",
            "CapBnd",
            "SigIgn",
        )
        return {
            "isolation": sandbox.isolation,
            "status": {name: status[name] for name in kept},
            "session": os.getsid(sandbox.pid) == sandbox.pid,
            "folder": (seen / "cwd").readlink().name.endswith(" (deleted)"),
            "network": (seen / "ns/net").readlink() != Path("/proc/self/ns/net").readlink(),
            "descriptors": len(list((seen / "fd").iterdir())),
            "limits": (seen / "limits").read_text(),
        }


def test_a_forked_process_is_locked_as_a_started_one(ways, tmp_path, monkeypatch):
    model = tiny_model(tmp_path / "m.onnx")
    started, forked = (found(way, model, monkeypatch) for way in ways.values())
    assert forked == started
    assert started["session"]
    assert started["folder"]


def test_a_forked_process_gets_what_it_is_given_by_a_tester_that_holds_much_open(
    ways, tmp_path, monkeypatch
):
    """Whatever the numbers are: those that the server moves them through are among the tester's."""
    model = tiny_model(tmp_path / "m.onnx")
    few = found(ways["forked"], model, monkeypatch)
    for room in range(88, 104):
        held = []
        while not held or held[-1] < room:
            held.append(os.open(os.devnull, os.O_RDONLY))
        try:
            assert found(ways["forked"], model, monkeypatch) == few
        finally:
            for fd in held:
                os.close(fd)

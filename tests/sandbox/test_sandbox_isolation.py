"""What a child reports of its isolation is what it has, on machines that offer less too."""

import os
from pathlib import Path

import emulation
import numpy as np
import pytest
import sandbox_models as models

from harness.core.errors import UsageError
from harness.core.policies import SandboxPolicy
from harness.sandbox.answers import BatchAnswer
from harness.sandbox.graphs import Look, look, probe
from harness.sandbox.isolation import SELF_TESTS, Isolation, isolation_from_child
from harness.sandbox.process import Sandbox
from harness.sandbox.tracing import Edit, Tracer, edit

FILES = {"read a system file", "create a file"}


def isolation(folder, *what: str) -> Isolation:
    """Of a child on a machine that lacks this; the child must work all the same."""
    sandbox = Sandbox.start(
        models.identity(folder / "m.onnx"), name="c", limits=SandboxPolicy(), allow_weaker=True,
        python=emulation.interpreter(folder, *what),
    )  # fmt: skip
    assert isinstance(sandbox, Sandbox), sandbox
    with sandbox:
        sandbox.submit({"x": np.ones((3, 2), np.float32)}, 3, trace=False)
        answer = sandbox.collect()
    assert isinstance(answer, BatchAnswer)
    return sandbox.isolation


def refused(found: Isolation) -> set[str]:
    return {test.name for test in found.self_tests if test.refused}


@pytest.mark.parametrize("user", [(), ("user",)], ids=["as_is", "unprivileged"])
@pytest.mark.parametrize(
    ("lacking", "tier", "off"),
    [
        ((), "S3", set()),
        (("no-namespaces",), "S2", {"network_namespace"}),
        (("no-landlock",), "S2", {"landlock", "landlock_imports"}),
        (("landlock-off",), "S2", {"landlock", "landlock_imports"}),
        (("no-seccomp",), "S1", {"seccomp", "seccomp_kill"}),
        (("no-seccomp", "no-namespaces"), "S1", {"seccomp", "seccomp_kill", "network_namespace"}),
        (
            ("no-seccomp", "no-namespaces", "no-landlock"),
            "S0",
            {"seccomp", "seccomp_kill", "network_namespace", "landlock", "landlock_imports"},
        ),
    ],
)
def test_the_tier_is_what_the_machine_allows(tmp_path, user, lacking, tier, off):
    found = isolation(tmp_path, *user, *lacking)
    assert found.tier == tier
    # Only root can empty the bounding set outside a user namespace, and no tier depends on it.
    assert {m.split(":")[0] for m in found.missing()} - {"no_bounding_set"} == off
    assert sorted(test.name for test in found.self_tests) == sorted(SELF_TESTS)
    everything = set(SELF_TESTS)
    expected = {"S3": everything, "S2": everything, "S1": FILES | {"fork"}, "S0": {"fork"}}[tier]
    assert refused(found) >= expected
    if tier == "S0":
        assert not refused(found) & (FILES | {"TCP socket", "UDP socket", "run a program"})


def test_a_child_of_root_is_not_root(tmp_path):
    if os.getuid():
        pytest.skip("the parent is not root")
    with started(tmp_path) as sandbox:
        status = status_of(sandbox)
    assert status["Uid"].split() == ["65534"] * 4
    assert status["Gid"].split() == ["65534"] * 4


def test_a_child_has_no_capability_and_cannot_get_one(tmp_path):
    with started(tmp_path) as sandbox:
        status = status_of(sandbox)
    names = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    assert [int(status[name], 16) for name in names] == [0] * 5
    assert status["NoNewPrivs"] == "1"
    assert status["Threads"] == "1"


def started(folder) -> Sandbox:
    model = models.identity(folder / "m.onnx")
    sandbox = Sandbox.start(model, name="c", limits=SandboxPolicy())
    assert isinstance(sandbox, Sandbox)
    return sandbox


def status_of(sandbox) -> dict[str, str]:
    lines = Path(f"/proc/{sandbox.pid}/status").read_text().splitlines()
    return {name: text.strip() for name, _, text in (line.partition(":") for line in lines)}


@pytest.mark.parametrize(
    "ask",
    [
        lambda path, limits: Sandbox.start(path, name="c", limits=limits),
        lambda path, limits: look([Look(model=path)], limits),
        lambda path, limits: probe(path, [], path.with_suffix(".copy"), limits),
        lambda path, limits: edit(path, Edit(), path.with_suffix(".copy"), limits),
        lambda path, limits: Tracer.start(path, limits=limits),
    ],
    ids=["run", "look", "probe", "edit", "trace"],
)
def test_less_than_required_is_refused_before_the_model_is_read(
    tmp_path, monkeypatch, children, ask
):
    model = models.identity(tmp_path / "m.onnx")
    script = emulation.interpreter(tmp_path, "no-seccomp")
    monkeypatch.setattr("sys.executable", str(script))
    with pytest.raises(UsageError, match=r"requires S2, .* gives S1 .*seccomp: ENOSYS"):
        ask(model, SandboxPolicy())
    assert children() == set()


def test_less_can_be_allowed_for_a_look(tmp_path, monkeypatch):
    model = models.identity(tmp_path / "m.onnx")
    monkeypatch.setattr("sys.executable", str(emulation.interpreter(tmp_path, "no-seccomp")))
    (seen,) = look([Look(model=model)], SandboxPolicy(), allow_weaker=True)
    assert seen.graph.signature.inputs[0].name == "x"


ALL_LAYERS = dict.fromkeys(
    (
        "no_new_privs", "rlimit_as", "rlimit_nofile", "rlimit_fsize", "rlimit_core", "no_files",
        "no_capabilities", "landlock", "network_namespace", "seccomp",
    ),
    "",
)  # fmt: skip
NOBODY_HERE = 1 << 30


@pytest.mark.parametrize("name", SELF_TESTS)
@pytest.mark.parametrize("answer", ["allowed", "ENOENT", None])
def test_one_attempt_that_gets_through_is_no_filter(name, answer):
    tried = dict.fromkeys(SELF_TESTS, "EPERM") | {name: answer}
    tried = {k: v for k, v in tried.items() if v}
    assert isolation_from_child(ALL_LAYERS, tried, NOBODY_HERE).tier == "S1"


def test_a_layer_that_proc_denies_does_not_count():
    tried = dict.fromkeys(SELF_TESTS, "EPERM")
    assert isolation_from_child(ALL_LAYERS, tried, NOBODY_HERE).tier == "S3"
    assert isolation_from_child(ALL_LAYERS, tried, os.getpid()).tier == "none"


def test_a_process_with_capabilities_has_no_more_than_limits():
    said = ALL_LAYERS | {"no_capabilities": "some are left"}
    tried = dict.fromkeys(SELF_TESTS, "EPERM")
    assert isolation_from_child(said, tried, NOBODY_HERE).tier == "S0"


@pytest.mark.parametrize("user", [(), ("user",)], ids=["as_is", "unprivileged"])
def test_no_process_is_started_even_without_a_filter_of_system_calls(tmp_path, user):
    found = isolation(tmp_path, *user, "no-seccomp")
    assert {layer.name: layer.on for layer in found.layers}["rlimit_nproc"]
    (fork,) = (test for test in found.self_tests if test.name == "fork")
    assert (fork.answer, fork.refused) == ("EAGAIN", True)


@pytest.mark.parametrize("said", [{}, {"rlimit_nproc": "reads back (-1, -1)"}])
@pytest.mark.parametrize("name", SELF_TESTS)
def test_a_machine_short_of_something_has_refused_nothing(said, name):
    found = isolation_from_child(ALL_LAYERS | said, {name: "EAGAIN"}, NOBODY_HERE)
    assert refused(found) == set()


def test_a_limit_of_no_processes_refuses_processes_only():
    tried = dict.fromkeys(SELF_TESTS, "EAGAIN")
    assert refused(isolation_from_child(ALL_LAYERS | {"rlimit_nproc": ""}, tried, NOBODY_HERE)) == {
        "fork"
    }


def test_the_limit_of_processes_is_the_childs_alone(tmp_path):
    """A second child of the same user starts, and runs, beside one that may start nothing."""
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    with_limit = Sandbox.start(
        models.identity(folders[0] / "m.onnx"), name="c", limits=SandboxPolicy(),
        allow_weaker=True, python=emulation.interpreter(folders[0], "user", "no-seccomp"),
    )  # fmt: skip
    assert isinstance(with_limit, Sandbox), with_limit
    with with_limit:
        limits = Path(f"/proc/{with_limit.pid}/limits").read_text()
        assert [line.split()[2:4] for line in limits.splitlines() if "Max processes" in line] == [
            ["0", "0"]
        ]
        assert isolation(folders[1], "user").tier == "S3"

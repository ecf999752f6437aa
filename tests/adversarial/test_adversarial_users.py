"""Every attack through a whole gate, as root, as an ordinary user, and with layers of the sandbox missing.

The gates of one user on one machine run one after another in one process, once for all processes of
pytest-xdist; the tests look at what came of them.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import attack_gates
import emulation
import pytest
from attacks import ATTACKS, BREAKING, FILES, HONEST, MODELS, REACHING, STRICT, Attack
from gates import ROOT, once

from harness.sandbox.isolation import SELF_TESTS

FIRST_GROWTH_BYTES, GROWTH_BYTES = 96 << 20, 24 << 20
"""A process's first gate imports, and the first after one that is refused imports the rest; the others leave
what the allocator keeps."""
LOWER = ("--allow-lower-isolation", "--json")
OFTEN = {"garbage", "ignores", "flood", "shrinks", "dies-between"}
"""Of the processes that break the rules, those whose kinds of answer differ. What the rest of them get is held
to each frame in tests of the sandbox, and to a gate's answer by those of the same kind here."""
NO_FILTER = ("user", "no-seccomp")
NO_FILTER_NO_NETWORK = (*NO_FILTER, "no-namespaces")
NOTHING = (*NO_FILTER_NO_NETWORK, "no-landlock")


def gates_of(
    *machine: str, often: tuple[Attack, ...], rarely: tuple[Attack, ...] = ()
) -> list[Any]:
    """Parameters (machine, names of its gates, one of these attacks).

    Args:
      machine: what `emulation` is told; nothing for root.
      often: attacks of the default tests.
      rarely: those that take too long for these; they have a process of their own.
    """
    found = []
    for attacks, mark in ((often, pytest.mark.slow), (rarely, pytest.mark.long)):
        names = ",".join(a.name for a in attacks)
        title = "-".join(machine) or "root"
        needs_root = pytest.mark.skipif(bool(os.geteuid()) and not machine, reason="not root")
        found += [
            pytest.param(machine, names, a, id=f"{title}-{a.name}", marks=[mark, needs_root])
            for a in attacks
        ]
    return found


@pytest.fixture
def came(machine, names, attack, shared_folder) -> dict[str, Any]:
    """What came of one attack's gate."""
    known = hashlib.sha256(f"{machine} {names}".encode()).hexdigest()[:16]
    target = shared_folder / f"attacks-{known}.json"
    with once(target) as missing:
        if missing:
            target.write_text(json.dumps(outcomes(machine, names)))
    return json.loads(target.read_text())[attack.name]


def outcomes(machine: tuple[str, ...], names: str) -> dict[str, Any]:
    options = LOWER if "no-seccomp" in machine else ()
    before = emulation.command(*machine) if machine else []
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        folder.chmod(0o777)
        ran = subprocess.run(
            [*before, sys.executable, attack_gates.__file__, folder, names, *options],
            cwd=folder, check=False, timeout=900, capture_output=True, text=True,
            env={
                "PATH": os.environ["PATH"], "HOME": scratch, "OMP_NUM_THREADS": "1",
                "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
                "HARNESS_STATE_DIR": f"{scratch}/state", "MLFLOW_DISABLE_TELEMETRY": "true",
            },
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        return json.loads((folder / "outcomes.json").read_text())


def page(came, name) -> dict[str, Any]:
    return json.loads(came["pages"][name])


FEW_BREAKING = tuple(a for a in BREAKING if a.name in OFTEN)
OTHER_BREAKING = tuple(a for a in BREAKING if a.name not in OFTEN)
FULL = [
    *gates_of(
        often=(HONEST, *REACHING),
        rarely=(*MODELS, *FILES, *BREAKING),
    ),
    *gates_of(
        "user",
        often=(HONEST, *MODELS, *FILES, *FEW_BREAKING, *REACHING),
        rarely=OTHER_BREAKING,
    ),
    *gates_of("user", "no-namespaces", often=(), rarely=(HONEST, *FILES, *REACHING)),
    *gates_of("user", "no-landlock", often=(), rarely=(HONEST, *FILES, *REACHING)),
]
"""Machines with a system call filter: nothing gets through."""


@pytest.mark.parametrize(("machine", "names", "attack"), FULL)
def test_the_gate_gives_the_right_answer_and_is_as_it_was(came, machine, names, attack):
    decision, isolation = page(came, "decision.json"), page(came, "manifest.json").get("isolation")
    assert (came["code"], decision["reason"]) == (attack.code, attack.reason)
    found = page(came, "findings.json")["findings"]
    kinds = [f["kind"] for f in found]
    assert attack.kind in kinds if attack.kind else kinds == []
    assert attack.words in " ".join(f["what"] for f in found)
    assert came["through"] == []
    assert_unharmed(came, machine, names, attack)
    if attack.reason != "candidate_does_not_load":
        assert isolation["tier"] == ("S2" if len(machine) > 1 else "S3")
        assert not isolation["allowed_below"]


def assert_unharmed(came, machine, names, attack):
    """The gate's own process has the descriptors, children and threads that it had, and no more memory."""
    assert came["left"] == []
    gates = names.split(",")
    importing = {gates[0], next(name for name in gates if name != STRICT.name)}
    limit = FIRST_GROWTH_BYTES if attack.name in importing else GROWTH_BYTES
    assert came["grown_bytes"] < limit
    assert came["user"] == (emulation.NOBODY if machine and not os.geteuid() else os.geteuid())


BY_NAME = {a.name: a for a in REACHING}
LESS = [
    *gates_of(
        *NO_FILTER, often=(STRICT, BY_NAME["read"], BY_NAME["udp"]), rarely=(HONEST, *REACHING)
    ),
    *gates_of(*NO_FILTER_NO_NETWORK, often=(), rarely=(STRICT, HONEST, *REACHING)),
    *gates_of(*NOTHING, often=(STRICT, HONEST, *REACHING)),
]
"""Machines without a filter: what a policy requires by default they do not give."""
TIER = {NO_FILTER: "S1", NO_FILTER_NO_NETWORK: "S1", NOTHING: "S0"}
ALWAYS_THROUGH = {
    NO_FILTER: set(),
    NO_FILTER_NO_NETWORK: {"udp"},
    NOTHING: {"tcp", "udp", "read", "write"},
}
"""What these machines cannot stop: the report has to say so."""
SOMETIMES = {NO_FILTER_NO_NETWORK: {"tcp"}}
"""Stopped by some kernels' Landlock only."""
TRIED = {
    "tcp": "TCP socket", "udp": "UDP socket", "read": "read a system file", "write": "create a file",
    "fork": "fork",
}  # fmt: skip


def less(*kinds: Attack) -> list[Any]:
    return [p for p in LESS if p.values[2] in kinds]


@pytest.mark.parametrize(("machine", "names", "attack"), less(STRICT))
def test_less_than_the_policy_requires_is_refused_with_the_way_out(came, machine, names, attack):
    assert came["code"] == 2
    for words in ("requires S2", f"gives {TIER[machine]}", "`harness doctor`", "sandbox.require"):
        assert words in came["err"]
    assert "decision.json" not in came["pages"]
    assert_unharmed(came, machine, names, attack)


@pytest.mark.parametrize(("machine", "names", "attack"), less(HONEST))
def test_less_that_is_allowed_is_told_on_every_page(came, machine, names, attack):
    tier = TIER[machine]
    assert (came["code"], page(came, "decision.json")["reason"]) == (0, attack.reason)
    for said in (came["out"], came["pages"]["decision.json"], came["pages"]["manifest.json"]):
        isolation = json.loads(said)["isolation"]
        assert (isolation["tier"], isolation["required"]) == (tier, "S2")
        assert isolation["allowed_below"]
    for name in ("report.html", "summary.md"):
        assert f"Isolation {tier}, below the required S2" in came["pages"][name]
    assert_unharmed(came, machine, names, attack)


@pytest.mark.parametrize(("machine", "names", "attack"), less(*REACHING))
def test_what_a_lower_tier_cannot_stop_is_said(came, machine, names, attack):
    through, mine = set(came["through"]), {attack.name}
    assert through - SOMETIMES.get(machine, set()) == ALWAYS_THROUGH[machine] & mine
    isolation = page(came, "manifest.json")["isolation"]
    assert isolation["tier"] == TIER[machine]
    refused = {test["name"]: test["refused"] for test in isolation["self_tests"]}
    assert set(refused) == set(SELF_TESTS)
    shown = " ".join(html.unescape(re.sub("<[^>]+>", " ", came["pages"]["report.html"])).split())
    for name in through:
        assert not refused[TRIED[name]]
        assert f"{TRIED[name]} not refused" in shown
    if attack.name == "fork":
        assert refused["fork"]
        assert "fork refused EAGAIN" in shown
    # The process ends either way: what got through is not what the answer rests on.
    assert (came["code"], page(came, "decision.json")["reason"]) == (1, "candidate_fails")
    assert_unharmed(came, machine, names, attack)


def test_no_attack_is_left_out():
    played = {p.values[2].name for p in FULL if p.values[0] in ((), ("user",))}
    assert played == set(ATTACKS) - {STRICT.name}

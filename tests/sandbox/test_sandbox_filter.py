"""The filter's program, run instruction by instruction for each machine it knows."""

import errno
import os
import struct
from pathlib import Path

import pytest

from harness.sandbox.child import seccomp
from harness.sandbox.child.syscalls import ALLOWED, BY_ARGUMENT, DEADLY, FILES, NUMBERS

PID = 4711
MACHINES = sorted(seccomp.ARCHITECTURES)
EPERM, EACCES = (seccomp.REFUSE | code for code in (errno.EPERM, errno.EACCES))
ENOSYS = seccomp.REFUSE | errno.ENOSYS
AT_EMPTY_PATH, PROT_EXEC, CLONE_THREAD = 0x1000, 4, 0x10000


def answer(machine, number, *arguments, kill=True, architecture=None) -> int:
    """What the kernel would read off the program for one call."""
    program = seccomp.program(machine, PID, kill=kill)
    steps = list(struct.iter_unpack("=HBBI", program))
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", number, architecture or seccomp.ARCHITECTURES[machine], 0, *padded)
    at, word = 0, 0
    while True:
        code, yes, no, value = steps[at]
        at += 1
        match code:
            case 0x20:
                (word,) = struct.unpack_from("=I", data, value)
            case 0x15:
                at += yes if word == value else no
            case 0x35:
                at += yes if word >= value else no
            case 0x45:
                at += yes if word & value else no
            case 0x06:
                return value
            case _:
                raise AssertionError(f"no such instruction: {code:#x}")


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("kill", [False, True])
def test_each_group_gets_its_answer(machine, kill):
    deadly = seccomp.KILL if kill else EPERM
    expected = dict.fromkeys(ALLOWED, seccomp.ALLOW)
    expected |= dict.fromkeys(FILES, EACCES) | dict.fromkeys(DEADLY, deadly)
    numbers = NUMBERS[machine]
    found = {n: answer(machine, numbers[n], kill=kill) for n in expected if n in numbers}
    assert found == {n: a for n, a in expected.items() if n in numbers}


@pytest.mark.parametrize("machine", MACHINES)
def test_what_stands_nowhere_is_refused(machine):
    known = {NUMBERS[machine][n] for n in NUMBERS[machine]}
    unknown = set(range(600)) - known
    assert {answer(machine, number) for number in unknown} == {EPERM}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("mmap", (0, 4096, 3), seccomp.ALLOW),
        ("mmap", (0, 4096, PROT_EXEC | 1), EACCES),
        ("mprotect", (0, 4096, PROT_EXEC), EACCES),
        ("clone", (CLONE_THREAD | 0xF00,), seccomp.ALLOW),
        ("clone", (17,), seccomp.KILL),
        ("clone", (CLONE_THREAD << 32,), seccomp.KILL),
        ("clone3", (), ENOSYS),
        ("tgkill", (PID, PID, 6), seccomp.ALLOW),
        ("tgkill", (PID + 1, PID + 1, 9), seccomp.KILL),
        ("newfstatat", (3, 0, 0, AT_EMPTY_PATH), seccomp.ALLOW),
        ("newfstatat", (3, 0, 0, 0), EACCES),
        ("fcntl", (3, 1), seccomp.ALLOW),
        ("fcntl", (3, 3), seccomp.ALLOW),
        ("fcntl", (3, 1030), seccomp.ALLOW),
        ("fcntl", (3, 4), EPERM),
        ("fcntl", (3, 1033), EPERM),
        ("prlimit64", (0, 9, 0, 8), seccomp.ALLOW),
        ("prlimit64", (0, 9, 8, 0), EPERM),
        ("prlimit64", (0, 9, 1 << 32, 0), EPERM),
        ("prctl", (15,), seccomp.ALLOW),
        ("prctl", (0x53564D41,), seccomp.ALLOW),
        ("prctl", (4, 1), EPERM),
        ("seccomp", (1, 0), EPERM),
    ],
)
def test_arguments_decide(machine, name, arguments, expected):
    assert answer(machine, NUMBERS[machine][name], *arguments) == expected


@pytest.mark.parametrize("machine", MACHINES)
def test_the_first_filter_leaves_a_way_to_the_second_only(machine):
    numbers = NUMBERS[machine]
    assert answer(machine, numbers["seccomp"], 1, 0, kill=False) == seccomp.ALLOW
    assert answer(machine, numbers["tgkill"], 1, 1, 9, kill=False) == EPERM
    assert answer(machine, numbers["clone"], 17, kill=False) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_of_another_architecture_end_the_process(machine):
    assert answer(machine, NUMBERS[machine]["read"], architecture=0x40000003) == seccomp.KILL


def test_the_second_table_of_x86_64_is_closed():
    assert answer("x86_64", 0x40000000 | NUMBERS["x86_64"]["read"]) == seccomp.KILL


def test_every_name_stands_in_one_group_and_in_a_table():
    names = [*ALLOWED, *FILES, *DEADLY, *BY_ARGUMENT]
    assert len(names) == len(set(names))
    assert {n for table in NUMBERS.values() for n in table} == set(names)
    for table in NUMBERS.values():
        assert len(set(table.values())) == len(table)


def test_the_numbers_are_the_headers():
    header = Path("/usr/include", f"{os.uname().machine}-linux-gnu", "asm", "unistd_64.h")
    if not header.exists():
        pytest.skip("this machine has no kernel headers")
    told = dict(
        line.split()[1:3] for line in header.read_text().splitlines() if "#define __NR_" in line
    )
    ours = NUMBERS[os.uname().machine]
    assert ours == {name: int(told[f"__NR_{name}"]) for name in ours}

#!/usr/bin/env python3
"""Set up this project in an environment of its own and run it: needs only Python 3.11+ and a package index.

    python3 bootstrap.py demo             set up, then the main job: `harness demo`
    python3 bootstrap.py test             set up, then every check and test (what CI runs)
    python3 bootstrap.py setup [--test]   set up only; then use .venv/bin/harness

Everything goes to .venv beside this file; the versions are those of requirements.lock. Standard
library only, because it runs before anything is installed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
UV = "uv==0.13.8"
EXTRAS = {"run": "", "test": "[flights,test]"}
CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("lint-imports",),
)


def fail(message: str) -> None:
    """Ends with exit code 2 and one message: where, what, remedy."""
    sys.stderr.write(f"bootstrap: {message}\n")
    raise SystemExit(2)


def call(*command: str) -> None:
    """Runs one set-up step; its output is shown, its failure ends the set-up."""
    done = subprocess.run(command, cwd=ROOT, check=False)
    if done.returncode:
        fail(f"`{' '.join(command)}` failed with exit code {done.returncode}; see its output above")


def make_venv() -> None:
    """Creates .venv with pip inside."""
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        fail("this Python has no ensurepip; on Debian or Ubuntu: apt-get install python3-venv")
    sys.stderr.write("bootstrap: creating .venv\n")
    call(sys.executable, "-m", "venv", "--clear", str(VENV))
    call(str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV)


def set_up(kind: str) -> None:
    """Brings .venv to what requirements.lock and pyproject.toml say; a no-op when it already is.

    Args:
      kind: "run" (what the gate needs) or "test" (with the tools of the checks and tests).
    """
    content = b"".join((ROOT / f).read_bytes() for f in ("requirements.lock", "pyproject.toml"))
    digest = hashlib.sha256(content + str(ROOT).encode() + sys.version.encode()).hexdigest()
    if any(
        (VENV / f".ready-{k}").is_file() and (VENV / f".ready-{k}").read_text() == digest
        for k in {kind, "test"}
    ):
        return
    if not PYTHON.exists():
        make_venv()
    sys.stderr.write(f"bootstrap: installing the pinned packages ({kind})\n")
    call(
        str(VENV / "bin" / "uv"), "pip", "install", "--quiet", "--compile-bytecode", "--python", str(PYTHON),
        "--constraint", "requirements.lock", "--editable", f".{EXTRAS[kind]}",
    )  # fmt: skip
    (VENV / f".ready-{kind}").write_text(digest)


def environment() -> dict[str, str]:
    """The caller's environment with .venv first and nothing of another Python in it.

    Byte code is kept whatever the caller's own habit: a command compiles for a third of a second
    otherwise, and the tests start hundreds.
    """
    foreign = {"PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE"}
    env = {k: v for k, v in os.environ.items() if k not in foreign}
    env["VIRTUAL_ENV"] = str(VENV)
    env["PATH"] = f"{VENV / 'bin'}{os.pathsep}{env.get('PATH', os.defpath)}"
    return env


def run(*command: str) -> int:
    """Runs a program of .venv with this terminal and returns its exit code."""
    program = str(VENV / "bin" / command[0])
    return subprocess.run(
        [program, *command[1:]], cwd=ROOT, env=environment(), check=False
    ).returncode


def test(arguments: list[str]) -> int:
    """All checks, then all tests; every one runs, the first failure decides the exit code."""
    codes = []
    for check in CHECKS:
        sys.stderr.write(f"bootstrap: {' '.join(check)}\n")
        codes.append(run(*check))
    # Three processes for two cores: what one waits for (deadlines, kills, disks), another uses.
    codes.append(run("pytest", "-n", "3", "--dist", "worksteal", *arguments))
    return next((c for c in codes if c), 0)


def main() -> int:
    """Reads the command line; returns the exit code of what it ran."""
    if sys.version_info < (3, 11):  # noqa: UP036
        fail(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
    match sys.argv[1:]:
        case ["demo", *rest]:
            set_up("run")
            return run("harness", "demo", *rest)
        case ["test", *rest]:
            set_up("test")
            return test(rest)
        case ["setup"]:
            set_up("run")
            return 0
        case ["setup", "--test"]:
            set_up("test")
            return 0
        case _:
            sys.stderr.write(__doc__ or "")
            return 2


if __name__ == "__main__":
    raise SystemExit(main())

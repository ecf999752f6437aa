"""Runs uv: makes a virtual environment and installs wheels into it, and says in words why not.

Nothing that a wheel brings is run on the way. What an interpreter would run at its start is refused
(`.pth` files, sitecustomize, usercustomize), what lies outside the folder of packages is removed
(scripts: a leg needs none), and byte code is made by an interpreter that looks at no package.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.sandbox.wheel_records import altered_packages

TIME_LIMIT_S = 900
"""For one run of uv: two wheels of 20 MB each over a slow line."""
_KEPT_OUT = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX"}
_RUN_AT_START = {"sitecustomize", "usercustomize", "_virtualenv"}
_MOST = 300
_AFTER = ("[stderr]", "hint:")
"""Where uv goes on with what says nothing new."""
_NEVER_IMPORTED = "/site-packages/([^/]+/)*(tests|transformers)/"
"""A part of a path, as a pattern."""
_ONCE = (
    "Give the command once where the index can be reached; later runs use the cached environment."
)
_OTHER_PIN = "Pin a version that has a wheel for this Python and register the model again."
_SIGNS = (
    # (what uv writes, whether another Python may help, what to do)
    ("network was disabled", False, f"UV_OFFLINE keeps uv from the index: unset it. {_ONCE}"),
    ("Hash mismatch", False, "The index serves another file than the version was made with."),
    ("has no usable wheels", True, _OTHER_PIN),
    ("has no wheels with a matching", True, _OTHER_PIN),
    ("there is no version of", False, "Correct the version's requirements and register it again."),
    ("was not found in", False, "Name an index that has it in uv's settings (UV_DEFAULT_INDEX)."),
    ("Python interpreter", False, "Install that Python, or pin versions with wheels for this one."),
    ("Failed to fetch", False, _ONCE),
    ("error sending request", False, _ONCE),
    ("No space left", False, "Make room in the cache folder."),
)


class InstallError(Exception):
    """An environment cannot be built.

    Args:
      what: why, in one line.
      remedy: what to do.
      for_this_python: another Python may help.
    """

    def __init__(self, what: str, remedy: str, *, for_this_python: bool = False) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        self.for_this_python = for_this_python


def uv_program() -> Path:
    """The uv beside this Python, else the one on the path.

    Raises:
      InstallError: there is none.
    """
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if found is None:
        raise InstallError(
            "uv, which builds environments, is not installed", "Install it: pip install uv"
        )
    return Path(found)


def install(requirements: Sequence[str], folder: Path, python: str) -> None:
    """Makes a virtual environment and installs wheels, without what they depend on.

    What uv has in its cache is tried first, so that no network is needed for what was there before.
    Every installed file is compared with its wheel's digests: uv's cache may have been damaged.

    Args:
      requirements: pip requirement lines, perhaps with hashes.
      folder: where to; must not exist, its parent must.
      python: minor version; this process's own interpreter is taken where it is that.

    Raises:
      InstallError: uv could not do it, or a file is not as its wheel says.
    """
    uv = uv_program()
    own = f"{sys.version_info.major}.{sys.version_info.minor}" == python
    _run(
        uv, "venv", "--no-project", "--no-python-downloads", "--relocatable",
        "--python", sys.executable if own else python, str(folder), at=folder.parent,
    )  # fmt: skip
    # What uv puts there for tools of its own, which would run at every start.
    for path in _startup_files(folder):
        path.unlink()
    before = dict(_outside_packages(folder))
    lines = folder / "requirements.txt"
    lines.write_text("".join(f"{line}\n" for line in requirements))
    command = (
        "pip", "install", "--no-deps", "--only-binary", ":all:",
        # A link into uv's cache would be one file with every other environment: what damages it in
        # one place would damage all. (Where the file system can, a copy shares its blocks.)
        "--link-mode", "copy",
        "--python", str(folder / "bin" / "python"), "--requirement", str(lines),
    )  # fmt: skip
    try:
        _run(uv, *command, "--offline", at=folder.parent)
    except InstallError:
        # uv asks the interpreter about itself: a first half must leave nothing that this would run.
        _keep_packages_only(folder, before)
        _run(uv, *command, at=folder.parent)
    _keep_packages_only(folder, before)
    altered = _altered(folder)
    if altered:
        _clean_and_install_again(uv, altered, command, folder)
        _keep_packages_only(folder, before)
        _refuse_altered(_altered(folder))
    _compile(folder)


def _altered(folder: Path) -> dict[str, str]:
    """Packages with a file that is not as in their wheel, and that file."""
    return {
        package: file
        for site in _site_folders(folder)
        for package, file in altered_packages(site).items()
    }


def _clean_and_install_again(
    uv: Path, altered: dict[str, str], command: Sequence[str], folder: Path
) -> None:
    """Has uv forget the wheels that it once unpacked and that are damaged now, and fetch them anew.

    The packages are removed here: uv would remove what RECORD lists, which is not to be trusted now.
    """
    names = [name for name in altered if name] or _names(folder)
    for site in _site_folders(folder):
        shutil.rmtree(site)
        site.mkdir()
    try:
        _run(uv, "cache", "clean", *names, at=folder.parent)
        _run(uv, *command, at=folder.parent)
    except InstallError as error:
        raise InstallError(
            f"what uv's cache holds of {' and '.join(names)} is damaged, and it could not be had anew: "
            f"{error.what}",
            error.remedy,
        ) from error


def _refuse_altered(altered: dict[str, str]) -> None:
    if altered:
        raise InstallError(
            f"{next(iter(altered.values()))} is not as its wheel's RECORD says, also when fetched anew",
            "Pin a version of the official wheels, and check the disk and the index that uv is set to.",
        )


def _site_folders(folder: Path) -> list[Path]:
    """Where an environment's packages lie."""
    return [path for path in folder.glob("lib*/*/site-packages") if not path.parent.is_symlink()]


def _names(folder: Path) -> list[str]:
    """Names of the installed packages."""
    return sorted(
        info.name.partition("-")[0]
        for site in _site_folders(folder)
        for info in site.glob("*.dist-info")
    )


def _startup_files(folder: Path) -> list[Path]:
    """What an interpreter of this environment would run when it starts."""
    return [
        path
        for path in folder.glob("lib*/*/site-packages/*")
        if path.suffix == ".pth" or path.name.partition(".")[0] in _RUN_AT_START
    ]


def _outside_packages(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every file outside the folder of packages, and what tells that it is still the same."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        if "site-packages" in inside[:3] or inside == ("requirements.txt",):
            continue
        if path.is_symlink():
            yield path, str(path.readlink())
        elif path.is_file():
            yield path, hashlib.sha256(path.read_bytes()).hexdigest()


def _keep_packages_only(folder: Path, before: dict[Path, str]) -> None:
    """Refuses what would run by itself; removes what lies elsewhere than packages do.

    Raises:
      InstallError: a wheel brings something that runs at an interpreter's start, or replaces a file
        of the environment.
    """
    now = dict(_outside_packages(folder))
    for path in now.keys() - before.keys():
        path.unlink()
    replaced = [path for path, mark in before.items() if now.get(path) != mark]
    found = sorted(_startup_files(folder)) + sorted(replaced)
    if found:
        raise InstallError(
            f"a wheel brings {found[0].relative_to(folder)}, which an interpreter would run by itself",
            "Pin a version of the official wheels; these bring no such file.",
        )


def _compile(folder: Path) -> None:
    """Byte code, so that no start has to compile; a file that is no Python of today is left as it is.

    Not of what no run of a model imports, which is more than half: the packages' tests, and onnxruntime's
    programs about models of one kind.
    """
    python = folder / "bin" / "python"
    try:
        subprocess.run(
            [
                str(python), "-I", "-BS", "-m", "compileall", "-q", "-j", "0", "-x", _NEVER_IMPORTED,
                str(folder / "lib"),
            ],
            env={k: v for k, v in os.environ.items() if k not in _KEPT_OUT},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            timeout=TIME_LIMIT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise InstallError(
            f"its packages were not compiled after {TIME_LIMIT_S} s",
            "Run it again when the machine is less busy.",
        ) from None


def _run(uv: Path, *arguments: str, at: Path) -> None:
    """One run of uv, away from the project in the working directory and its settings."""
    try:
        done = subprocess.run(
            [str(uv), "--quiet", "--color", "never", *arguments],
            cwd=at, env={k: v for k, v in os.environ.items() if k not in _KEPT_OUT},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            timeout=TIME_LIMIT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise InstallError(
            f"uv was not done after {TIME_LIMIT_S} s", "Check the network and uv's settings."
        ) from None
    if done.returncode:
        raise _explained(done.stderr.decode(errors="replace"), done.returncode)


def _explained(said: str, code: int) -> InstallError:
    """Uv's last words as an error; it says why in lines that begin with "cause:"."""
    lines = [" ".join(line.split()) for line in said.splitlines() if line.strip()]
    told = [line.removeprefix("error: ").removeprefix("cause: ") for line in lines]
    ended = next((i for i, line in enumerate(told) if line.startswith(_AFTER)), len(told))
    what = "; ".join(told[:ended])[:_MOST].rstrip(".") or f"uv ended with exit code {code}"
    for sign, for_this_python, remedy in _SIGNS:
        if sign in said:
            return InstallError(what, remedy, for_this_python=for_this_python)
    return InstallError(what, "Run uv with these requirements yourself and see what it says.")

"""Where an environment keeps its packages, found without the code that an environment can bring along.

Programs of the sandbox are started with `-S`: the interpreter's own start would run every `.pth` line,
`sitecustomize` and `usercustomize` of the environment before the first stage of the lock. What its
`site` module works out is worked out here by reading one text file, and nothing found there is run.
Tried and left: a list of folders from the parent. It knows only its own interpreter's.
"""

from __future__ import annotations

import os
import sys

_MARK = "pyvenv.cfg"


def folders() -> list[str]:
    """Folders with packages that exist, in the order of their search.

    A virtual environment becomes the interpreter's prefix, as its own start would have made it.
    """
    import site

    prefixes = list(dict.fromkeys((*_environment(), sys.prefix, sys.exec_prefix)))
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    # Some distributions keep an environment's packages elsewhere than their own.
    plain = [f"{p}/{lib}/{name}/site-packages" for p in prefixes for lib in ("lib", "lib64")]
    found = dict.fromkeys(os.path.realpath(f) for f in (*plain, *site.getsitepackages(prefixes)))
    return [folder for folder in found if os.path.isdir(folder)]  # noqa: PTH112 - as below


def _environment() -> list[str]:
    """Where packages of the virtual environment lie; empty where the interpreter is of none."""
    beside = sys.executable.rpartition("/")[0]
    for folder in (beside, beside.rpartition("/")[0]):
        try:
            # pathlib is not imported before the lock.
            with open(f"{folder}/{_MARK}", encoding="utf-8") as file:  # noqa: PTH123
                lines = [line.partition("=") for line in file]
        except (OSError, UnicodeDecodeError):
            continue
        said = {name.strip().lower(): value.strip().lower() for name, _, value in lines}
        sys.prefix = sys.exec_prefix = folder
        shares = said.get("include-system-site-packages") == "true"
        return [folder, sys.base_prefix] if shares else [folder]
    return []

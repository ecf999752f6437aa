"""Where a version's golden rows lie: `golden.npz` in its model folder, `NAME.golden.npz` beside NAME.onnx."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.core.errors import ResolveError
from harness.store.files import sha256_of_file

GOLDEN_FILE = "golden.npz"


def golden_place(path: Path) -> Path:
    """Where the golden rows of a model folder or an .onnx file belong."""
    return path / GOLDEN_FILE if path.is_dir() else path.with_suffix(f".{GOLDEN_FILE}")


def pin_golden(path: Path, into: Path) -> Path | None:
    """Copies a version's golden rows to where nothing else writes; None where it has none.

    Args:
      path: its model folder or .onnx file.
      into: folder for the copy, which is named by its bytes.

    Raises:
      ResolveError: the file is a link out of its folder.
    """
    given = golden_place(path)
    if given.is_symlink() and not _leads_into(given, given.parent.resolve()):
        raise ResolveError(
            str(given),
            "is a link that leaves the folder or leads nowhere",
            "Replace the link by the golden rows that it points to.",
        )
    if not given.is_file():
        return None
    copy = into / "golden" / f"{sha256_of_file(given)[:32]}.npz"
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(given, copy)
        copy.chmod(0o444)
    return copy


def _leads_into(link: Path, folder: Path) -> bool:
    """Whether a link leads to a file in the folder; one that leads in a circle does not."""
    try:
        return link.is_file() and link.resolve().is_relative_to(folder)
    except (OSError, RuntimeError):
        return False

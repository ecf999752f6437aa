"""Where a version's golden rows lie: `golden.npz` in its model folder, `NAME.golden.npz` beside NAME.onnx."""

from __future__ import annotations

import shutil
from pathlib import Path

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
    """
    given = golden_place(path)
    if not given.is_file():
        return None
    copy = into / "golden" / f"{sha256_of_file(given)[:32]}.npz"
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(given, copy)
        copy.chmod(0o444)
    return copy

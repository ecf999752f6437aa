"""Whether installed files are those of their wheels, by the digests that each wheel brings in RECORD.

An installer copies what it once unpacked and looks at no digest again: a file that was damaged in its
cache is installed damaged, every time.
"""

from __future__ import annotations

import base64
import csv
import hashlib
from pathlib import Path

_ALGORITHMS = {"sha256", "sha384", "sha512"}
_BYTE_CODE = "__pycache__"


def altered_packages(site: Path) -> dict[str, str]:
    """Packages with a file that is not as its wheel has it.

    Args:
      site: folder of packages. What a RECORD lists outside it is not looked at.

    Returns:
      Name of the package, "" for a file that belongs to none → the first such file, relative to site.
    """
    found: dict[str, str] = {}
    listed: set[str] = set()
    for info in sorted(site.glob("*.dist-info")):
        record = info / "RECORD"
        name = info.name.partition("-")[0]
        listed.add(f"{info.name}/RECORD")
        try:
            with record.open(newline="", encoding="utf-8") as file:
                rows = [(row[0], row[1]) for row in csv.reader(file, strict=True) if row]
        except (OSError, ValueError, IndexError, csv.Error):
            rows = [(f"{info.name}/RECORD", "unreadable")]
        for path, digest in rows:
            if path.startswith(("/", "../")):
                continue
            listed.add(path)
            if digest and not _is_as_recorded(site / path, digest):
                found.setdefault(name, path)
    for place in sorted(site.rglob("*")):
        path = place.relative_to(site).as_posix()
        if not place.is_dir() and path not in listed and _BYTE_CODE not in place.parts:
            found.setdefault("", path)
    return found


def _is_as_recorded(path: Path, digest: str) -> bool:
    """Whether a file has the digest that a RECORD gives: algorithm=base64 without padding."""
    algorithm, _, expected = digest.partition("=")
    if algorithm not in _ALGORITHMS or path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).digest()
    return base64.urlsafe_b64encode(found).rstrip(b"=").decode() == expected.rstrip("=")

"""Trains and writes every flight model, their checksums and the truth about them.

    python models/flights/build.py            write the files beside this script
    python models/flights/build.py --check    build again and compare with the files that are there

Running it twice gives identical bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
REQUIREMENTS = ["onnxruntime==1.31.1", "numpy==2.4.6"]


def build(folder: Path) -> list[str]:
    """Writes all files into a folder.

    Returns:
      Names of the files, sorted; SHA256SUMS is the last to be written and not among them.
    """
    import yaml

    from models.flights import data, truth, versions

    flights = data.requests()
    fitted = versions.fit(flights)
    listed = []
    for version in versions.VERSIONS:
        content = version.draw(fitted).SerializeToString(deterministic=True)
        (folder / version.file).write_bytes(content)
        listed.append(
            {
                "name": version.name,
                "file": version.file,
                "what": version.what,
                "planted": version.planted,
                "trained_on": versions.SPANS[version.cutoff],
                "training_cutoff": version.cutoff,
                "sha256": hashlib.sha256(content).hexdigest(),
                "requirements": REQUIREMENTS,
            }
        )
    given = {"model": "flights", "features": "features.yaml", "versions": listed}
    text = yaml.safe_dump(given, sort_keys=False, allow_unicode=True, width=100)
    (folder / "models.yaml").write_text(text, encoding="utf-8")
    found = truth.truth(flights, folder)
    (folder / "truth.json").write_text(
        json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    names = sorted([v.file for v in versions.VERSIONS] + ["models.yaml", "truth.json"])
    sums = [f"{_sha256(folder / name)}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    print(truth.table(found))
    return names


def check(folder: Path) -> int:
    """Builds elsewhere and compares every byte with `folder`; 0 = all equal."""
    with tempfile.TemporaryDirectory() as temporary:
        built = Path(temporary)
        names = [*build(built), "SHA256SUMS"]
        other = [
            n
            for n in names
            if not (folder / n).exists() or (folder / n).read_bytes() != (built / n).read_bytes()
        ]
    for name in other:
        print(f"differs: {name}", file=sys.stderr)
    print(f"{len(names) - len(other)} of {len(names)} files are identical")
    return 1 if other else 0


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    given = parser.parse_args()
    # As a script, the repository root is not on the path. One thread: sums in one order.
    sys.path.insert(0, str(HERE.parents[1]))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    if given.check:
        return check(given.out)
    given.out.mkdir(parents=True, exist_ok=True)
    build(given.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Records the flights' traffic anew: a real server, a real client, verbatim bytes.

python scenarios/traffic/record.py                            the two windows that are in git
python scenarios/traffic/record.py --full-year --out DIR      all 336,776 flights of 2013
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLIGHTS = Path(__file__).resolve().parent / "flights"
MODEL_FILE = ROOT / "models" / "flights" / "v1.onnx"


def record(out: Path, *, full_year: bool) -> None:
    """Writes traffic, labels and PROVENANCE.md into a folder."""
    from models.flights import data
    from scenarios.traffic import provenance, recording, serving

    flights = data.requests()
    flights["ingestion_s"] = recording.ingestion_s(flights)
    spans = recording.FULL_YEAR if full_year else recording.HALVES
    made = []
    server = serving.ModelServer(MODEL_FILE, recording.MODEL, recording.SERVED_VERSION)
    for span in spans:
        rows = recording.chosen(flights, span)
        traffic = out / f"model={recording.MODEL}" / f"span={span.name}" / "part-0.parquet"
        labels = out / "labels" / f"{span.name}.parquet"
        with serving.serving(server) as call:
            recording.write_traffic(traffic, recording.exchanges(rows, call))
        recording.write_labels(labels, rows)
        made += [traffic, labels]
    command = "python scenarios/traffic/record.py" + (" --full-year --out DIR" if full_year else "")
    text = provenance.written(out, made, command=command, model=MODEL_FILE)
    (out / "PROVENANCE.md").write_text(text, encoding="utf-8")
    print(text)


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--full-year", action="store_true", help="all flights of 2013")
    parser.add_argument("--out", type=Path, default=FLIGHTS, help="folder to write to")
    given = parser.parse_args()
    if given.full_year and given.out == FLIGHTS:
        parser.error("--full-year: give --out DIR; the default folder holds what is in git")
    # As a script, the repository root is not on the path.
    sys.path.insert(0, str(ROOT))
    record(given.out, full_year=given.full_year)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Records the flights' traffic anew: a real server, `harness record` before it, a real client.

python scenarios/traffic/record.py                            the two windows that are in git
python scenarios/traffic/record.py --full-year --out DIR      all 336,776 flights of 2013
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLIGHTS = Path(__file__).resolve().parent / "flights"
MODEL_FILE = ROOT / "models" / "flights" / "v1.onnx"


def record(out: Path, *, full_year: bool) -> None:
    """Writes traffic, labels and PROVENANCE.md into a folder."""
    from harness.store.traffic import TrafficSource
    from models.flights import data
    from scenarios.traffic import provenance, proxied, recording

    flights = data.requests()
    flights["ingestion_s"] = recording.ingestion_s(flights)
    spans = recording.FULL_YEAR if full_year else recording.HALVES
    made = []
    for span in spans:
        rows = recording.chosen(flights, span)
        traffic = out / f"model={recording.MODEL}" / f"span={span.name}" / "part-0.parquet"
        labels = out / "labels" / f"{span.name}.parquet"
        with tempfile.TemporaryDirectory(prefix="recording-") as raw:
            with proxied.recorded(
                MODEL_FILE, recording.MODEL, recording.SERVED_VERSION, Path(raw),
                "--context", "carrier,origin",
            ) as recorder:  # fmt: skip
                recording.play(rows, recorder.address)
            # By time: folders of hours sort as text.
            found = sorted(TrafficSource.open([Path(raw)]).exchanges(), key=lambda e: e.ts_ns)
            recording.write_traffic(traffic, recording.as_of_the_flights(found, rows))
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

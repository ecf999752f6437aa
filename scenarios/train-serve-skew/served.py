"""Makes served.parquet: recorded flights with a feature as a serving service logged it, in the wrong unit.

    python3 -m scenarios.train-serve-skew.served

The service, a plant, computed `distance` in kilometres; the model was trained on, and computes, miles.
Everything else in the file is recorded traffic (scenarios/traffic/flights/PROVENANCE.md).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq

from harness.sandbox.graph_edits import exposed
from harness.store.tables import open_traffic

KM_A_MILE = 1.609344
FEATURE = "distance"
COUNT = 6000
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def main() -> None:
    """Writes the file beside this one; the same every time."""
    model = onnx.load(ROOT / "models" / "flights" / "v1.onnx")
    exposed(model, [FEATURE], {}, sketch=False)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    with tempfile.TemporaryDirectory() as cache:
        window = open_traffic([ROOT / "scenarios" / "traffic" / "flights"], Path(cache), ())
        newest = np.argsort(window.index().seq())[-COUNT:]
        batch = window.read(newest)
    computed = session.run([FEATURE], batch.inputs)[0].reshape(-1)
    columns = {name: batch.inputs[name].reshape(-1) for name in batch.inputs}
    table = {
        "ts_ns": batch.ts_ns,
        "request_id": batch.request_id,
        **{f"cx:{name}": values for name, values in batch.context.items()},
        **columns,
        f"feature:{FEATURE}": (computed * np.float32(KM_A_MILE)).astype(np.float32),
    }
    pq.write_table(pa.table(table), HERE / "served.parquet", compression="zstd")


if __name__ == "__main__":
    main()

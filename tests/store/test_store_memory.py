"""Sealing and reading take the same memory for many requests as for few."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from harness.core.traffic import Exchange
from harness.store.traffic import TrafficWriter
from harness.wire import MODEL_INFER
from harness.wire.rows import requests_from_rows

MEASURE = textwrap.dedent("""
    import pathlib, resource, sys
    import numpy as np
    from harness.store.traffic import TrafficSource
    from harness.store.windows import seal
    window = seal(TrafficSource.open([pathlib.Path(sys.argv[1])]), pathlib.Path(sys.argv[2]), seed=1)
    for at in range(0, len(window), 256):
        window.read(np.arange(at, min(at + 256, len(window))))
    print(len(window), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
""")


def record(folder, n):
    rng = np.random.default_rng(0)
    with TrafficWriter(folder, rows_per_file=25_000) as writer:
        for start in range(0, n, 1000):
            ids = [f"r-{start + i}" for i in range(1000)]
            columns = {f"x{k}": rng.random((1000, 8), np.float32) for k in range(20)}
            writer.write(
                Exchange(
                    ts_ns=start + i,
                    latency_ns=1,
                    code=0,
                    method=MODEL_INFER,
                    model="m",
                    version="1",
                    request_id=ids[i],
                    request=request,
                    response=b"",
                )
                for i, request in enumerate(requests_from_rows("m", columns, ids))
            )


@pytest.mark.slow
def test_memory_is_flat_in_the_number_of_requests(tmp_path):
    peaks = []
    for n in (20_000, 100_000):
        record(tmp_path / f"t{n}", n)
        arguments = [sys.executable, "-c", MEASURE, tmp_path / f"t{n}", tmp_path / f"w{n}"]
        count, peak_kib = subprocess.run(
            arguments, check=True, capture_output=True, text=True
        ).stdout.split()
        assert int(count) == n
        peaks.append(int(peak_kib) / 1024)
    # The 80,000 more requests are over 100 MB as messages and 50 MB as columns.
    assert peaks[1] - peaks[0] < 40

"""nghttp2's load generator, spoken to as a gRPC client: it is written in C and leaves the machine to others."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.core.errors import GateError
from harness.core.tensors import Floats
from harness.wire import MODEL_INFER

_DONE = re.compile(r"^requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded", re.MULTILINE)
_RATE = re.compile(r"^finished in [^,]+, ([\d.]+) req/s", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one run of the generator saw."""

    done: int
    """Answered requests."""
    rate: float
    """Answered requests a second."""
    latency_s: Floats
    """Of each answered request, shape (done,); those of the first second left out."""


def check_installed() -> None:
    """Refuses to go on without the program.

    Raises:
      GateError: there is no h2load.
    """
    if shutil.which("h2load") is None:
        raise GateError(
            "harness bench record", "needs h2load, and it is not installed",
            "On Debian or Ubuntu: apt-get install nghttp2-client.",
        )  # fmt: skip


def load(
    port: int, message: Path, scratch: Path, *, seconds: int, clients: int = 4,
    in_flight: int = 8, rate: int = 0,
) -> Load:  # fmt: skip
    """Sends one message again and again.

    Args:
      port: of the server, on this machine.
      message: file of the gRPC frame to send: five bytes of head, then the message.
      scratch: folder for the generator's log.
      seconds: how long.
      clients: connections.
      in_flight: requests of a connection at a time.
      rate: requests a second, of all connections together; 0 = as many as are answered.

    Raises:
      GateError: it fails, or requests did.
    """
    log = scratch / "h2load.log"
    log.unlink(missing_ok=True)
    command = [
        "h2load", "-H", "content-type: application/grpc", "-H", "te: trailers", "-d", str(message),
        "-c", str(clients), "-m", str(in_flight), "-D", str(seconds), f"--log-file={log}",
        *([f"--rps={rate / clients:g}"] if rate else []),
        f"http://127.0.0.1:{port}{MODEL_INFER}",
    ]  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    done, per_second = _DONE.search(ran.stdout), _RATE.search(ran.stdout)
    if ran.returncode or done is None or per_second is None or done[1] != done[2]:
        raise GateError("h2load", (ran.stderr or ran.stdout)[-300:], "See what it says.")
    # start in microseconds, HTTP status, microseconds until the answer
    lines = np.loadtxt(log, dtype=np.int64, ndmin=2)
    warm = lines[:, 0] >= lines[:, 0].min() + 1_000_000
    return Load(done=int(done[1]), rate=float(per_second[1]), latency_s=lines[warm, 2] / 1e6)

"""A model server with `harness record` before it, each in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


@dataclass(slots=True)
class Recorder:
    """A running proxy."""

    address: str
    """Where clients connect."""
    totals: dict[str, Any] = field(default_factory=dict)
    """What became of every request; filled when it has ended."""


@contextmanager
def recorded(model: Path, name: str, version: str, out: Path, *options: str) -> Iterator[Recorder]:
    """Serves a model through a recorder while the body runs.

    Args:
      model: the .onnx file.
      name: of the model.
      version: of the model.
      out: where the traffic goes.
      options: more of `harness record`.
    """
    server = [sys.executable, str(HERE / "serving.py"), "--model", str(model), "--name", name]
    with _process([*server, "--version", version], "serving on port") as (_, port):
        recorder = [
            sys.executable, "-m", "harness", "record", "--listen", "127.0.0.1:0", "--upstream",
            f"127.0.0.1:{port}", "--out", str(out), "--json", *options,
        ]  # fmt: skip
        with _process(recorder, "listening on") as (proxy, address):
            running = Recorder(address)
            yield running
            proxy.send_signal(signal.SIGTERM)
            said, _ = proxy.communicate()
            if proxy.returncode:
                raise RuntimeError(said)
            running.totals = json.loads(said[said.index("{") :])["totals"]


@contextmanager
def _process(command: list[str], says: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process, and the last word of the line that it begins with."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=HERE.parents[1]
    ) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line.startswith(says):
                rest, _ = process.communicate()
                raise RuntimeError(line + rest)
            yield process, line.split()[-1]
        finally:
            process.kill()

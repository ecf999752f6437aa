"""Gates of several attacks, one after another in one process, and what each left behind.

    python attack_gates.py FOLDER NAME[,NAME …] [OPTION OF harness gate …]

A program of its own, so that it can run as another user and on a machine that offers less. The repository
and its tests have to be on the path. Writes outcomes.json into the folder, which anyone may write to; the
runs lie in it under the attacks' names. All share traffic, sealed window and baseline.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hostile_models as hostile
import numpy as np
import psutil
from attacks import ATTACKS, HIDDEN, Attack
from gates import REFACTOR, reaching, tiny_model, tiny_traffic
from hostile_worker import hostile_worker
from looks import Looks

from harness.cli.entry import run
from harness.pipeline import opening
from harness.sandbox import deadlines

AS_OF = "2020-12-01T00:00:00Z"
FEW, ENOUGH = 1, 300
"""Requests of an attack, whose process dies again and again: of several it would be looked for which one it
dies of, which test_adversarial_gates does. And requests of a gate that is to pass."""
POLICY = REFACTOR | {
    "windows": REFACTOR["windows"] | {"min_requests": FEW},
    "sandbox": {"memory": "1GiB", "batch_deadline": "100ms"},
}
WATCH = "memory-watchdog"
PAGES = ("decision.json", "findings.json", "manifest.json", "report.html", "summary.md")
HONEST_START = opening.Start


def resources() -> tuple[list[str], set[int], set[str]]:
    """Descriptors, children and threads of this process."""
    gc.collect()
    until = time.perf_counter() + 30  # the memory watch ends a moment after its last process
    while WATCH in threads() and time.perf_counter() < until:
        time.sleep(0.01)
    links = [str(p.readlink()) for p in Path("/proc/self/fd").iterdir() if p.is_symlink()]
    children = {c.pid for c in psutil.Process().children(recursive=True)}
    return sorted(x for x in links if "/proc/" not in x), children, threads()


def threads() -> set[str]:
    """Names of this process's threads."""
    return {thread.name for thread in threading.enumerate()}


class Trap:
    """A folder that anyone may read and write, and two ports that listen: what came of an attack."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "trap"
        self.folder.mkdir()
        (self.folder / "secret").write_text(HIDDEN)
        for path in (self.folder, self.folder / "secret"):
            path.chmod(0o777)
        self._tcp, self._udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
        for listener in (self._tcp, self._udp):
            listener.bind(("127.0.0.1", 0))
            listener.setblocking(False)
        self._tcp.listen()

    def filled(self, text: str) -> str:
        """Lines with the names of what is here."""
        ports = {"TCP": self._tcp, "UDP": self._udp}
        for word, listener in ports.items():
            text = text.replace(word, str(listener.getsockname()[1]))
        return text.replace("FOLDER", str(self.folder))

    def heard(self) -> list[str]:
        """What was sent, and files that were made or changed; all of it is taken away."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                self._tcp.accept()[0].close()
                found.append("tcp")
        with contextlib.suppress(BlockingIOError):
            while True:
                self._udp.recv(99)
                found.append("udp")
        for path in sorted(self.folder.iterdir()):
            if path.name != "secret":
                found.append("write")
                path.unlink()
            elif path.read_text() != HIDDEN:
                found.append("secret")
        return sorted(set(found))


@contextlib.contextmanager
def taken_over(attack: Attack, folder: Path, trap: Trap) -> Iterator[Path]:
    """The candidate's file, while its processes do what the attack says."""
    path = folder / "candidate.onnx"
    if attack.harm:
        yield hostile.hostile_model(path, attack.harm, hostile.ALWAYS)
        return
    # Another file with the baseline's answers: only what it does can speak against it.
    tiny_model(path, cutoff="2020-01-02T00:00:00Z")
    if attack.location:
        reaching(path, trap.filled(attack.location))
        (folder / "link").symlink_to(trap.folder / "secret")
    if not attack.lines:
        yield path
        return
    # Modules of it are imported before the lock, as an extension of the runtime might have done.
    script = hostile_worker(
        folder, trap.filled(attack.lines), before="import _socket", after=attack.after
    )
    marked = path.read_bytes()

    def start(files: Any, **given: Any) -> Any:
        mine = os.pread(files.model_fd, len(marked) + 1, 0) == marked
        return HONEST_START(files, **(given | {"python": script} if mine else given))

    opening.Start = start
    try:
        yield path
    finally:
        opening.Start = HONEST_START


def outcome(attack: Attack, folder: Path, options: list[str], trap: Trap) -> dict[str, Any]:
    """Runs one gate, with the state of this process before and after."""
    mine = folder / attack.name
    mine.mkdir()
    mine.chmod(0o777)
    os.environ["HARNESS_STATE_DIR"] = str(mine / "state")
    out, err = io.StringIO(), io.StringIO()
    words = [
        "gate", folder / "baseline.onnx", mine / "candidate.onnx",
        "--traffic", folder / ("few" if attack.kind else "enough"), "--as-of", AS_OF,
        "--policy", folder / "policy.yaml", "--out", mine / "run", "--cache", folder / "cache",
        "-q", *([] if attack.strict else options),
    ]  # fmt: skip
    with taken_over(attack, mine, trap):
        held, used = resources(), psutil.Process().memory_info().rss
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run([str(w) for w in words])
        left = resources()
    return {
        "code": code,
        "out": out.getvalue(),
        "err": err.getvalue(),
        "left": [sorted(map(str, a)) for a in left if left != held],
        "grown_bytes": psutil.Process().memory_info().rss - used,
        "through": [*trap.heard(), *(["read"] if leaked(mine / "run") else [])],
        "pages": {p.name: p.read_text() for p in map((mine / "run").joinpath, PAGES) if p.exists()},
        "user": os.geteuid(),
    }


def leaked(run_folder: Path) -> list[str]:
    """Files of a run that hold what nobody may read."""
    files = [p for p in run_folder.rglob("*") if p.is_file()]
    marks = (HIDDEN.encode(), b"root:x:0")
    return [p.name for p in files if any(mark in p.read_bytes() for mark in marks)]


def main(folder: Path, names: list[str], options: list[str]) -> None:
    """Runs all of them."""
    deadlines.PATIENCE = 100.0  # these machines may be busy
    # The first gate looks for itself; a model that is refused is looked at in every one.
    opening.look = Looks(opening.look)
    tiny_model(folder / "baseline.onnx")
    for name, n in (("few", FEW), ("enough", ENOUGH)):
        tiny_traffic(folder / name, values=np.random.default_rng(5).uniform(-3, 3, n))
    (folder / "policy.yaml").write_text(json.dumps(POLICY))
    trap = Trap(folder)
    found = {name: outcome(ATTACKS[name], folder, options, trap) for name in names}
    (folder / "outcomes.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3:])

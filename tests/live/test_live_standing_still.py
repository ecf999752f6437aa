"""A shadow's process that stands still blames neither the candidate nor its mirror for it."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from live_peers import served_by

from harness.core.calls import Call
from harness.live import mirror_judge
from harness.live.folder import CanaryFolder
from harness.live.heartbeat import Heartbeat
from harness.live.layouts import Answered
from harness.live.mirror_judge import MirrorJudge
from harness.live.mirror_process import MirrorOptions, _Mirror
from harness.record.frames import frame_from_call
from harness.record.outcomes import DEADLINE_EXCEEDED
from harness.record.redaction import Redaction
from harness.wire import MODEL_INFER
from harness.wire.messages import request_bytes, response_bytes

ROOT = Path(__file__).resolve().parents[2]
REQUEST = request_bytes("m", {"x": np.ones((1, 2), np.float32)}, "r")
ANSWER = response_bytes("m", "1", {"p": np.array([[0.4]], np.float32)}, "r")


@pytest.fixture
def ended_by_sigterm():
    """A mirror's process takes SIGTERM for itself."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


async def _served(hangs):
    """A candidate in this process, which stands still beyond the deadline when it is asked first."""
    asked = []

    async def answer(*_):
        if not asked:
            time.sleep(0.8)
        asked.append(1)
        await asyncio.sleep(30.0 if hangs else 0.0)
        return ANSWER

    return await served_by(answer)


def _mirrored(out, *, hangs):
    """The report on one request."""

    async def run():
        server, candidate = await _served(hangs)
        options = MirrorOptions(
            out=str(out), candidate=candidate, candidate_id="", baseline="b", model="", sample=1.0,
            policy="", seed="0", concurrency=1, deadline_s=0.4, answer_bytes=1 << 20,
            keep_bytes=1 << 20, look_s=0.05, tls=None, rules=(), key="",
        )  # fmt: skip
        judge = MirrorJudge.start(
            out, None, seed="0", baseline="b", candidate=candidate, keep_bytes=1 << 20,
            deadline_s=0.4, redaction=Redaction((), b""),
        )  # fmt: skip
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.setblocking(False)
            mirror = asyncio.create_task(_Mirror(options, judge).run(theirs))
            call = Call(
                ts_ns=1, latency_ns=1, method=MODEL_INFER, code=0, details="", request=REQUEST,
                response=ANSWER, metadata=(), trailing=(), upstream="baseline",
            )  # fmt: skip
            ours.sendall(b"".join(frame_from_call(call, kept_as_failed=False)))
            ours.shutdown(socket.SHUT_WR)
            report = await mirror
        await server.stop(0)
        return report

    return asyncio.run(run())


@pytest.mark.usefixtures("ended_by_sigterm")
def test_a_candidate_is_asked_again_when_the_mirror_stood_still_until_its_deadline(tmp_path):
    report = _mirrored(tmp_path / "a", hangs=False)
    assert (report.compared, report.differ, report.candidate_failed) == (1, 0, 0)


@pytest.mark.usefixtures("ended_by_sigterm")
def test_a_candidate_that_hangs_has_failed_however_often_the_mirror_stood_still(tmp_path):
    report = _mirrored(tmp_path / "a", hangs=True)
    assert (report.compared, report.candidate_failed) == (0, 1)


@pytest.mark.usefixtures("ended_by_sigterm")
def test_a_candidate_is_asked_three_times_at_most(tmp_path, monkeypatch):
    asked = []

    async def late(*_):
        asked.append(1)
        return Answered(b"", DEADLINE_EXCEEDED if len(asked) < 9 else 0, 0.0)

    given = []
    start = CanaryFolder.start
    monkeypatch.setattr(
        CanaryFolder,
        "start",
        lambda out, live, *rest: given.append(live) or start(out, live, *rest),
    )
    monkeypatch.setattr(mirror_judge, "_MARGIN_S", 0.0)
    monkeypatch.setattr(mirror_judge, "REPORTING", replace(mirror_judge.REPORTING, patience_s=0.1))
    monkeypatch.setattr(_Mirror, "_answer", late)
    monkeypatch.setattr(Heartbeat, "stood_since", lambda *_: True)
    report = _mirrored(tmp_path / "a", hangs=True)
    assert (len(asked), report.candidate_failed) == (3, 1)
    assert given[0].patience_s == pytest.approx(1.2), "three deadlines, and no silence before"


ENDS = """
import json, socket, subprocess, sys
from harness.live import shadow

MIRROR = '''
import signal, socket, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with socket.socket(fileno=int(sys.argv[1])) as to:
    for _ in range(int(sys.argv[2])):
        to.send(b".")
        time.sleep(0.1)
    time.sleep(60 if sys.argv[3] == "silent" else 0)
'''
shadow._STOP_S, shadow._LEAST_S, shadow._SILENT_S = 0.1, 0.1, 0.1
found = []
for signs, then in ((20, "ends"), (1, "silent")):
    ours, theirs = socket.socketpair()
    handed = str(theirs.fileno())
    mirror = subprocess.Popen([sys.executable, "-c", MIRROR, handed, str(signs), then], pass_fds=[int(handed)])
    theirs.close()
    ours.recv(1)
    print("begun", flush=True)
    end = shadow.MirrorEnd(mirror, ours, 2.0)
    end.wait()
    found.append(end.killed)
print(json.dumps(found), flush=True)
"""


def test_a_mirror_is_silent_only_while_the_machine_runs():
    """The second one gives no sign of life in ten looks of .1 s, and is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", ENDS], stdout=subprocess.PIPE, start_new_session=True, cwd=ROOT
    ) as ending:
        assert ending.stdout.readline() == b"begun\n"
        time.sleep(0.4)
        os.killpg(ending.pid, signal.SIGSTOP)
        time.sleep(1.5)
        os.killpg(ending.pid, signal.SIGCONT)
        assert ending.stdout.readline() == b"begun\n"
        assert json.loads(ending.stdout.readline()) == [False, True]

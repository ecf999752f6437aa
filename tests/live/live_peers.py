"""Model servers and a client of their own, and `harness` as a process, for the live tests.

`live_peers.py HARM SEED` serves Open Inference on a free port, which it prints: `probability`
is a seeded draw around 0.3. HARM is none, rate, score, latency, errors, nan, logit or hang. exact answers by what
is asked, moved otherwise for one in six, flood with 8 MB more, other under another name.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import grpc.aio
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from harness.wire import MODEL_INFER, SERVICE
from harness.wire.messages import request_bytes, response_bytes, tensors_from_request

ROOT = Path(__file__).resolve().parents[2]
NAME = "model"


def score_of(harm, rng):
    """A probability; harms move it."""
    score = float(np.clip(rng.normal(0.3, 0.03), 0.0, 1.0))
    if harm == "score":
        return min(score + 0.35, 1.0)
    if harm == "rate" and rng.random() < 0.6:
        return 0.95
    return score


def exact(harm, request):
    """An answer that follows from the request."""
    x = tensors_from_request(request)["x"]
    score = 1.0 / (1.0 + np.exp(-x.sum(axis=1, keepdims=True)))
    if harm == "moved":
        score = np.where(x[:, :1] > 1.0, np.clip(score + 0.2, 0, 1), score)
    name = "other" if harm == "other" else "probability"
    answer = {name: score.astype(np.float32)}
    if harm == "flood":
        answer["more"] = np.zeros((len(x), 2_000_000), np.float32)
    return response_bytes(NAME, "1", answer, "")


def drawn(harm, rng, context):
    """An answer by chance, or none."""
    if harm == "latency" and rng.random() < 0.6:
        time.sleep(0.06)
    if harm == "errors" and rng.random() < 0.5:
        context.abort(grpc.StatusCode.INTERNAL, "out of luck")
    score = np.array([[score_of(harm, rng)]], np.float32)
    if harm == "nan" and rng.random() < 0.5:
        score[:] = np.nan
    if harm == "logit":
        score[:] = np.log(score / (1.0 - score))
    return response_bytes(NAME, "1", {"probability": score}, "")


def _serve(harm, seed):
    from concurrent.futures import ThreadPoolExecutor

    rng = np.random.default_rng(seed)

    def infer(request, context):
        if harm == "hang":
            time.sleep(60)
        if harm in {"exact", "moved", "flood", "other"}:
            return exact(harm, request)
        return drawn(harm, rng, context)

    handler = grpc.method_handlers_generic_handler(
        SERVICE, {"ModelInfer": grpc.unary_unary_rpc_method_handler(infer)}
    )
    options = [("grpc.so_reuseport", 0), ("grpc.max_send_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(16), handlers=[handler], options=options)
    sys.stdout.write(f"port {server.add_insecure_port('127.0.0.1:0')}\n")
    sys.stdout.flush()
    server.start()
    server.wait_for_termination()


async def served_by(answer):
    """A server in this loop that answers every request with what this returns, and its address."""
    server = grpc.aio.server()
    service, method = MODEL_INFER.strip("/").split("/")
    handler = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, f"127.0.0.1:{port}"


class Child:
    """A process whose lines are read."""

    def __init__(self, *command):
        self.process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def line(self, stream, holds, wait_s=120.0):
        """The first line of a stream that holds a text."""
        until = time.perf_counter() + wait_s
        seen = ""
        while time.perf_counter() < until:
            if select.select([stream], [], [], 0.2)[0]:
                found = stream.readline().decode()
                if holds in found:
                    return found
                seen += found
                if not found:
                    break
        self.process.kill()
        raise AssertionError(f"no '{holds}': {seen}{self.process.stderr.read().decode()}")

    def stop(self, number=signal.SIGTERM):
        """(exit code, stdout, stderr) after a signal."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self, wait_s=120.0):
        out, err = self.process.communicate(timeout=wait_s)
        return self.process.returncode, out.decode(), err.decode()

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()


@contextlib.contextmanager
def child(*command):
    started = Child(*command)
    try:
        yield started
    finally:
        started.end()


@contextlib.contextmanager
def model(harm="none", seed=0):
    """A model server; yields its address."""
    with child(__file__, harm, seed) as server:
        yield f"127.0.0.1:{server.line(server.process.stdout, 'port').split()[1]}"


@contextlib.contextmanager
def shadow(out, baseline, candidate, *options):
    """`harness shadow` before two servers; yields (process, address)."""
    command = ["-m", "harness", "shadow", "--listen", "127.0.0.1:0", "--baseline", baseline,
               "--candidate", candidate, "--out", out, *options]  # fmt: skip
    with child(*command) as proxy:
        line = proxy.line(proxy.process.stderr, "serving on port")
        yield proxy, f"127.0.0.1:{line.split('port ')[1].strip()}"


@contextlib.contextmanager
def canary(policy, out, baseline, candidate, *options):
    """`harness canary` before two servers; yields (process, address)."""
    command = ["-m", "harness", "canary", "--listen", "127.0.0.1:0", "--baseline", baseline,
               "--candidate", candidate, "--policy", policy, "--out", out, "--look-every", "0.05", *options]  # fmt: skip
    with child(*command) as proxy:
        proxy.said = proxy.line(proxy.process.stderr, "serving on port")
        yield proxy, f"127.0.0.1:{proxy.said.split('port ')[1].split(',')[0].strip()}"


class Client:
    """Asks one address, request after request, each by a user of its own unless one is given."""

    def __init__(self, address, tag=""):
        self._channel = grpc.insecure_channel(address)
        self._call = self._channel.unary_unary(MODEL_INFER)
        self._request = request_bytes(NAME, {"x": np.ones((1, 4), np.float32)}, "")
        self._tag = tag
        self.sent = 0
        self._left = []

    def ask(self, user=None, timeout=60.0):
        """(code, response)."""
        self.sent += 1
        user = f"{self._tag}{self.sent}" if user is None else user
        try:
            metadata = (("x-user", user),) if user else ()
            return "OK", self._call(self._request, timeout=timeout, metadata=metadata)
        except grpc.RpcError as error:
            return error.code().name, b""

    def ask_until(self, done, most=6_000, many=20, wait_s=None):
        """Asks in bunches until `done()`, each when the one before has ended or `wait_s` is over; says how many."""
        for asked in range(0, most, many):
            if done():
                return asked
            futures = []
            for _ in range(many):
                self.sent += 1
                metadata = (("x-user", f"{self._tag}{self.sent}"),)
                futures.append(self._call.future(self._request, timeout=60.0, metadata=metadata))
            if wait_s is not None:
                self._left += futures  # one that nobody holds is cancelled
            until = None if wait_s is None else time.monotonic() + wait_s
            for future in futures:
                with contextlib.suppress(grpc.FutureTimeoutError):
                    future.exception(until and max(until - time.monotonic(), 0.0))
        return most

    def close(self):
        self._channel.close()


class Awake:
    """The seconds of a body in which this machine ran: one that stands still lets nobody work or wait."""

    def __enter__(self):
        self.seconds = 0.0
        self._ended = threading.Event()
        self._counting = threading.Thread(target=self._count, daemon=True)
        self._counting.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._counting.join()

    def _count(self):
        last = time.perf_counter()
        while not self._ended.wait(0.05):
            now = time.perf_counter()
            self.seconds += min(now - last, 0.2)
            last = now


def metrics_of(port):
    """(name, labels' values) → value, as Prometheus reads them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in families
            for sample in family.samples
        }


def events(out):
    """What the canary has told so far."""
    file = Path(out) / "events.jsonl"
    if not file.exists():
        return []
    lines = file.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def decided(out):
    """The final event, or None."""
    return next((event for event in reversed(events(out)) if event["final"]), None)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))

"""`harness record` in processes of its own, as a user runs it."""

import contextlib
import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from peers import INFER, OPTIONS, process

from harness.store.traffic import TrafficSource
from harness.wire.gen import open_inference_pb2 as pb


class Recording:
    def __init__(self, child, address, out):
        self.child = child
        self.address = address
        self.out = out

    @property
    def writer_pid(self):
        children = Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children")
        return int(children.read_text().split()[0])

    def end(self, wait_s=120):
        """SIGTERM, then the totals that it prints."""
        self.child.send_signal(signal.SIGTERM)
        said, _ = self.child.communicate(timeout=wait_s)
        assert self.child.returncode == 0, said
        said = said.decode()
        return json.loads(said[said.index("{") :])["totals"]

    def totals(self):
        (path,) = self.out.glob("*.totals.json")
        return json.loads(path.read_text())

    def ask(self, requests, *, metadata=(), workers=8):
        """Sends requests, several at once; how many were answered."""
        with grpc.insecure_channel(self.address, options=OPTIONS) as channel:
            call = channel.unary_unary(INFER)

            def one(request):
                try:
                    return call(request, timeout=60, metadata=metadata) == request
                except grpc.RpcError:
                    return False

            with ThreadPoolExecutor(workers) as pool:
                return sum(pool.map(one, requests))


@contextlib.contextmanager
def recording(upstream, out, *options, **environment):
    with process(
        "-m", "harness", "record", "--listen", "127.0.0.1:0", "--upstream", upstream,
        "--out", out, "--json", *options, says="listening on", **environment,
    ) as (child, line):  # fmt: skip
        yield Recording(child, line.split()[-1], out)


def request(i, model="m", text="", request_id=None):
    message = pb.ModelInferRequest(
        model_name=model, id=f"r{i}" if request_id is None else request_id
    )
    if text:
        message.inputs.add(name="secret", datatype="BYTES", shape=[1])
        message.raw_input_contents.append(len(text).to_bytes(4, "little") + text.encode())
    return message.SerializeToString()


def recorded(out):
    return list(TrafficSource.open([out]).exchanges())


def reasons(totals):
    return dict(map(tuple, totals["not_recorded"]))


def adds_up(totals):
    return totals["seen"] == (
        totals["written"]
        + totals["waiting"]
        + totals["sampled_out"]
        + sum(reasons(totals).values())
    )


def until(what, wait_s=60.0):
    end = time.perf_counter() + wait_s
    while time.perf_counter() < end:
        if what():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come true")

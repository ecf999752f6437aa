"""A real S3 server in a process of its own, for the tests that store objects."""

import os
import socket
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager

import pytest
from ports import reserved
from pyarrow import fs

from harness.core.places import ObjectPlace

READY_WITHIN_S = 120.0


@contextmanager
def served(*options, scheme="http"):
    """Runs moto's server; gives its endpoint."""
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1"]
    with reserved() as port:
        process = subprocess.Popen(
            [*command, "-p", str(port), *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_until_it_listens(port, process)
            yield f"{scheme}://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _wait_until_it_listens(port, process):
    until = time.perf_counter() + READY_WITHIN_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            assert process.poll() is None, "the S3 server ended"
            assert time.perf_counter() < until, "the S3 server does not listen"
            time.sleep(0.05)
        else:
            return


@pytest.fixture(scope="module")
def s3_endpoint():
    """For a module, not longer: other tests count the children of their process."""
    with served() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint, monkeypatch):
    """An empty bucket of the test's own, with credentials in the environment."""
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    name = f"traffic-{uuid.uuid4().hex[:12]}"
    fs.S3FileSystem(
        endpoint_override=s3_endpoint.removeprefix("http://"), scheme="http", region="us-east-1",
        allow_bucket_creation=True,
    ).create_dir(name)  # fmt: skip
    return ObjectPlace(bucket=name, key="", endpoint=s3_endpoint)

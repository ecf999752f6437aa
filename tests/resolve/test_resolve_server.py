"""A real MLflow server: over HTTP versions are text, and artifacts come through the server."""

import http.client
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from ports import reserved

from harness.core.errors import ResolveError
from harness.resolve import pin
from harness.resolve.golden_logging import log_golden

pytestmark = pytest.mark.slow
READY_WITHIN_S = 300.0


def wait_until_ready(port: int, process: subprocess.Popen, log) -> None:
    deadline = time.perf_counter() + READY_WITHIN_S
    while time.perf_counter() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            time.sleep(0.2)
        finally:
            connection.close()
    pytest.fail(f"the server did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def server(tmp_path_factory, registry_template):
    """Address of a running server with a database and an artifact folder of its own."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copyfile(registry_template, folder / "server.db")
    with reserved() as port, running(folder, port):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def running(folder, port: int):
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1",
                "--port", str(port), "--workers", "1",
                "--backend-store-uri", f"sqlite:///{folder / 'server.db'}",
                "--artifacts-destination", str(folder / "artifacts"),
            ],
            cwd=folder, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )  # fmt: skip
    try:
        wait_until_ready(port, process, log)
        yield
    finally:
        # The server's workers are children of that process, in the session it leads.
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


@pytest.fixture(scope="module")
def logged(server, write_onnx, tmp_path_factory):
    """Registers one model through the server, with an alias and a training cut-off."""
    import mlflow
    import onnx

    model = onnx.load(str(write_onnx(tmp_path_factory.mktemp("model") / "m.onnx")))
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(server)
    try:
        with mlflow.start_run():
            mlflow.onnx.log_model(
                model, name="m", registered_model_name="flights",
                pip_requirements=["onnxruntime==1.31.1"],
            )  # fmt: skip
    finally:
        mlflow.set_tracking_uri(before)
    client = mlflow.MlflowClient(tracking_uri=server, registry_uri=server)
    client.set_registered_model_alias("flights", "champion", "1")
    client.set_model_version_tag("flights", "1", "harness.training_cutoff", "1970-01-01T00:00:01Z")
    return server


def test_artifacts_are_downloaded_and_pinned(logged, tmp_path):
    pinned = pin("models:/flights@champion", tmp_path / "pins", registry_uri=logged)
    assert (pinned.uri, pinned.version) == ("models:/flights/1", "1")
    assert pinned.training_cutoff_ns == 1_000_000_000
    assert pinned.requirements == ("onnxruntime==1.31.1",)
    # Another test logs golden rows with the version, which may have run before.
    left = {p.name for p in (tmp_path / "pins").iterdir()} - {"golden"}
    assert left == {pinned.digest[:32]}


def test_a_recorded_digest_is_checked(logged, tmp_path):
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=logged, registry_uri=logged)
    client.set_model_version_tag("flights", "1", "harness.sha256", "0" * 64)
    try:
        with pytest.raises(ResolveError, match="refused, its bytes are not those"):
            pin("models:/flights/1", tmp_path / "pins", registry_uri=logged)
    finally:
        client.delete_model_version_tag("flights", "1", "harness.sha256")


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("models:/flights@champoin", r"has no alias 'champoin' \(champion → 1\)"),
        ("models:/flights/9", r"has no version 9. Versions: 1\."),
        ("models:/flight/1", r"no registered model 'flight'. It has: flights. Did you mean"),
    ],
)
def test_what_does_not_exist_is_explained(logged, tmp_path, reference, expected):
    with pytest.raises(ResolveError, match=expected):
        pin(reference, tmp_path / "pins", registry_uri=logged)


def test_nothing_is_written_to_the_terminal(logged, tmp_path, capfd):
    pin("models:/flights@champion", tmp_path / "pins", registry_uri=logged)
    assert tuple(capfd.readouterr()) == ("", "")


def test_golden_rows_are_logged_through_the_server_and_come_back_with_the_version(logged, tmp_path):
    rows = tmp_path / "golden.npz"
    rows.write_bytes(b"rows")
    assert log_golden(rows, "models:/flights@champion", registry_uri=logged) == "models:/flights/1"
    pinned = pin("models:/flights/1", tmp_path / "pins", registry_uri=logged)
    assert pinned.golden.read_bytes() == b"rows"
    with pytest.raises(ResolveError, match="logged with it already"):
        log_golden(rows, "models:/flights/1", registry_uri=logged)

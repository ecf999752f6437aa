"""Clients and servers of other makers, each in an environment and a process of its own.

tritonclient asks this project's server and an MLServer with an MLflow model, directly and through the
proxy: what it is told is the same, byte by byte.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from gates import MODELS, ROOT
from peers import process
from recordings import adds_up, recorded, recording, until

pytestmark = pytest.mark.long
HERE = Path(__file__).parent
FLIGHT = {
    "scheduled_departure_s": ("i8", 1372671900), "scheduled_arrival_s": ("i8", 1372684740),
    "utc_offset_s": ("i8", -14400), "carrier": ("O", "UA"), "origin": ("O", "LGA"),
    **dict.fromkeys(("distance_miles", "temp_f", "dewp_f", "humid_pct", "wind_dir_deg", "wind_speed_mph", "wind_gust_mph", "precip_in", "pressure_mb", "visib_miles", "plane_year", "plane_seats"), ("f4", 1.5)),
    **dict.fromkeys(("delay_sum_min", "delay_count", "carrier_delay_sum_min", "carrier_delay_count"), ("i8", 0)),
}  # fmt: skip


@pytest.fixture(scope="session")
def environment(shared_folder):
    """Makes an environment with some packages, once; gives its Python."""

    def make(name, *packages):
        folder = shared_folder / f"peer-{name}"
        python = folder / "bin" / "python"
        if not python.exists():
            uv = Path(sys.executable).parent / "uv"
            subprocess.run([uv, "venv", "-q", "-p", sys.executable, folder], check=True)
            subprocess.run([uv, "pip", "install", "-q", "--python", python, *packages], check=True)
        return python

    return make


@pytest.fixture(scope="session")
def ask(environment):
    """What tritonclient sees of a server."""
    python = environment("tritonclient", "tritonclient[grpc]>=2.50,<3")

    def asked(address, model, inputs, *more):
        given = {n: {"kind": kind, "values": values} for n, (kind, values) in inputs.items()}
        ran = subprocess.run(
            [python, HERE / "triton_client.py", address, model, json.dumps(given), *more],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    return asked


def test_tritonclient_sees_this_project_s_server_through_the_proxy_as_it_is(ask, tmp_path):
    inputs = {name: (kind, [value]) for name, (kind, value) in FLIGHT.items()}
    with process(
        ROOT / "scenarios" / "traffic" / "serving.py", "--model", MODELS / "v1.onnx", "--name",
        "flights", says="serving on port",
    ) as (_, line):  # fmt: skip
        server = f"127.0.0.1:{line.split()[-1]}"
        with recording(server, tmp_path / "traffic") as proxy:
            direct = ask(server, "flights", inputs, "stream")
            assert ask(proxy.address, "flights", inputs, "stream") == direct
            totals = proxy.end()
    assert direct["infer"]["message"]["model_version"] == "1"
    assert direct["no input"]["status"] == "StatusCode.INVALID_ARGUMENT"
    assert direct["unknown model"]["status"] == "StatusCode.NOT_FOUND"
    assert adds_up(totals)
    assert [len(answer) == 2 for answer in direct["stream"]] == [False, True, False]
    codes = {e.request_id: e.code for e in recorded(tmp_path / "traffic")}
    assert {i: codes[i] for i in _CODES} == _CODES


_CODES = {"r1": 0, "r2": 0, "r3": 3, "r4": 5, "s0": 0, "s1": 2, "s2": 0}


@contextlib.contextmanager
def mlserver(python, folder):
    """An MLServer with an MLflow model; yields its address."""
    with contextlib.ExitStack() as held:
        ports = []
        for _ in range(3):
            free = held.enter_context(socket.socket())
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    subprocess.run([python, HERE / "mlserver_model.py", folder, *map(str, ports)], check=True)
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [python.parent / "mlserver", "start", folder], stdout=log, stderr=log,
            env={**os.environ, "PYTHONPATH": ""}, cwd=folder,
        )  # fmt: skip
    try:
        until(lambda: "gRPC server running" in (folder / "log").read_text(), wait_s=120)
        until(lambda: "Loaded model 'linear'" in (folder / "log").read_text(), wait_s=120)
        yield f"127.0.0.1:{ports[0]}"
    finally:
        server.kill()
        server.wait()


def test_tritonclient_sees_an_mlserver_through_the_proxy_as_it_is(ask, environment, tmp_path):
    python = environment("mlserver", "mlserver>=1.7,<2", "mlserver-mlflow>=1.7,<2", "scikit-learn")
    inputs = {name: ("f8", [[0.25]]) for name in ("a", "b")}
    folder = tmp_path / "served"
    folder.mkdir()
    with (
        mlserver(python, folder) as server,
        recording(server, tmp_path / "traffic") as proxy,
    ):
        direct = ask(server, "linear", inputs)
        through = ask(proxy.address, "linear", inputs)
        totals = proxy.end()
    assert direct["infer"]["message"]["model_name"] == "linear"
    assert through == direct
    assert adds_up(totals)
    found = {e.request_id: e for e in recorded(tmp_path / "traffic")}
    assert found["r1"].code == 0
    assert found["r1"].version == "v7"
    assert found["r4"].code != 0

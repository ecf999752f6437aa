"""Requests of recurrent sessions: their state lies in the server, so they are never compared by themselves."""

import numpy as np
import pytest
from gates import REFACTOR, TINY_START_NS, tiny_model

from harness.core.errors import UsageError
from harness.core.traffic import Exchange
from harness.core.verdicts import Decision
from harness.pipeline.compare import compare_models
from harness.pipeline.gate import run_gate
from harness.store.traffic import TrafficWriter
from harness.wire import MODEL_INFER
from harness.wire.gen import open_inference_pb2 as pb
from harness.wire.messages import request_bytes
from harness.wire.sessions import IN_A_SESSION, in_session

N = 400


def request(i, **parameters):
    message = pb.ModelInferRequest.FromString(
        request_bytes("tiny", {"x": np.float32([i / N])}, f"t-{i}")
    )
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(message.parameters[name], kind, value)
    return message.SerializeToString()


def recorded(folder, requests):
    with TrafficWriter(folder) as writer:
        writer.write(
            Exchange(
                ts_ns=TINY_START_NS + i * 1_000_000_000, latency_ns=1, code=0, method=MODEL_INFER,
                model="tiny", version="1", request_id=f"t-{i}", request=given, response=b"",
            )
            for i, given in enumerate(requests)
        )  # fmt: skip
    return folder


@pytest.mark.parametrize(
    ("parameters", "session"),
    [
        ({}, False),
        ({"sequence_id": 7}, True),
        ({"sequence_id": "user-7"}, True),
        ({"sequence_start": True}, True),
        ({"sequence_id": 0, "sequence_start": False, "sequence_end": False}, False),
        ({"sequence_id": ""}, False),
        ({"sequence_length": 3}, False),
        ({"priority": "sequence_id"}, False),
    ],
)
def test_a_request_says_whether_it_is_part_of_a_session(parameters, session):
    assert in_session(request(1, **parameters)) is session


def test_what_is_no_request_is_part_of_none():
    assert not in_session(b"\xffsequence_id")


@pytest.fixture
def model(tmp_path):
    return str(tiny_model(tmp_path / "model.onnx"))


@pytest.fixture
def sessions(tmp_path):
    """Sessions of ten requests each."""
    requests = [request(i, sequence_id=1 + i // 10, sequence_start=i % 10 == 0) for i in range(N)]
    return recorded(tmp_path / "traffic", requests)


def test_a_gate_on_sessions_holds_and_says_why(model, sessions, windows, write_policy, tmp_path):
    result = run_gate(
        model, model, traffic=[sessions], policy=write_policy(REFACTOR), out=tmp_path / "run",
        cache_dir=windows,
    )  # fmt: skip
    assert (result.decision, result.exit_code) == (Decision.HOLD, 3)
    assert IN_A_SESSION in (tmp_path / "run" / "decision.json").read_text()


def test_a_comparison_on_sessions_compares_nothing(model, sessions, windows):
    with pytest.raises(UsageError, match="400 requests left out: part of a session"):
        compare_models(model, model, inputs=[sessions], cache_dir=windows)


def test_a_few_sessions_among_other_requests_are_left_out_and_told(
    model, windows, write_policy, tmp_path
):
    requests = [request(i, **({"sequence_id": 5} if i < 2 else {})) for i in range(N)]
    result = run_gate(
        model, model, traffic=[recorded(tmp_path / "traffic", requests)],
        policy=write_policy(REFACTOR), out=tmp_path / "run", cache_dir=windows,
    )  # fmt: skip
    assert result.decision is Decision.PROMOTE
    assert result.record.n_requests == N - 2
    assert any(IN_A_SESSION in finding.what for finding in result.findings)

import contextlib
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
import sandbox_models as models
from onnx import TensorProto, helper

from harness.core.errors import GateError, SandboxError, UsageError
from harness.core.observations import Outcome
from harness.core.policies import SandboxPolicy
from harness.sandbox.answers import BatchAnswer, BatchFault, spoken
from harness.sandbox.hello import LoadFailure
from harness.sandbox.process import Sandbox

LIMITS = SandboxPolicy()
REPOSITORY = Path(__file__).parents[2]


def started(model: Path, limits: SandboxPolicy = LIMITS) -> Sandbox:
    sandbox = Sandbox.start(model, name="candidate", limits=limits)
    assert isinstance(sandbox, Sandbox), sandbox
    return sandbox


def asked(sandbox: Sandbox, rows: int, **inputs) -> BatchAnswer | BatchFault:
    sandbox.submit(inputs, rows, trace=False)
    return sandbox.collect()


def answered(sandbox: Sandbox, rows: int, **inputs) -> BatchAnswer:
    answer = asked(sandbox, rows, **inputs)
    assert isinstance(answer, BatchAnswer), answer
    return answer


def failed(sandbox: Sandbox, rows: int, **inputs) -> BatchFault:
    fault = asked(sandbox, rows, **inputs)
    assert isinstance(fault, BatchFault), fault
    return fault


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.FLOAT, np.float32),
        (TensorProto.DOUBLE, np.float64),
        (TensorProto.FLOAT16, np.float16),
        (TensorProto.INT64, np.int64),
        (TensorProto.UINT8, np.uint8),
        (TensorProto.BOOL, np.bool_),
    ],
)
def test_numbers_come_back_bit_for_bit(tmp_path, kind, dtype):
    given = np.array([[0, 1], [1, 1], [1, 0]], dtype)
    with started(models.identity(tmp_path / "m.onnx", kind)) as sandbox:
        found = answered(sandbox, 3, x=given).outputs["y"]
    assert (found.dtype, found.tolist()) == (given.dtype, given.tolist())


def test_a_producers_name_is_no_format(tmp_path):
    """Left to guess, onnxruntime takes bytes that hold ORTM in the fifth place for its own format."""
    path = models.identity(tmp_path / "m.onnx", TensorProto.FLOAT)
    model = onnx.load(path)
    model.producer_name = "ORTModel"
    onnx.save(model, path)
    with started(path) as sandbox:
        assert answered(sandbox, 1, x=np.ones((1, 2), np.float32)).outputs["y"].all()


def test_strings_come_back_as_text(tmp_path):
    given = np.array([["", "Zürich"], ["日本 🛫", "a\x00b"]], object)
    with started(models.identity(tmp_path / "m.onnx", TensorProto.STRING)) as sandbox:
        found = answered(sandbox, 2, x=given).outputs["y"]
    assert (found.dtype, found.tolist()) == (np.dtype(object), given.tolist())


def test_nan_and_infinity_are_answers(tmp_path):
    given = np.float32([[np.nan, np.inf], [-np.inf, -0.0]])
    with started(models.identity(tmp_path / "m.onnx")) as sandbox:
        found = answered(sandbox, 2, x=given).outputs["y"]
    assert found.tobytes() == given.tobytes()


def test_an_empty_batch_has_no_rows(tmp_path):
    with started(models.identity(tmp_path / "m.onnx")) as sandbox:
        found = answered(sandbox, 0, x=np.empty((0, 2), np.float32)).outputs["y"]
    assert found.shape == (0, 2)


def test_zipmap_becomes_a_matrix_with_class_names(tmp_path):
    given = np.float32([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]])
    with started(models.zipmap(tmp_path / "m.onnx")) as sandbox:
        answer = answered(sandbox, 3, x=given)
        kinds = [s.datatype for s in sandbox.signature.outputs]
    assert kinds == ["MAP:seq(map(string,tensor(float)))", "FP32"]
    assert answer.keys == {"p": ("late", "on time")}
    assert answer.outputs["p"].dtype == np.float64
    assert answer.outputs["p"].tolist() == given.astype(np.float64).tolist()


def test_a_scalar_output_is_in_every_row(tmp_path):
    model = models.saved(
        tmp_path / "m.onnx",
        [models.node("ReduceSum", ["x"], ["s"], keepdims=0), models.node("Neg", ["x"], ["y"])],
        [models.tensor("x", TensorProto.FLOAT, 2)],
        [
            models.tensor("s", TensorProto.FLOAT, scalar=True),
            models.tensor("y", TensorProto.FLOAT, 2),
        ],
    )
    with started(model) as sandbox:
        answers = [answered(sandbox, 3, x=np.full((3, 2), k, np.float32)) for k in range(4)]
    assert [a.outputs["s"].tolist() for a in answers] == [[6.0 * k] * 3 for k in range(4)]
    assert answers[0].outputs["y"].shape == (3, 2)


def test_batches_in_flight_are_answered_in_order(tmp_path):
    with started(models.identity(tmp_path / "m.onnx")) as sandbox:
        numbers = [
            sandbox.submit({"x": np.full((2, 2), i, np.float32)}, 2, trace=False) for i in range(5)
        ]
        answers = [sandbox.collect() for _ in numbers]
    assert [a.seq for a in answers] == numbers
    assert [a.outputs["y"][0, 0] for a in answers] == [0, 1, 2, 3, 4]


def test_batches_larger_than_both_pipes_do_not_block_each_other(tmp_path):
    given = np.arange(1 << 21, dtype=np.float32).reshape(-1, 2)
    with started(models.identity(tmp_path / "m.onnx")) as sandbox:
        for _ in range(3):
            sandbox.submit({"x": given}, len(given), trace=False)
        answers = [sandbox.collect() for _ in range(3)]
    assert all(np.array_equal(a.outputs["y"], given) for a in answers)


def test_an_exception_of_the_runtime_leaves_the_process_alive(tmp_path):
    with started(models.division(tmp_path / "m.onnx")) as sandbox:
        fault = failed(sandbox, 1, x=np.int32([1]), d=np.int32([0]))
        answer = answered(sandbox, 1, x=np.int32([6]), d=np.int32([3]))
    assert (fault.kind, fault.alive) == (Outcome.ERROR, True)
    assert "division by zero" in fault.message
    assert answer.outputs["y"].tolist() == [2]


def test_a_crash_names_its_signal(tmp_path):
    with started(models.division(tmp_path / "m.onnx")) as sandbox:
        fault = failed(sandbox, 1, x=np.int32([-(2**31)]), d=np.int32([-1]))
    assert (fault.kind, fault.alive) == (Outcome.CRASH, False)
    assert fault.message == "the process was killed by SIGFPE"
    assert "Floating point exception" in fault.last_words


def test_a_hang_is_killed_at_the_deadline(tmp_path):
    limits = SandboxPolicy(batch_deadline_s=0.3)
    with started(models.counting(tmp_path / "m.onnx"), limits) as sandbox:
        assert answered(sandbox, 1, x=np.int64([3])).outputs["y"].tolist() == [24]
        fault = failed(sandbox, 1, x=np.int64([2**62]))
        assert not psutil.pid_exists(sandbox.pid)
    assert (fault.kind, fault.alive) == (Outcome.TIMEOUT, False)
    assert "0.3 s" in fault.message


def test_memory_beyond_the_limit_is_an_error_of_the_model(tmp_path):
    limits = SandboxPolicy(memory_bytes=1 << 30)
    with started(models.hungry(tmp_path / "m.onnx"), limits) as sandbox:
        fault = failed(sandbox, 1, x=np.int64([1 << 30]))
        answer = answered(sandbox, 1, x=np.int64([10]))
    assert (fault.kind, fault.alive) == (Outcome.ERROR, True)
    assert answer.outputs["y"].tolist() == [0]


def test_wrong_rows_are_invalid_and_leave_the_process_alive(tmp_path):
    model = models.saved(
        tmp_path / "m.onnx",
        [models.node("ReduceMean", ["x"], ["y"], axes=[0], keepdims=1)],
        [models.tensor("x", TensorProto.FLOAT, 2)],
        [models.tensor("y", TensorProto.FLOAT, 2)],
    )
    with started(model) as sandbox:
        fault = failed(sandbox, 3, x=np.ones((3, 2), np.float32))
        answer = answered(sandbox, 1, x=np.ones((1, 2), np.float32))
    assert (fault.kind, fault.alive) == (Outcome.INVALID, True)
    assert "y has the shape (1, 2) for 3 rows" in fault.message
    assert answer.outputs["y"].tolist() == [[1, 1]]


@pytest.mark.parametrize("text", ["\ud800", None, b"bytes"])
def test_what_is_no_text_is_an_error_in_its_turn(tmp_path, text):
    with started(models.identity(tmp_path / "m.onnx", TensorProto.STRING)) as sandbox:
        sandbox.submit({"x": np.array([["a", "b"]], object)}, 1, trace=False)
        sandbox.submit({"x": np.array([["a", text]], object)}, 1, trace=False)
        first, second = sandbox.collect(), sandbox.collect()
    assert isinstance(first, BatchAnswer)
    assert isinstance(second, BatchFault)
    assert (second.kind, second.alive) == (Outcome.ERROR, True)


def test_a_file_that_is_no_model_is_a_load_failure(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"this is no protobuf")
    failure = Sandbox.start(path, name="candidate", limits=LIMITS)
    assert isinstance(failure, LoadFailure)
    assert failure.kind == "load"
    assert "INVALID_PROTOBUF" in failure.message


def test_an_unknown_operator_is_a_load_failure_that_names_it(tmp_path):
    kind = TensorProto.FLOAT
    path = models.saved(
        tmp_path / "m.onnx",
        [models.node("Frobnicate", ["x"], ["y"])],
        [models.tensor("x", kind)],
        [models.tensor("y", kind)],
    )
    failure = Sandbox.start(path, name="candidate", limits=LIMITS)
    assert isinstance(failure, LoadFailure)
    assert "Frobnicate" in failure.message


def test_a_crash_while_loading_is_a_load_failure_that_names_the_signal(tmp_path):
    # Production's optimiser folds the constants, and that division traps.
    path = models.saved(
        tmp_path / "m.onnx",
        [models.node("Div", ["least", "minus"], ["q"]), models.node("Add", ["x", "q"], ["y"])],
        [models.tensor("x", TensorProto.INT64)],
        [models.tensor("y", TensorProto.INT64)],
        constants={"least": np.array([-(2**63)]), "minus": np.array([-1])},
    )
    failure = Sandbox.start(path, name="candidate", limits=LIMITS)
    assert isinstance(failure, LoadFailure)
    assert failure.kind == "crash"
    assert "SIGFPE" in failure.message


def test_too_little_memory_for_the_imports_is_a_load_failure(tmp_path):
    limits = SandboxPolicy(memory_bytes=48 << 20)
    failure = Sandbox.start(models.identity(tmp_path / "m.onnx"), name="c", limits=limits)
    assert isinstance(failure, LoadFailure)
    assert failure.kind == "crash"


def test_external_data_cannot_be_read_through_a_model(tmp_path):
    model = helper.make_model(
        helper.make_graph(
            [models.node("Identity", ["w"], ["y"])],
            "g",
            [],
            [helper.make_tensor_value_info("y", TensorProto.UINT8, [8])],
        ),
        opset_imports=[helper.make_opsetid("", 15)],
    )
    model.ir_version = 8
    weight = model.graph.initializer.add(
        name="w", data_type=TensorProto.UINT8, dims=[8], data_location=TensorProto.EXTERNAL
    )
    for key, value in (("location", "../../../../etc/passwd"), ("offset", "0"), ("length", "8")):
        weight.external_data.add(key=key, value=value)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    failure = Sandbox.start(path, name="candidate", limits=LIMITS)
    assert isinstance(failure, LoadFailure)


def test_a_missing_file_is_the_users_error(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        Sandbox.start(tmp_path / "none.onnx", name="candidate", limits=LIMITS)


def test_a_missing_interpreter_is_told_apart(tmp_path):
    model = models.identity(tmp_path / "m.onnx")
    with pytest.raises(SandboxError, match="does not start"):
        Sandbox.start(model, name="c", limits=LIMITS, python=tmp_path / "python")


def test_an_interpreter_without_onnxruntime_is_a_load_failure_that_says_so(tmp_path):
    # A bare environment: the same interpreter, no packages.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    model = models.identity(tmp_path / "m.onnx")
    python = tmp_path / "bare" / "bin" / "python"
    failure = Sandbox.start(model, name="c", limits=LIMITS, python=python)
    assert isinstance(failure, LoadFailure)
    assert "No module named 'numpy'" in failure.message


def test_a_child_inherits_nothing_it_does_not_need(tmp_path):
    with started(models.identity(tmp_path / "m.onnx")) as sandbox:
        environment = Path(f"/proc/{sandbox.pid}/environ").read_bytes().decode().split("\0")
        descriptors = len(list(Path(f"/proc/{sandbox.pid}/fd").iterdir()))
    assert {e.split("=")[0] for e in environment if e} >= {"HOME", "ORT_DISABLE_TELEMETRY"}
    assert not any(e.startswith(("USER=", "PWD=")) for e in environment)
    # Three standard ones, two pipes, the program and the shared memory.
    assert descriptors <= 7


def test_collecting_nothing_is_the_gates_error(tmp_path):
    with started(models.identity(tmp_path / "m.onnx")) as sandbox:
        with pytest.raises(GateError, match="no batch is in flight"):
            sandbox.collect()
        with pytest.raises(GateError, match="no trace session"):
            sandbox.submit({}, 0, trace=True)


def test_nothing_is_left_behind(tmp_path, monkeypatch, children, descriptors):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    model = models.division(tmp_path / "m.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"broken")
    before = descriptors()
    for _ in range(3):
        with started(model) as sandbox:
            failed(sandbox, 1, x=np.int32([-(2**31)]), d=np.int32([-1]))
        with started(model) as sandbox:
            sandbox.submit({"x": np.int32([1]), "d": np.int32([1])}, 1, trace=False)
        Sandbox.start(broken, name="c", limits=LIMITS)
    assert descriptors() == before
    assert children() == set()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_dropped_sandbox_ends_its_process(tmp_path):
    sandbox = started(models.identity(tmp_path / "m.onnx"))
    pid = sandbox.pid
    del sandbox
    assert not psutil.pid_exists(pid)


HANGING_PARENT = """
    import sys
    from pathlib import Path
    import numpy as np
    from harness.core.policies import SandboxPolicy
    from harness.sandbox.process import Sandbox
    limits = SandboxPolicy(batch_deadline_s=60)
    with Sandbox.start(Path(sys.argv[1]), name="c", limits=limits) as sandbox:
        sandbox.submit({"x": np.int64([2**62])}, 1, trace=False)
        print(sandbox.pid, flush=True)
        sandbox.collect()
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_parent_that_is_interrupted_or_killed_takes_the_child_with_it(tmp_path, how):
    model = models.counting(tmp_path / "m.onnx")
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HANGING_PARENT), str(model)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=REPOSITORY,
    )
    assert parent.stdout is not None
    with parent.stdout:
        child = psutil.Process(int(parent.stdout.readline()))
    parent.send_signal(how)
    parent.wait(60)
    until = time.perf_counter() + 30
    with contextlib.suppress(psutil.NoSuchProcess):  # between two looks at it
        while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
            assert time.perf_counter() < until
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("", ""),
        ("\n \n", ""),
        ("Traceback\n  File x\nModuleNotFoundError: no numpy\n", "ModuleNotFoundError: no numpy"),
        (
            "terminate called\n  what():  bad shape\nFatal Python error: Aborted\n\nCurrent thread 0x1:\n",
            "what():  bad shape",
        ),
        (
            "Fatal Python error: Segmentation fault\n\nCurrent thread 0x1:\nExtension modules: numpy",
            "Fatal Python error: Segmentation fault",
        ),
        ("x" * 500, "x" * 300),
    ],
)
def test_the_line_that_says_most_is_told(said, told):
    assert spoken(said) == told

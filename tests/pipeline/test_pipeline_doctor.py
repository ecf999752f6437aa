"""Doctor: what is tried is reported as found, and every problem comes with a remedy."""

import json
import subprocess
import sys

import emulation
import pytest

from harness.core.clock import ts_ns_from_iso
from harness.pipeline import doctor as doctor_module
from harness.pipeline import machine
from harness.pipeline.doctor import DoctorReport, doctor
from harness.pipeline.machine import Check, State

pytestmark = pytest.mark.usefixtures("each_process_started")

NAMES = [
    "python", "packages", "onnxruntime", "isolation", "seccomp", "landlock", "network_namespace",
    "privileges", "limits", "self_tests", "registry", "environments", "disk", "processors",
    "shared_memory", "kernel", "clock",
]  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            patch.delenv(name, raising=False)
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        return doctor(cache_dir=tmp_path_factory.mktemp("cache"))


def test_a_machine_that_runs_these_tests_is_fit(report):
    assert [check.name for check in report.checks] == NAMES
    assert [c for c in report.checks if c.state is State.PROBLEM] == []
    assert report.exit_code == 0


def test_onnxruntime_really_ran(report):
    found = {c.name: c.found for c in report.checks}["onnxruntime"]
    assert found.startswith("ran a one-node model in a process of its own")


def test_isolation_is_the_sandboxes_own_word(report):
    isolation = {c.name: c for c in report.checks}["isolation"]
    assert isolation.found.startswith(("tier S2", "tier S3"))
    assert isolation.state is State.OK


def test_a_machine_without_filters_needs_attention(monkeypatch, tmp_path):
    lacking = ("no-seccomp", "landlock-off", "no-namespaces")
    monkeypatch.setattr(sys, "executable", str(emulation.interpreter(tmp_path, *lacking)))
    checks = {c.name: c for c in doctor_module.sandboxed_run()}
    assert checks["isolation"].state is State.PROBLEM
    assert checks["isolation"].found.startswith("tier S0")
    assert "sandbox.require: S0" in checks["isolation"].remedy
    for name, why in (
        ("seccomp", "ENOSYS"),
        ("landlock", "ENOTSUP"),
        ("network_namespace", "EPERM"),
        ("self_tests", "UDP socket (allowed)"),
    ):
        assert checks[name].state is State.WARNING
        assert why in checks[name].found
        assert checks[name].remedy
    assert "fork" not in checks["self_tests"].found
    assert checks["limits"].state is State.OK


def test_whatever_is_not_ok_has_a_remedy(report):
    assert all(check.remedy for check in report.checks if check.state is not State.OK)


def test_json_and_text_say_the_same(report):
    checks = json.loads(report.to_json())["checks"]
    text = report.to_text()
    assert [c["name"] for c in checks] == NAMES
    assert all(c["found"] in text and c["remedy"] in text for c in checks)


def test_one_problem_is_an_exit_code():
    problem = Check(name="disk", state=State.PROBLEM, found="full", remedy="Free some space.")
    assert DoctorReport(checks=(problem,)).exit_code == 3


def test_a_model_that_cannot_run_is_a_problem(monkeypatch):
    monkeypatch.setattr(doctor_module, "ONE_NODE", b"no protobuf")
    (check,) = doctor_module.sandboxed_run()
    assert (check.name, check.state) == ("onnxruntime", State.PROBLEM)


def test_the_named_registry_is_read(registry, make_model):
    assert doctor_module.registry(registry.uri).found == f"{registry.uri}, has no models yet"
    registry.register(make_model())
    assert doctor_module.registry(registry.uri).found == f"{registry.uri}, has models"


def test_a_registry_that_is_not_there(tmp_path):
    check = doctor_module.registry(f"sqlite:///{tmp_path}/absent.db")
    assert check.state is State.PROBLEM
    assert "there is no database" in check.found
    assert check.remedy


def test_packages_that_are_not_as_declared(monkeypatch):
    declared = ["numpy<1", "click>=8", "surely-not-installed-42", "mypy==0; extra == 'test'"]
    monkeypatch.setattr(doctor_module.importlib.metadata, "requires", lambda _name: declared)
    check = doctor_module.packages()
    assert check.state is State.PROBLEM
    numpy, absent = check.found.split("; ")
    assert numpy.endswith("declared: numpy<1")
    assert absent == "surely-not-installed-42 is missing (surely-not-installed-42)"


def test_a_package_that_is_not_installed_is_said():
    assert doctor_module.packages("surely-not-installed-42").state is State.WARNING


def test_disk_of_a_folder_that_does_not_exist_yet(tmp_path):
    check = machine.disk(tmp_path / "a" / "b")
    assert "GiB free for" in check.found
    assert not (tmp_path / "a").exists()


def test_a_cache_that_is_a_file(tmp_path):
    (tmp_path / "cache").write_text("")
    assert machine.disk(tmp_path / "cache").state is State.PROBLEM


def test_a_clock_before_the_installation():
    check = machine.clock(ts_ns_from_iso("1999-12-31T00:00:00Z", "test"))
    assert check.state is State.PROBLEM
    assert "1999-12-31" in check.found


def test_without_a_registry_mlflow_is_not_imported(tmp_path):
    program = "import sys; from harness.pipeline.doctor import doctor; doctor()"
    program += "; print(*sorted({'mlflow', 'onnx', 'onnxruntime', 'pandas'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, check=True, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.strip() == ""

"""Gates of models that reach for files, and gates on machines that isolate less, as whole commands."""

import ast
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import emulation
import pytest
from gates import FEW_ALONE, REFACTOR, reaching, tiny_model, tiny_traffic

pytestmark = pytest.mark.usefixtures("each_look_anew", "each_process_started")

REPOSITORY = Path(__file__).parents[2]
AS_OF = "2020-12-01T00:00:00Z"
RUN = f"""
import sys
from harness.cli.entry import run
from harness.pipeline import alone
alone.WANTED = {FEW_ALONE}
sys.exit(run(sys.argv[1:]))
"""
SEALED_OFF = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("onnx", "onnxruntime"):
            raise AssertionError("the parent imports " + name)
sys.meta_path.insert(0, Refuse())
{RUN}
"""


@pytest.fixture
def folder(tmp_path, write_policy):
    """Baseline, candidate, traffic and policy in a folder that anyone may use."""
    with tempfile.TemporaryDirectory(prefix="isolation-") as name:
        place = Path(name)
        tiny_model(place / "baseline.onnx")
        tiny_model(place / "candidate.onnx")
        tiny_traffic(place / "traffic")
        (place / "policy.yaml").write_bytes(write_policy(REFACTOR).read_bytes())
        for path in (place, *place.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o666)
        yield place


def command(folder, words, *, program=RUN, before=()) -> subprocess.CompletedProcess[str]:
    """Runs a harness command in a process of its own, on what the fixture made."""
    return subprocess.run(
        [*before, sys.executable, "-c", program, *words],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "HOME": str(folder),
            "HARNESS_CACHE_DIR": str(folder / "cache"),
            "HARNESS_STATE_DIR": str(folder / "state"),
        },
    )  # fmt: skip


GATE = (
    "gate", "baseline.onnx", "candidate.onnx", "--traffic", "traffic", "--policy", "policy.yaml",
    "--as-of", AS_OF, "--out", "run", "-q",
)  # fmt: skip
COMPARE = ("compare", "baseline.onnx", "candidate.onnx", "--inputs", "traffic", "-q")


@pytest.mark.parametrize("location", ["/etc/passwd", "../../../../../../etc/passwd", "link"])
def test_a_model_that_wants_a_system_file_is_rolled_back(folder, location):
    (folder / "link").symlink_to("/etc/passwd")
    reaching(folder / "candidate.onnx", location)
    ran = command(folder, GATE)
    assert ran.returncode == 1, ran.stderr
    decision = json.loads((folder / "run" / "decision.json").read_text())
    assert decision["decision"] == "ROLLBACK"
    found = json.loads((folder / "run" / "findings.json").read_text())["findings"]
    assert any("is no file beside the model" in finding["what"] for finding in found)
    kept = [p for p in (folder / "run").rglob("*") if p.is_file()]
    assert not [p for p in kept if b"root:x:0" in p.read_bytes()]


@pytest.mark.parametrize("location", ["/etc/passwd", "link"])
def test_a_baseline_that_wants_a_system_file_is_held(folder, location):
    (folder / "link").symlink_to("/etc/passwd")
    reaching(folder / "baseline.onnx", location)
    ran = command(folder, GATE)
    assert ran.returncode == 3, ran.stderr


@pytest.mark.parametrize(
    ("lacking", "tier"),
    [(("user",), "S3"), (("user", "no-namespaces", "no-landlock"), "S2")],
    ids=["unprivileged", "unprivileged_in_a_container"],
)
def test_a_gate_as_an_ordinary_user(folder, lacking, tier):
    ran = command(folder, GATE, before=emulation.command(*lacking))
    assert ran.returncode == 0, ran.stderr
    isolation = json.loads((folder / "run" / "manifest.json").read_text())["isolation"]
    assert isolation["tier"] == tier
    assert not isolation["allowed_below"]
    assert all(test["refused"] for test in isolation["self_tests"])
    off = {layer["name"] for layer in isolation["layers"] if not layer["on"]}
    assert {"landlock", "network_namespace"} <= off if tier == "S2" else not off


def test_compare_refuses_a_weak_sandbox_unless_it_is_told(folder):
    weak = emulation.command("no-seccomp")
    refused = command(folder, COMPARE, before=weak)
    assert refused.returncode == 2
    assert "requires S2" in refused.stderr
    told = command(folder, (*COMPARE, "--allow-lower-isolation"), before=weak)
    assert told.returncode == 0, told.stderr
    assert "isolation S1, below S2: explicitly allowed" in told.stdout


@pytest.mark.parametrize("words", [GATE, COMPARE], ids=["gate", "compare"])
def test_a_machine_that_refuses_memory_files_is_told_so(folder, words):
    ran = command(folder, words, before=emulation.command("no-memory-files"))
    assert ran.returncode == 2, ran.stderr
    assert "refuses sealed memory files (memfd_create: " in ran.stderr
    assert "a container profile that allows memfd_create" in ran.stderr


@pytest.mark.parametrize("words", [GATE, COMPARE], ids=["gate", "compare"])
def test_the_parent_never_imports_what_parses_models(folder, words):
    ran = command(folder, words, program=SEALED_OFF)
    assert ran.returncode == 0, ran.stderr
    # A comparison says it where less was allowed than the policy requires; a gate always does.
    assert words is GATE or "isolation" not in ran.stdout


def test_no_module_of_the_parent_can_parse_a_model():
    """Only the programs that lock themselves import onnx or onnxruntime.

    Benchmarks aside: they run models of their own making in this process, to compare.
    """
    package = REPOSITORY / "harness"
    importing = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if not path.is_relative_to(package / "bench")
        for node in ast.walk(ast.parse(path.read_text()))
        if _imported(node) & {"onnx", "onnxruntime"}
    }
    locked = {p for p in importing if p.startswith(("sandbox/child/", "sandbox/graph_"))}
    assert locked
    assert importing == locked


def _imported(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    return {(node.module or "").split(".")[0]} if isinstance(node, ast.ImportFrom) else set()

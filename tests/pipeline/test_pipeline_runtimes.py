"""Each version runs in the runtime that it pins, and the report says so where the two differ."""

import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from gates import MODELS, REFACTOR, ROOT, tiny_model, tiny_traffic

from harness.core.errors import EnvironmentUnavailableError, UsageError
from harness.core.findings import Severity
from harness.core.policies import GraphPolicy, SandboxPolicy
from harness.pipeline.compare import compare_models
from harness.pipeline.gate import run_gate
from harness.pipeline.opening import LegRecipe, look_at, open_legs
from harness.pipeline.progress import silent
from harness.pipeline.runtimes import LegRuntime, check_same, environment_findings, runtimes
from harness.resolve import pin
from harness.sandbox.hello import LoadFailure

pytestmark = pytest.mark.usefixtures("each_look_anew", "each_process_started")

OTHER = "1.26.0"
LIMITS = SandboxPolicy(require="S0")
RUNNING = {name: importlib.metadata.version(name) for name in ("onnxruntime", "numpy")}


def pinned(folder: Path, model: Path, *requirements: str) -> str:
    """An MLflow model folder with these requirements; returns its path."""
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model.read_bytes())
    about = {
        "flavors": {"onnx": {"data": "model.onnx"}},
        "metadata": {"harness.training_cutoff": "2020-01-01T00:00:00Z"},
    }
    (folder / "MLmodel").write_text(yaml.safe_dump(about))
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements))
    return str(folder)


@pytest.fixture
def tiny(tmp_path):
    return tiny_model(tmp_path / "tiny.onnx")


def looked(tmp_path, *references):
    models = [pin(r, tmp_path / "pins") for r in references]
    found = runtimes(models, silent)
    return look_at(models, LIMITS, tmp_path / "probes", [r.python for r in found]), found


def test_a_version_that_pins_the_running_runtime_gets_no_environment(tiny, tmp_path):
    same = pinned(
        tmp_path / "same", tiny, *(f"{n}=={v}" for n, v in RUNNING.items()), "pandas==1.0"
    )
    _, (old, new) = looked(tmp_path, str(tiny), same)
    assert (old.python, new.python) == (None, None)
    assert new.left_out == ("pandas",)


def test_the_look_is_in_the_versions_own_runtime(tmp_path):
    # Its Cos in double is known to the running onnxruntime and not to 1.26.
    flights = MODELS / "v2.onnx"
    other = pinned(tmp_path / "other", flights, f"onnxruntime=={OTHER}")
    (here, there), _ = looked(tmp_path, str(flights), other)
    assert not isinstance(here, LoadFailure)
    assert isinstance(there, LoadFailure)
    assert there.kind == "load"
    assert "Cos" in there.message


def test_signature_and_features_come_from_there_too(tiny, tmp_path):
    other = pinned(tmp_path / "other", tiny, f"onnxruntime=={OTHER}")
    (here, there), _ = looked(tmp_path, str(tiny), other)
    assert not isinstance(here, LoadFailure)
    assert not isinstance(there, LoadFailure)
    assert there.graph.runtime == OTHER
    assert here.graph.runtime == RUNNING["onnxruntime"]
    assert there.graph.signature == here.graph.signature
    assert there.graph.features == ("doubled",)
    assert there.probe is not None


def test_a_gate_says_what_each_version_ran_in(tiny, tmp_path, write_policy, windows):
    other = pinned(tmp_path / "other", tiny, f"onnxruntime=={OTHER}", "scikit-learn==1.2.0")
    result = run_gate(
        str(tiny), other, traffic=[tiny_traffic(tmp_path / "traffic")],
        policy=write_policy(REFACTOR), out=tmp_path / "run", cache_dir=windows,
    )  # fmt: skip
    saved = json.loads((result.run / "decision.json").read_text())
    old, new = saved["baseline"]["runtime"], saved["candidate"]["runtime"]
    assert (old["own_environment"], new["own_environment"]) == (False, True)
    assert old["packages"]["onnxruntime"] == RUNNING["onnxruntime"]
    assert new["packages"]["onnxruntime"] == OTHER
    assert new["because_of"] == [f"onnxruntime=={OTHER}"]
    assert new["left_out"] == ["scikit-learn"]
    assert (old["not_pinned"], new["not_pinned"]) == (["onnxruntime", "numpy"], ["numpy"])
    assert "not pinned: numpy" in (result.run / "report.html").read_text()
    found = {f.kind: f for f in result.findings}
    told = f"onnxruntime {RUNNING['onnxruntime']} → {OTHER}"
    assert told in found["environment_differs"].what
    assert told in (result.run / "report.html").read_text()
    # They answer alike: a different runtime is worth knowing, and no harm.
    assert found["environment_differs"].severity is Severity.INFO
    assert "same_bytes_other_runtime" not in found
    assert result.exit_code == 0


def test_compare_names_the_runtime_where_the_bytes_are_equal(some_flights, windows):
    folder = ROOT / "scenarios" / "runtime-difference"
    result = compare_models(
        str(folder / "baseline"), str(folder / "candidate"), inputs=[some_flights], limit=200,
        cache_dir=windows,
    )  # fmt: skip
    assert result.exit_code == 1
    assert result.findings[0].kind == "same_bytes_other_runtime"
    assert result.findings[0].severity is Severity.HARM
    assert f"onnxruntime 1.25.1 → {OTHER}" in result.findings[0].what
    assert {c["name"]: c["verdict"] for c in result.intermediates["outputs"]} == {
        "probability": "equal",
        "label": "differs",
    }


FORMS = {
    "a byte order mark": {"requirements.txt": f"\ufeffonnxruntime=={OTHER}\nnumpy==2.4.6\n"},
    "a constraint": {
        "requirements.txt": "-c constraints.txt\nonnxruntime\nnumpy==2.4.6\n",
        "constraints.txt": f"onnxruntime=={OTHER}\n",
    },
    "conda": {
        "requirements.txt": "numpy==2.4.6\n",
        "conda.yaml": f"dependencies:\n- python=3.11\n- onnxruntime={OTHER}\n",
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_the_other_runtime_is_found_however_it_is_pinned(form, some_flights, windows, tmp_path):
    folder = ROOT / "scenarios" / "runtime-difference"
    candidate = tmp_path / "candidate"
    shutil.copytree(folder / "candidate", candidate)
    for name, text in FORMS[form].items():
        (candidate / name).write_text(text)
    result = compare_models(
        str(folder / "baseline"), str(candidate), inputs=[some_flights], limit=200,
        looked_into=GraphPolicy(requests=0), cache_dir=windows,
    )  # fmt: skip
    assert result.exit_code == 1
    assert result.findings[0].kind == "same_bytes_other_runtime"


def test_what_a_version_leaves_open_is_told_as_not_pinned(tiny, tmp_path):
    other = pinned(tmp_path / "other", tiny, f"onnxruntime=={OTHER}", "numpy==2.4.6")
    models = [pin(reference, tmp_path / "pins") for reference in (str(tiny), other)]
    versions = {"baseline": {"onnxruntime": "1"}, "candidate": {"onnxruntime": "2"}}
    found = environment_findings(models, versions, differ=False)
    assert found[0].what.endswith(
        "onnxruntime 1 → 2 (not pinned by the baseline: onnxruntime, numpy)"
    )


def test_the_scenarios_two_models_are_the_forest():
    models = [ROOT / "scenarios" / "runtime-difference" / r for r in ("baseline", "candidate")]
    assert {(m / "model.onnx").read_bytes() for m in models} == {
        (MODELS / "forest.onnx").read_bytes()
    }


def test_a_runtime_that_cannot_be_had_is_no_verdict(tiny, tmp_path, write_policy, windows):
    none = pinned(tmp_path / "none", tiny, "onnxruntime==1.26.99")
    with pytest.raises(EnvironmentUnavailableError, match=r"1\.26\.99.*cannot be built"):
        run_gate(
            str(tiny), none, traffic=[tiny_traffic(tmp_path / "traffic")],
            policy=write_policy(REFACTOR), out=tmp_path / "run", cache_dir=windows,
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_it_is_exit_2_on_the_command_line(tiny, tmp_path, harness, write_policy):
    none = pinned(tmp_path / "none", tiny, "onnxruntime==1.26.99")
    ran = harness(
        "gate", tiny, none, "--traffic", tiny_traffic(tmp_path / "traffic"), "--policy",
        write_policy(REFACTOR),
    )  # fmt: skip
    assert ran.code == 2
    assert "no version of onnxruntime==1.26.99" in ran.err


def test_a_run_does_not_go_on_in_another_runtime():
    now = LegRuntime(python=None, packages=(("numpy", "2.4.6"), ("onnxruntime", "1.31.1")))
    same = {"packages": {"onnxruntime": "1.31.1", "numpy": "2.4.6"}}
    other = {"packages": {"onnxruntime": "1.31.0", "numpy": "2.4.6"}}
    check_same((now, now), {"runtimes": {"baseline": same, "candidate": same}})
    with pytest.raises(
        UsageError, match=r"runtime of the candidate: was .*1\.31\.0.* is .*1\.31\.1"
    ):
        check_same((now, now), {"runtimes": {"baseline": same, "candidate": other}})


@pytest.mark.parametrize(
    ("part", "differ", "kinds"),
    [
        ("onnxruntime", True, ["same_bytes_other_runtime", "environment_differs"]),
        ("numpy", True, ["same_bytes_other_runtime", "environment_differs"]),
        ("onnxruntime", False, ["environment_differs"]),
        ("python", True, ["environment_differs"]),
        (None, True, []),
    ],
)
def test_what_a_difference_of_environments_explains(part, differ, kinds, tiny, tmp_path):
    model = pin(str(tiny), tmp_path / "pins")
    before = {"onnxruntime": "1", "numpy": "1", "python": "1"}
    versions = {"baseline": before, "candidate": {**before, **({part: "2"} if part else {})}}
    found = environment_findings((model, model), versions, differ=differ)
    assert [f.kind for f in found] == kinds


def test_a_leg_whose_environment_breaks_is_no_verdict(tiny, tmp_path):
    # A bare environment: the same interpreter, no packages.
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    recipe = LegRecipe(role="candidate", model=tiny, limits=LIMITS, python=bare / "bin" / "python")
    with (
        pytest.raises(
            EnvironmentUnavailableError, match=r"does not get as far.*No module named 'numpy'"
        ),
        open_legs(recipe) as legs,
    ):
        assert legs[0].load_failure


def test_other_bytes_are_not_explained_by_the_runtime(tiny, tmp_path):
    models = [
        pin(str(m), tmp_path / "pins")
        for m in (tiny, tiny_model(tmp_path / "b.onnx", raised="Add({x}, {x})"))
    ]
    versions = {"baseline": {"onnxruntime": "1"}, "candidate": {"onnxruntime": "2"}}
    found = environment_findings(models, versions, differ=True)
    assert [f.kind for f in found] == ["environment_differs"]

"""Golden rows through the command line: made with a version, checked before any traffic."""

import json
import shutil

import numpy as np
import pytest
from gates import REFACTOR, tiny_model, tiny_traffic

from harness.cli import terminal
from harness.pipeline.registry import register


@pytest.fixture
def model(tmp_path):
    return tiny_model(tmp_path / "old.onnx")


@pytest.fixture
def traffic(tmp_path):
    return tiny_traffic(tmp_path / "traffic")


@pytest.fixture
def golden(model, traffic, harness):
    ran = harness("golden", "make", model, "-i", traffic)
    assert ran.code == 0, ran.err
    return model.with_suffix(".golden.npz")


def changed(path, **arrays):
    with np.load(path, allow_pickle=False) as saved:
        content = {n: saved[n] for n in saved.files}
    content.update(arrays)
    np.savez(path, **{n: v for n, v in content.items() if v is not None})


def gate(harness, old, new, traffic, write_policy, out):
    ran = harness(
        "gate", old, new, "-t", traffic, "-p", write_policy(REFACTOR), "-o", out, "--json"
    )
    return ran.code, json.loads(ran.out) if ran.out else {}, ran.err


@pytest.mark.parametrize(("options", "told"), [((), True), (("-q",), False)])
def test_making_them_draws_progress_unless_it_is_to_be_quiet(
    options, told, model, traffic, harness, monkeypatch
):
    monkeypatch.setattr(terminal, "_LOG_EVERY_S", 0.001)
    ran = harness("golden", "make", model, "-i", traffic, *options)
    assert (ran.code, bool(ran.err)) == (0, told)


def test_a_version_reproduces_the_rows_that_were_made_from_it(golden, model, traffic, harness):
    ran = harness("compare", model, model, "-i", traffic, "--json")
    told = json.loads(ran.out)
    found = [f["where"] for f in told["findings"] if f["kind"] == "golden_rows_reproduced"]
    assert (ran.code, found) == (0, ["baseline", "candidate"])


def test_versions_without_golden_rows_are_no_error_and_it_is_said(model, traffic, harness):
    ran = harness("compare", model, model, "-i", traffic, "-q")
    assert ran.code == 0
    assert "not compared: baseline: no golden rows were logged with it" in ran.out


@pytest.mark.parametrize("part", ["feature:doubled", "output:probability"])
def test_a_candidate_that_does_not_reproduce_them_is_rolled_back(part, golden, harness, request):
    model, traffic, write_policy, tmp_path = map(
        request.getfixturevalue, ("model", "traffic", "write_policy", "tmp_path")
    )
    first = part.partition(":")[2]
    new = shutil.copy(model, tmp_path / "new.onnx")
    rows = shutil.copy(golden, tmp_path / "new.golden.npz")
    with np.load(rows) as saved:
        changed(rows, **{part: saved[part] / 2})
    code, told, _ = gate(harness, model, new, traffic, write_policy, tmp_path / "run")
    assert (code, told["decision"], told["reason"]) == (1, "ROLLBACK", "candidate_not_reproduced")
    assert f"{first} differs in 64 of 64 rows, first in row 0" in told["explanation"]
    assert "now = then × 2" in told["explanation"]
    assert harness("compare", model, new, "-i", traffic).code == 1


def test_golden_rows_are_held_to_the_scale_of_each_column(tmp_path, harness):
    import onnx
    from onnx import parser

    graph = "<ir_version: 9, opset_import: ['' : 17]> g (float[n, 3] x) => (float[n, 3] y) { y = Neg(x) }"
    model = tmp_path / "two.onnx"
    onnx.save_model(parser.parse_model(graph.replace("'", '"')), str(model))
    rows = np.random.default_rng(5).uniform(1, 2, (64, 3)).astype(np.float32)
    traffic = tmp_path / "x.npz"
    np.savez(traffic, x=rows * np.float32([1e5, 1e5, 0.05]))
    assert harness("golden", "make", model, "-i", traffic).code == 0
    golden = model.with_suffix(".golden.npz")
    with np.load(golden) as saved:
        changed(golden, **{"output:y": saved["output:y"] * np.float32([1, 1, 2])})
    ran = harness("compare", model, model, "-i", traffic)
    assert ran.code == 2
    assert "now = then × 0.5" in ran.out


def test_a_baseline_that_does_not_reproduce_them_holds(
    golden, model, traffic, harness, write_policy, tmp_path
):
    with np.load(golden) as saved:
        changed(golden, **{"feature:doubled": saved["feature:doubled"] + 1})
    new = shutil.copy(model, tmp_path / "new.onnx")
    code, told, _ = gate(harness, model, new, traffic, write_policy, tmp_path / "run")
    assert (code, told["reason"]) == (3, "baseline_not_reproduced")
    assert harness("compare", model, new, "-i", traffic).code == 2


def test_a_gate_of_versions_that_do_promotes_and_says_so(
    golden, model, traffic, harness, write_policy, tmp_path
):
    new = shutil.copy(model, tmp_path / "new.onnx")
    code, told, _ = gate(harness, model, new, traffic, write_policy, tmp_path / "run")
    assert code == 0
    assert "candidate: no golden rows were logged with it" in told["not_compared"]
    assert "baseline: no golden rows were logged with it" not in told["not_compared"]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"model": np.array("0" * 64)}, "of the version 000000000000"),
        ({"feature:dubled": np.zeros(64)}, "did you mean 'doubled'?"),
        ({"output:score": np.zeros(64)}, "output:score is no output"),
        ({"input:x": None, "input:y": np.zeros(64, np.float32)}, "there is no input:x"),
        ({"input:x": np.zeros(3, np.float32)}, "the same number of rows"),
        ({"doubled": np.zeros(64)}, "is none of input:NAME"),
        ({"format": np.array("other")}, "its format is 'other'"),
        ({"feature:doubled": np.array([None] * 64)}, "cannot be read"),
    ],
)
def test_wrong_golden_rows_are_refused(arrays, words, golden, model, traffic, harness):
    changed(golden, **arrays)
    ran = harness("compare", model, model, "-i", traffic)
    assert ran.code == 2
    assert words in ran.err


def test_a_damaged_file_is_refused(golden, model, traffic, harness):
    golden.write_bytes(golden.read_bytes()[:200])
    ran = harness("compare", model, model, "-i", traffic)
    assert (ran.code, "cannot be read" in ran.err) == (2, True)


def test_golden_rows_are_not_written_over(golden, model, traffic, harness):
    ran = harness("golden", "make", model, "-i", traffic)
    assert (ran.code, "there already" in ran.err) == (2, True)


def test_they_travel_with_a_registered_version(golden, model, traffic, harness, registry):
    registry.register(model, name="tiny")
    ran = harness(
        "compare", "models:/tiny/1", model, "-i", traffic, "--registry", registry.uri, "--json"
    )
    told = json.loads(ran.out)
    found = [f["where"] for f in told["findings"] if f["kind"] == "golden_rows_reproduced"]
    assert found == ["baseline", "candidate"]


def test_without_a_place_for_them_there_must_be_out(traffic, harness):
    ran = harness("golden", "make", "models:/tiny/1", "-i", traffic)
    assert (ran.code, "--out" in ran.err) == (2, True)


@pytest.fixture
def registered(model, tmp_path, registry_template):
    """A registry with the model as its only version, and its URI."""
    shutil.copyfile(registry_template, tmp_path / "registry.db")
    uri = f"sqlite:///{tmp_path / 'registry.db'}"
    assert register(model, name="tiny", registry_uri=uri, alias="champion") == "1"
    return uri


def test_rows_are_logged_as_an_artefact_of_a_registered_version(
    registered, model, traffic, harness
):
    log = ("golden", "make", "models:/tiny/1", "-i", traffic, "--registry", registered)
    ran = harness(*log, "--log-to", "models:/tiny@champion")
    assert (ran.code, ran.out) == (0, "models:/tiny/1: golden rows of models:/tiny/1\n")
    pair = ("compare", "models:/tiny/1", "models:/tiny@champion", "-i", traffic)
    told = json.loads(harness(*pair, "--registry", registered, "--json").out)
    kinds = [f["where"] for f in told["findings"] if f["kind"] == "golden_rows_reproduced"]
    assert kinds == ["baseline", "candidate"]
    again = harness(*log, "--log-to", "models:/tiny/1")
    assert (again.code, "logged with it already" in again.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--log-to", "models:/tiny/7"), "tiny has no version 7"),
        (("--log-to", "elsewhere"), "this is no registered version"),
        (("--log-to", "models:/tiny/1", "--out", "rows.npz"), "cannot be combined with --out"),
    ],
)
def test_where_rows_cannot_be_logged_is_told(words, said, registered, model, traffic, harness):
    ran = harness("golden", "make", model, "-i", traffic, "--registry", registered, *words)
    assert ran.code == 2
    assert said in ran.err


def test_rows_of_another_version_are_not_logged(registered, traffic, harness, tmp_path):
    other = tiny_model(tmp_path / "other.onnx", raised="Abs({x})")
    to = ("--registry", registered, "--log-to", "models:/tiny/1")
    ran = harness("golden", "make", other, "-i", traffic, *to)
    assert ran.code == 2
    assert "models:/tiny/1: is another version" in ran.err

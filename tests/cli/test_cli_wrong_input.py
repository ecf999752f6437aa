"""What a user gives wrong: exit code 2, where, what and remedy, and nothing left behind.

The fixture `harness` fails every test whose command prints a traceback.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import emulation
import numpy as np
import pytest
from gates import MODELS, REFACTOR, RETRAIN, tiny_model, tiny_traffic

TINY_AS_OF = "2020-12-01T00:00:00Z"
BASELINE, CANDIDATE = MODELS / "v1.onnx", MODELS / "v2.onnx"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with a tiny model as baseline.onnx and candidate.onnx, and traffic/ with labels."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_model(folder / "baseline.onnx")
    tiny_model(folder / "candidate.onnx")
    tiny_traffic(folder / "traffic", labels=True)
    return folder


@pytest.fixture
def gate(harness, tiny, write_policy, tmp_path):
    """`harness gate` on the tiny model with any part replaced; checks what must hold for all ends."""
    out = tmp_path / "out" / "run"

    def run(baseline=None, candidate=None, *more, traffic=None, policy=None):
        traffic = traffic or tiny / "traffic"
        before = hashes(traffic)
        ran = harness(
            "gate", baseline or tiny / "baseline.onnx", candidate or tiny / "candidate.onnx",
            "--traffic", traffic, "--policy", policy or write_policy(REFACTOR), "--out", out,
            "-q", *more,
        )  # fmt: skip
        assert hashes(traffic) == before
        return ran

    run.out = out
    return run


def hashes(path):
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def assert_refused(ran, *said, out=None):
    """Exit code 2, and a message `where: what.` with a remedy on a line of its own."""
    assert ran.code == 2, ran.err
    assert ran.out == ""
    first, remedy = ran.err.strip().split("\n", 1)
    assert first.startswith("harness: ")
    assert first.count(": ") >= 2
    assert len(remedy.split()) >= 2
    for words in said:
        assert words.lower() in ran.err.lower()
    if out is not None:
        assert not out.exists()


def test_the_tiny_gate_promotes_when_nothing_is_wrong(gate):
    assert gate(None, None, "--as-of", TINY_AS_OF).code == 0


# traffic


def test_traffic_that_is_not_there(gate, tmp_path):
    missing = tmp_path / "no-traffic"
    assert_refused(gate(traffic=missing), str(missing), "no such file or folder", out=gate.out)


def test_a_folder_without_parquet(gate, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert_refused(gate(traffic=empty), str(empty), "no .parquet file", out=gate.out)


def damaged(tiny, tmp_path, change):
    folder = Path(shutil.copytree(tiny / "traffic", tmp_path / "damaged"))
    file = next(folder.glob("*.parquet"))
    file.write_bytes(change(file.read_bytes()))
    return folder


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b[: len(b) // 2],
        lambda b: b[:-1000],
        lambda _: b"",
        lambda _: b"no parquet at all",
        lambda b: b[:2000] + bytes(200) + b[2200:],
    ],
    ids=["half", "no footer", "empty", "other", "zeros inside"],
)
@pytest.mark.parametrize("command", ["gate", "show", "seal", "compare"])
def test_damaged_parquet(command, change, gate, harness, tiny, tmp_path):
    folder = damaged(tiny, tmp_path, change)
    name = next(folder.glob("*.parquet")).name
    model = tiny / "baseline.onnx"
    match command:
        case "gate":
            ran = gate(traffic=folder)
        case "show":
            ran = harness("traffic", "show", folder)
        case "seal":
            ran = harness("traffic", "seal", folder, "--out", tmp_path / "window")
        case _:
            ran = harness("compare", model, model, "--inputs", folder)
    assert_refused(ran, name, "damaged", out=gate.out)
    assert not (tmp_path / "window").exists()


def test_damaged_parquet_is_named_with_its_folder(gate, harness, tiny, tmp_path):
    folder = damaged(tiny, tmp_path, lambda b: b[:-1000])
    file = str(next(folder.glob("*.parquet")))
    assert_refused(gate(traffic=folder), file)
    assert_refused(harness("traffic", "show", folder), file)


def test_a_text_file_that_is_called_npz(gate, tmp_path):
    (tmp_path / "a.npz").write_text("x,y\n1,2\n")
    ran = gate(traffic=tmp_path / "a.npz")
    assert_refused(ran, str(tmp_path / "a.npz"), "is no .npz file", out=gate.out)
    assert "Python objects" not in ran.err


def test_parquet_of_another_kind(gate, tmp_path, harness, tiny):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "other"
    folder.mkdir()
    pq.write_table(pa.table({"a": [1]}), folder / "a.parquet")
    assert_refused(gate(traffic=folder), "no column", out=gate.out)


def test_traffic_that_lacks_an_input(gate, tmp_path):
    other = tiny_traffic(tmp_path / "other", 50, name="z")
    assert_refused(gate(traffic=other), "x", out=gate.out)


def test_traffic_with_another_type(gate, tmp_path, write_policy):
    np.savez(tmp_path / "words.npz", x=np.array(["a", "b"]))
    assert_refused(gate(traffic=tmp_path / "words.npz"), "x", out=gate.out)


def test_an_empty_recording_is_a_hold(gate, tmp_path):
    import pyarrow.parquet as pq

    from harness.store.traffic import SCHEMA

    folder = tmp_path / "nothing"
    folder.mkdir()
    pq.write_table(SCHEMA.empty_table(), folder / "none.parquet")
    ran = gate(traffic=folder)
    assert ran.code == 3
    assert "holds nothing to judge" in ran.out


def test_a_sealed_window_that_was_changed(gate, harness, tiny, tmp_path):
    window = tmp_path / "window"
    assert harness("traffic", "seal", tiny / "traffic", "--out", window).code == 0
    columns = bytearray((window / "columns.arrow").read_bytes())
    columns[len(columns) // 2] ^= 1
    (window / "columns.arrow").write_bytes(columns)
    assert_refused(gate(traffic=window), str(window), out=gate.out)


def test_a_window_folder_that_is_taken(harness, tiny, tmp_path):
    (tmp_path / "window").mkdir()
    (tmp_path / "window" / "mine.txt").write_text("mine")
    assert_refused(
        harness("traffic", "seal", tiny / "traffic", "--out", tmp_path / "window"), "window"
    )
    assert (tmp_path / "window" / "mine.txt").read_text() == "mine"


# labels


def test_labels_that_are_not_there(gate, tmp_path):
    assert_refused(gate(None, None, "--labels", tmp_path / "none"), "none", out=gate.out)


def test_a_damaged_label_file(gate, tmp_path, write_policy):
    bad = tmp_path / "labels.parquet"
    bad.write_bytes(b"PAR1 no labels")
    ran = gate(None, None, "--labels", bad, policy=write_policy(RETRAIN))
    assert_refused(ran, "labels.parquet", "damaged", out=gate.out)


def test_a_label_file_with_other_columns(gate, tmp_path, write_policy):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"request_ids": ["t-1"], "label": [1.0]}), tmp_path / "l.parquet")
    ran = gate(None, None, "--labels", tmp_path / "l.parquet", policy=write_policy(RETRAIN))
    assert_refused(ran, "did you mean 'request_ids'?", out=gate.out)


# policy


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version: 1\npreset: retrain\nguardrials: []\n", "did you mean 'guardrails'?"),
        ("version: 1\npreset: [\n", "line"),
        ("version: 1\npreset: retrian\n", "did you mean 'retrain'?"),
        ("version: 2\npreset: retrain\n", "version"),
        ("", "version"),
        ("- a\n- b\n", "policy.yaml"),
        ("version: 1\npreset: refactor\nalpha: {promote: 0.9}\n", "alpha"),
        ("version: 1\npreset: refactor\nsandbox: {require: S9}\n", "S9"),
        ("version: 1\npreset: refactor\nwindows: {newest: {days: soon}}\n", "days"),
        ("version: 1\npreset: refactor\nversion: 1\n", "version"),
    ],
    ids=["key", "yaml", "preset", "version", "empty", "list", "alpha", "tier", "days", "twice"],
)
def test_a_policy_that_cannot_be_read(text, said, gate, tmp_path):
    (tmp_path / "policy.yaml").write_text(text)
    ran = gate(policy=tmp_path / "policy.yaml")
    assert_refused(ran, "policy.yaml", said, out=gate.out)


def test_a_policy_that_is_a_folder(gate, tmp_path):
    assert_refused(gate(policy=tmp_path), str(tmp_path), "cannot be read", out=gate.out)


def test_a_policy_that_is_no_text(gate, tmp_path):
    (tmp_path / "policy.yaml").write_bytes(b"\xff\xfe\x00version")
    assert_refused(gate(policy=tmp_path / "policy.yaml"), "cannot be read", out=gate.out)


def test_a_policy_that_is_not_there(gate, tmp_path):
    assert_refused(gate(policy=tmp_path / "none.yaml"), "none.yaml", out=gate.out)


@pytest.mark.parametrize("part", ["output", "score"])
def test_a_decision_by_an_output_that_is_not_there(part, gate, write_policy):
    decision = {**REFACTOR["decision"], part: "labell"}
    ran = gate(policy=write_policy(REFACTOR, decision=decision))
    assert_refused(ran, "labell", "did you mean 'label'?", out=gate.out)


def test_expected_changes_that_no_version_has(gate, write_policy):
    guardrails = [
        {"name": "features", "metric": "parity_mismatch", "scope": "features", "margin": 0.05,
         "expected_changes": ["doubbled"]},
    ]  # fmt: skip
    ran = gate(policy=write_policy(REFACTOR, guardrails=guardrails))
    assert_refused(ran, "doubbled", "did you mean 'doubled'?", out=gate.out)


@pytest.fixture
def no_filter(monkeypatch, tmp_path):
    """This machine without system call filters: no more than S1."""
    monkeypatch.setattr(sys, "executable", str(emulation.interpreter(tmp_path, "no-seccomp")))


@pytest.mark.usefixtures("no_filter")
def test_a_stronger_sandbox_than_there_is(gate):
    assert_refused(gate(), "requires S2", "gives S1", "harness doctor", out=gate.out)


@pytest.mark.usefixtures("no_filter")
def test_a_weaker_sandbox_that_is_allowed_is_told_everywhere(gate):
    ran = gate(None, None, "--allow-lower-isolation", "--as-of", TINY_AS_OF)
    assert ran.code == 0
    decision = json.loads((gate.out / "decision.json").read_text())
    assert decision["isolation"]["tier"] == "S1"
    assert decision["isolation"]["allowed_below"]
    for page in ("report.html", "summary.md"):
        text = (gate.out / page).read_text()
        assert "S2" in text
        assert "S1" in text
    assert "S2" in ran.out


# command


@pytest.mark.parametrize("as_of", ["yesterday", "2013-13-01", "", "20130101T", "12345"])
def test_a_time_that_is_none(as_of, gate):
    ran = gate(None, None, f"--as-of={as_of}")
    assert_refused(ran, "--as-of", "2013-11-01T00:00:00Z", out=gate.out)


@pytest.mark.parametrize(
    "as_of",
    ["9999-12-31T23:59:59Z", "2262-04-12T00:00:00Z", "1969-12-31T23:59:59Z", "1500-01-01T00:00:00Z",
     "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00"],
)  # fmt: skip
def test_a_time_outside_what_can_be_counted(as_of, gate):
    ran = gate(None, None, f"--as-of={as_of}")
    assert_refused(ran, "--as-of", "1970 to 2262", out=gate.out)


def test_a_run_folder_that_is_taken(gate):
    gate.out.mkdir(parents=True)
    (gate.out / "mine.txt").write_text("mine")
    assert_refused(gate(), "is not an empty folder")
    assert [p.name for p in gate.out.iterdir()] == ["mine.txt"]


def test_a_run_folder_that_holds_a_run(gate):
    assert gate(None, None, "--as-of", TINY_AS_OF).code == 0
    before = hashes(gate.out)
    assert_refused(gate(), "already holds a run", "resume")
    assert hashes(gate.out) == before


def test_an_empty_folder_that_was_there_stays(gate):
    gate.out.mkdir(parents=True)
    assert gate(candidate=MODELS / "v2.onnx").code == 2
    assert gate.out.is_dir()
    assert list(gate.out.iterdir()) == []


@pytest.mark.parametrize("command", ["gate", "scenario", "seal", "demo"])
def test_a_folder_that_cannot_be_made(command, harness, tiny, write_policy, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    out = blocked / "run"
    match command:
        case "gate":
            ran = harness("gate", tiny / "baseline.onnx", tiny / "candidate.onnx", "-t",
                          tiny / "traffic", "-p", write_policy(REFACTOR), "-o", out)  # fmt: skip
        case "scenario":
            ran = harness("scenario", "run", "candidate-broken", "--out", out, "-q")
        case "seal":
            ran = harness("traffic", "seal", tiny / "traffic", "--out", out)
        case _:
            ran = harness("demo", "--out", out, "-q")
    assert ran.code in ({1, 2} if command == "scenario" else {2})
    assert str(blocked) in ran.err + ran.out


def test_a_cache_that_cannot_be_made(gate, tmp_path):
    (tmp_path / "file").write_text("")
    ran = gate(None, None, "--cache", tmp_path / "file" / "windows")
    assert_refused(ran, str(tmp_path / "file"), out=gate.out)


def test_a_run_folder_that_the_system_refuses(gate, harness, tiny, write_policy):
    ran = harness("gate", tiny / "baseline.onnx", tiny / "candidate.onnx", "-t", tiny / "traffic",
                  "-p", write_policy(REFACTOR), "-o", "/proc/no-such/run")  # fmt: skip
    assert_refused(ran, "/proc/no-such/run", "Name another folder")


def test_a_cache_that_the_system_refuses(gate):
    ran = gate(None, None, "--cache", "/proc/no-such/windows")
    assert_refused(ran, "/proc/no-such/windows", "--cache", out=gate.out)


def test_a_full_disk_says_where_and_what_to_do(gate, tmp_path):
    """A limit on the size of files stands for the disk: the same kind of error, at any byte wanted."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        ran = gate(None, None, "--as-of", TINY_AS_OF)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ran.code == 4
    assert str(gate.out) in ran.err
    assert "File too large" in ran.err
    assert "Make room" in ran.err
    assert "report it" not in ran.err


def test_missing_arguments_are_named(harness):
    ran = harness("gate", "a.onnx")
    assert ran.code == 2
    for name in ("CANDIDATE", "--traffic", "--policy"):
        assert name in ran.err


# models


def test_a_model_file_that_is_not_there(gate, tmp_path):
    assert_refused(gate(candidate=tmp_path / "none.onnx"), "none.onnx", out=gate.out)


def test_another_signature_shows_both(gate):
    ran = gate(BASELINE, MODELS / "other_signature.onnx")
    assert_refused(ran, "distance_miles", "distance_mi", "mapping", out=gate.out)


@pytest.mark.parametrize("side", ["baseline", "candidate"])
@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("harness.features", '["doubled"', 'Write it like ["a", "b"].'),
        ("harness.features", "doubled", 'Write it like ["a", "b"].'),
        ("harness.training_cutoff", "last summer", "Write it like 2013-11-01T00:00:00Z."),
        ("harness.training_cutoff", "9999-01-01", "Write a time in between"),
    ],
)
def test_metadata_that_cannot_be_read_is_no_verdict(side, key, value, remedy, gate, tmp_path):
    import onnx

    model = onnx.load(tiny_model(tmp_path / "typo.onnx"))
    about = {p.key: p.value for p in model.metadata_props}
    onnx.helper.set_model_props(model, {**about, key: value})
    onnx.save_model(model, str(tmp_path / "typo.onnx"))
    ran = gate(**{side: tmp_path / "typo.onnx"})
    assert_refused(ran, str(tmp_path / "typo.onnx"), key, value, remedy, out=gate.out)
    assert ".." not in ran.err


def test_a_baseline_that_does_not_load_is_a_hold(gate, tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    ran = gate(baseline=tmp_path / "broken.onnx")
    assert ran.code == 3
    assert reason(gate) == "baseline_does_not_load"


def test_a_candidate_that_does_not_load_is_a_rollback(gate, tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    ran = gate(candidate=tmp_path / "broken.onnx")
    assert ran.code == 1
    assert reason(gate) == "candidate_does_not_load"
    inside = json.loads((gate.out / "manifest.json").read_text())["isolation"]
    assert inside["looked"]
    assert inside["tier"] in {"S0", "S1", "S2", "S3"}
    assert {"no_new_privs", "rlimit_as"} <= {layer["name"] for layer in inside["layers"]}
    assert inside["self_tests"]


def test_a_candidate_that_answers_with_nan_is_rolled_back(gate, tmp_path):
    ran = gate(None, tiny_model(tmp_path / "nan.onnx", raised="Log({x})"), "--as-of", TINY_AS_OF)
    assert ran.code == 1
    assert reason(gate) == "candidate_fails"
    found = json.loads((gate.out / "findings.json").read_text())["findings"]
    assert found[0]["kind"] == "candidate_nan"
    assert found[0]["severity"] == "harm"
    assert found[0]["requests"]


def test_a_decided_failure_ends_the_run_soon(gate, tmp_path):
    """Thousands of further failures would cost time and change nothing."""
    gate(None, tiny_model(tmp_path / "nan.onnx", raised="Log({x})"), "--as-of", TINY_AS_OF)
    decision = json.loads((gate.out / "decision.json").read_text())
    assert 0 < decision["n_requests"] < decision["n_window"]


def test_nan_of_both_versions_is_no_failure_of_the_candidate(gate, tmp_path):
    both = tiny_model(tmp_path / "nan.onnx", raised="Log({x})")
    ran = gate(both, both, "--as-of", TINY_AS_OF)
    assert ran.code == 0
    kinds = {f["kind"] for f in json.loads((gate.out / "findings.json").read_text())["findings"]}
    assert "candidate_nan" not in kinds


def reason(gate):
    return json.loads((gate.out / "decision.json").read_text())["reason"]


# registry


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("models:/flights@chalenger", "did you mean 'challenger'?"),
        ("models:/flihgts@champion", "did you mean 'flights'?"),
        ("models:/flights/99", "99"),
        ("models:/flights", "models:/"),
        ("models:/", "models:/"),
        ("models:/flights@", "models:/"),
    ],
)
def test_a_reference_that_leads_nowhere(reference, said, gate, flights_registry, some_flights):
    ran = gate(
        "models:/flights@champion", reference, "--registry", flights_registry,
        traffic=some_flights,
    )  # fmt: skip
    assert_refused(ran, reference, said, out=gate.out)


@pytest.mark.parametrize(
    "uri", ["sqlite:////nowhere/mlflow.db", "nonsense", "sqlite:///"], ids=["none", "word", "empty"]
)
def test_a_registry_that_is_none(uri, gate, some_flights):
    ran = gate(
        "models:/flights@champion", "models:/flights/2", "--registry", uri, traffic=some_flights
    )
    assert_refused(ran, out=gate.out)


def test_an_artifact_that_was_changed_is_refused(gate, registry, tiny, tmp_path):
    registry.register(tiny / "baseline.onnx", name="tiny", alias="champion")
    registry.register(tiny_model(tmp_path / "c.onnx", raised="Abs({x})"), name="tiny")
    changed = [p for p in registry.folder.rglob("*.onnx") if p.is_file()]
    for path in changed:
        path.write_bytes(path.read_bytes() + b"\x00")
    ran = gate("models:/tiny@champion", "models:/tiny/2", "--registry", registry.uri)
    assert_refused(ran, "digest", out=gate.out)


def test_an_artifact_that_is_gone_is_refused(gate, registry, tiny):
    registry.register(tiny / "baseline.onnx", name="tiny", alias="champion")
    for path in list(registry.folder.rglob("*.onnx")):
        path.unlink()
    ran = gate("models:/tiny@champion", "models:/tiny/1", "--registry", registry.uri)
    assert_refused(ran, "models:/tiny/1", "model.onnx", out=gate.out)


def test_a_registry_file_that_is_no_database(gate, tmp_path):
    (tmp_path / "mlflow.db").write_text("no database")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert_refused(gate("models:/tiny/1", "models:/tiny/2", "--registry", uri), out=gate.out)
    assert (tmp_path / "mlflow.db").read_text() == "no database"


# report, compare


def test_a_report_of_no_run(harness, tmp_path):
    assert_refused(harness("report", tmp_path), "no run folder")


def test_a_report_of_a_run_that_is_not_there(harness, tmp_path):
    assert_refused(harness("report", tmp_path / "none"), "none")


@pytest.mark.parametrize("name", ["manifest", "decision", "evidence", "findings", "summary"])
def test_a_report_of_a_damaged_run(name, gate, harness):
    assert gate(None, None, "--as-of", TINY_AS_OF).code == 0
    (gate.out / f"{name}.json").write_text('{"half": ')
    assert_refused(harness("report", gate.out), f"{name}.json", "no JSON")


def test_compare_needs_files_that_are_there(harness, tiny, tmp_path):
    assert_refused(harness("compare", tmp_path / "a.onnx", tiny / "baseline.onnx", "-i",
                           tiny / "traffic"), "a.onnx")  # fmt: skip
    assert_refused(harness("compare", tiny / "baseline.onnx", tiny / "baseline.onnx", "-i",
                           tmp_path / "none"), "none")  # fmt: skip


def test_compare_refuses_a_model_that_does_not_load(harness, tiny, tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    for pair in (("broken.onnx", "ok"), ("ok", "broken.onnx")):
        models = [tmp_path / m if m != "ok" else tiny / "baseline.onnx" for m in pair]
        assert_refused(harness("compare", *models, "-i", tiny / "traffic"), "does not load")


@pytest.mark.parametrize("given", ["x=y", "inputs:x", "input:x=y", "inputs:=y"])
def test_compare_refuses_a_mapping_it_cannot_read(given, harness, tiny):
    model = tiny / "baseline.onnx"
    ran = harness("compare", model, model, "-i", tiny / "traffic", "--map", given)
    assert_refused(ran, f"--map {given}")


def test_an_unknown_command_names_the_nearest(harness):
    ran = harness("gaet")
    assert ran.code == 2
    assert "did you mean 'gate'?" in ran.err

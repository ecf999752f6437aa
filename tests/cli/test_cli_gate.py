"""What `harness gate` answers on real flights through a registry, and what it leaves behind."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml
from gates import AS_OF, FLIGHTS, MODELS, REFACTOR, RETRAIN, ROOT, copy_labels

from harness.store.traffic import TrafficSource, TrafficWriter

pytestmark = pytest.mark.usefixtures("each_process_started")

CHAMPION, CHALLENGER, UTC = (
    "models:/flights@champion",
    "models:/flights@challenger",
    "models:/flights/3",
)


@pytest.fixture
def gate(harness, some_flights, flights_registry, write_policy, tmp_path):
    """`harness gate` on the small traffic: (exit code, content of decision.json)."""

    def run(
        candidate=CHALLENGER, *more, baseline=CHAMPION, policy=None, name="run", traffic=None,
        as_of=AS_OF, registry=flights_registry,
    ):  # fmt: skip
        ran = harness(
            "gate", baseline, candidate, "-t", traffic or some_flights, "--as-of", as_of,
            "-p", policy or write_policy(RETRAIN), "-o", tmp_path / "runs" / name,
            "--registry", registry, "--json", *more,
        )  # fmt: skip
        assert ran.code in {0, 1, 3}, ran.err
        return ran.code, json.loads(ran.out)

    run.runs = tmp_path / "runs"
    return run


def findings(run):
    return json.loads((run / "findings.json").read_text())["findings"]


def manifest(run):
    return json.loads((run / "manifest.json").read_text())


def test_a_good_retrain_is_promoted(gate):
    code, decision = gate()
    assert (code, decision["decision"]) == (0, "PROMOTE")
    assert decision["exit_code"] == 0
    assert (decision["baseline"]["version"], decision["candidate"]["version"]) == ("1", "2")


def test_the_hour_in_utc_is_rolled_back_and_named(gate):
    code, decision = gate(UTC)
    assert (code, decision["decision"], decision["reason"]) == (1, "ROLLBACK", "guardrail_failed")
    assert decision["binding_guardrail"] == "features"
    assert "hour" in decision["explanation"]
    hour = next(f for f in findings(gate.runs / "run") if f["where"] == "hour")
    assert (hour["relation"], hour["value"]) == ("cyclic_shift", 4.0)


def test_a_version_against_itself_is_promoted_as_a_refactor(gate, write_policy):
    code, decision = gate(CHAMPION, policy=write_policy(REFACTOR))
    assert (code, decision["decision"]) == (0, "PROMOTE")
    kinds = {f["kind"] for f in findings(gate.runs / "run")}
    assert not kinds & {"feature_changed", "output_changed"}


def test_an_empty_window_is_a_hold(gate):
    code, decision = gate(as_of="2013-06-01T00:00:00Z")
    assert (code, decision["reason"]) == (3, "empty_window")
    assert decision["next"]


def test_advise_exits_0_with_the_decision_of_enforce(gate, write_policy, rolled_back):
    code, decision = gate(UTC, policy=write_policy(RETRAIN, mode="advise"))
    assert (code, decision["decision"], decision["mode"]) == (0, "ROLLBACK", "advise")
    enforced = json.loads((rolled_back.run / "decision.json").read_text())
    assert (enforced["decision"], enforced["reason"]) == (decision["decision"], decision["reason"])


def test_a_change_that_is_expected_is_judged_by_its_loss_alone(gate, write_policy):
    policy = yaml.safe_load((ROOT / "scenarios/policies/flights-retrain-loss.yaml").read_text())
    features = {**RETRAIN["guardrails"][0], "expected_changes": ["hour", "hour_sin", "hour_cos"]}
    code, decision = gate(
        UTC, policy=write_policy({**policy, "guardrails": [features]}), traffic=FLIGHTS
    )
    assert (code, decision["decision"]) == (1, "ROLLBACK")
    assert decision["binding_guardrail"] == "loss"
    by_name = {g["name"]: g for g in decision["guardrails"]}
    assert by_name["features"]["e_rollback"] <= 1


# time


def test_as_of_decides_which_labels_exist(gate):
    _, late = gate(name="november")
    _, early = gate(as_of="2013-09-15T00:00:00Z", name="september")
    assert late["windows"]["matured"]["n"] > early["windows"]["matured"]["n"] > 0
    info = manifest(gate.runs / "september")["labels"]
    assert info["after_as_of"] > 0
    assert early["windows"]["newest"]["last_ts_ns"] < late["windows"]["newest"]["last_ts_ns"]


def test_before_any_label_arrived_nothing_is_promoted(gate):
    code, decision = gate(as_of="2013-08-15T00:00:00Z")
    assert (code, decision["reason"]) == (3, "empty_window")
    assert decision["binding_guardrail"] == "loss"
    assert decision["windows"]["newest"]["judged"] > 0


def test_requests_that_a_version_was_trained_on_are_left_out(gate, registry):
    for name, cutoff in (("v1", "2013-05-01"), ("v2", "2013-08-01T00:00:00Z")):
        registry.register(MODELS / f"{name}.onnx", training_cutoff=cutoff)
    _, decision = gate("models:/flights/2", baseline="models:/flights/1", registry=registry.uri)
    matured = decision["windows"]["matured"]
    assert matured["first_ts_ns"] > 1375315200 * 10**9
    reasons = dict(matured["left_out"])
    assert reasons["up to the training cut-off 2013-08-01T00:00:00Z"] > 0


def test_an_unfaithful_recording_is_told_first(gate, some_flights, tmp_path):
    """Production answered otherwise than the baseline does now: every tenth answer is another's."""
    exchanges = list(TrafficSource.open([some_flights]).exchanges())
    altered = tmp_path / "altered"
    with TrafficWriter(altered) as writer:
        writer.write(
            replace(e, response=exchanges[i - 1].response) if i % 10 == 0 else e
            for i, e in enumerate(exchanges)
        )
    copy_labels(altered, {e.request_id for e in exchanges})
    code, decision = gate(traffic=altered)
    first = findings(gate.runs / "run")[0]
    assert first["kind"] == "unfaithful_replay"
    assert first["requests"]
    assert (code, decision["reason"]) == (3, "unfaithful_replay")


# what is left behind


@pytest.fixture(scope="module")
def retrain(tmp_path_factory, some_flights, flights_registry, windows):
    """Runs a gate whose folder many tests read or copy."""
    from harness.pipeline.gate import run_gate

    def run(candidate):
        folder = tmp_path_factory.mktemp("retrain")
        (folder / "policy.yaml").write_text(yaml.safe_dump(RETRAIN))
        return run_gate(
            CHAMPION, candidate, traffic=[some_flights], policy=folder / "policy.yaml", as_of=AS_OF,
            out=folder / "run", registry_uri=flights_registry, cache_dir=windows,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def promoted(retrain):
    return retrain(CHALLENGER)


@pytest.fixture(scope="module")
def rolled_back(retrain):
    return retrain(UTC)


@pytest.fixture
def copied(tmp_path):
    """A run's folder that a test may change: (result of the gate) → folder."""
    return lambda result: Path(shutil.copytree(result.run, tmp_path / "copied"))


def test_decision_json_holds_what_is_promised(promoted):
    decision = json.loads((promoted.run / "decision.json").read_text())
    promised = (
        "decision reason binding_guardrail next n_requests n_window alpha attempt guardrails "
        "baseline candidate windows isolation not_compared evidence_sha256"
    )
    assert set(promised.split()) <= decision.keys()
    each = "name metric slice window margin verdict reason n e_promote e_rollback lower upper"
    for guardrail in decision["guardrails"]:
        assert set(each.split()) <= guardrail.keys()
    assert {"digest", "version", "name"} <= decision["baseline"].keys()
    assert decision["isolation"]["tier"] in {"S2", "S3"}
    assert not decision["isolation"]["allowed_below"]
    assert decision["n_requests"] == sum(w["judged"] for w in decision["windows"].values())


def test_a_run_folder_holds_what_is_promised(promoted):
    there = {p.name for p in promoted.run.iterdir()}
    promised = (
        "manifest.json pairs intermediates.json evidence.json findings.json decision.json "
        "report.html junit.xml summary.md"
    )
    assert set(promised.split()) <= there


def test_the_approval_binds_to_the_evidence(promoted):
    bytes_of = (promoted.run / "evidence.json").read_bytes()
    decision = json.loads((promoted.run / "decision.json").read_text())
    assert decision["evidence_sha256"] == hashlib.sha256(bytes_of).hexdigest()
    assert promoted.evidence_sha256 == decision["evidence_sha256"]


def test_the_manifest_says_what_was_run(promoted, some_flights):
    told = manifest(promoted.run)
    for role, version in (("baseline", "1"), ("candidate", "2")):
        assert told[role]["uri"] == f"models:/flights/{version}"
        assert len(told[role]["digest"]) == 64
    assert len(told["window"]["window_hash"]) == 64
    assert told["environment"]["packages"]["onnxruntime"]
    assert 0 <= told["seed"] < 2**63
    assert told["labels"]["unknown"] == 0
    assert {"as_of", "policy", "lineage", "attempt", "isolation", "floor_sha256"} <= told.keys()


def test_junit_and_summary_can_be_read(promoted):
    suite = ET.fromstring((promoted.run / "junit.xml").read_text())  # noqa: S314 - our own
    cases = list(suite.iter("testcase"))
    assert len(cases) >= len(promoted.evidence)
    assert not list(suite.iter("failure"))
    assert "PROMOTE" in (promoted.run / "summary.md").read_text()


def test_a_rollback_is_a_failure_in_junit(rolled_back):
    suite = ET.parse(rolled_back.run / "junit.xml").getroot()  # noqa: S314 - our own
    assert list(suite.iter("failure"))


def test_every_seed_is_another(gate, promoted):
    gate()
    assert manifest(gate.runs / "run")["seed"] != manifest(promoted.run)["seed"]


def test_pairs_and_evidence_are_frames(promoted):
    pairs = promoted.pairs_frame()
    assert len(pairs) == promoted.record.n_requests
    assert pairs["failed:loss"].dtype == bool
    newest = pairs[pairs["window"] == "newest"]
    assert newest["request_id"].is_unique
    assert newest["x:loss"].isna().all()
    frame = promoted.evidence_frame()
    assert list(frame["name"]) == [e.name for e in promoted.evidence]
    assert "path" not in frame


def test_report_writes_the_same_pages_again(promoted, harness):
    pages = ("report.html", "junit.xml", "summary.md")
    before = {name: (promoted.run / name).read_text() for name in pages}
    for name in pages:
        (promoted.run / name).unlink()
    assert harness("report", promoted.run).code == 0
    assert {name: (promoted.run / name).read_text() for name in pages} == before
    assert "PROMOTE" in harness("report", promoted.run, "--format", "terminal").out


def test_the_default_run_folder_is_named_after_the_candidate(
    harness, some_flights, flights_registry, write_policy, tmp_path
):
    ran = harness(
        "gate", CHAMPION, "models:/flights/5", "-t", some_flights, "-p", write_policy(RETRAIN),
        "--registry", flights_registry, "-q",
    )  # fmt: skip
    assert ran.code == 1
    made = list((tmp_path / "work" / "runs").iterdir())
    assert [p.name.endswith("-flights-5") for p in made] == [True]


@pytest.mark.parametrize("file", ["decision.json", "evidence.json"])
def test_a_changed_run_is_not_reported(rolled_back, copied, harness, file):
    """Somebody turns a rollback into a promotion after the run."""
    run = copied(rolled_back)
    assert harness("report", run).code == 0
    text = (run / file).read_text()
    assert "ROLLBACK" in text
    (run / file).write_text(text.replace("ROLLBACK", "PROMOTE"))
    for form in ("all", "terminal"):
        ran = harness("report", run, "--format", form)
        assert ran.code == 2
        assert "do not belong together" in ran.err
        assert "PROMOTE" not in ran.out


@pytest.mark.parametrize("file", ["manifest", "findings", "summary", "intermediates", "floor"])
def test_a_report_is_made_of_no_file_that_was_changed_after_the_run(
    promoted, copied, harness, file
):
    run = copied(promoted)
    path = run / f"{file}.json"
    path.write_text(path.read_text() + " ")
    ran = harness("report", run)
    assert ran.code == 2
    assert f"decision.json and {file}.json do not belong together" in ran.err


def test_a_run_without_its_evidence_is_not_reported(promoted, copied, harness):
    run = copied(promoted)
    (run / "evidence.json").unlink()
    assert harness("report", run).code == 2

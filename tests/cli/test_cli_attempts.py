"""Asking again until the answer is pleasant costs error rate, unless the evidence goes on."""

import json
import shutil

import pytest
from gates import REFACTOR, tiny_model, tiny_traffic

from harness.store.runs import RunFolder

AS_OF = "2020-12-01T00:00:00Z"


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A folder that each test finds empty, and the first gates of tests: what was asked → what was there then.

    A ledger names runs by their paths, so that what is put back has to lie where it lay.
    """
    return tmp_path_factory.mktemp("attempts"), {}


@pytest.fixture
def gate(harness, write_policy, begun, monkeypatch):
    """A refactor of the tiny model that asks for more requests than there are: decision.json.

    The first gate of a test that an earlier test began with, too, is put back as it ended.
    """
    top, known = begun
    place = top / "place"
    shutil.rmtree(place, ignore_errors=True)
    monkeypatch.setenv("HARNESS_STATE_DIR", str(place / "state"))
    old, new = tiny_model(place / "old.onnx"), place / "new.onnx"
    tiny_model(new, raised="Abs({x})")

    def run(name, *, candidate=old, as_of=AS_OF, needed=100_000, n=400, base=REFACTOR, **changes):
        asked = repr((name, candidate, as_of, needed, n, base, changes))
        first = not run.runs.exists()
        if first and asked in known:
            shutil.copytree(top / known[asked][0], place, dirs_exist_ok=True)
            return json.loads(known[asked][1])
        traffic = place / f"traffic-{n}"
        if not traffic.exists():
            tiny_traffic(traffic, n)
        windows = {"min_requests": needed, **changes.pop("windows", {})}
        policy = write_policy(base, str(place / "policy.yaml"), windows=windows, **changes)
        ran = harness("gate", old, candidate, "-t", traffic, "-p", policy, "--as-of", as_of,
                      "-o", run.runs / name, "--json")  # fmt: skip
        assert ran.code in {0, 1, 3}, ran.err
        answer = ran.code, json.loads(ran.out)
        if first:
            known[asked] = f"first-{len(known)}", json.dumps(answer)
            shutil.copytree(place, top / known[asked][0])
        return answer

    run.place, run.old, run.other, run.runs = place, old, new, place / "runs"
    return run


def evidence_of(gate, name, guardrail="outputs"):
    found = json.loads((gate.runs / name / "evidence.json").read_text())["evidence"]
    return next(e for e in found if e["name"] == guardrail)


def judged_ids(gate, name):
    folder = RunFolder.open(gate.runs / name)
    return [i for c in folder.pairs_chunks() for i in folder.read_pairs(c)["request_id"]]


def test_a_hold_whose_evidence_is_gone_halves_the_error_rate_of_the_next_attempt(gate):
    seen = []
    for n in (1, 2, 3):
        seen.append(gate(f"run-{n}"))
        shutil.rmtree(gate.runs / f"run-{n}")
    assert [(code, d["reason"]) for code, d in seen] == [(3, "too_few_requests")] * 3
    assert [d["attempt"] for _, d in seen] == [1, 2, 3]
    assert [d["again"]["how"] for _, d in seen] == ["first", "spend", "spend"]
    for level in ("promote", "rollback"):
        assert [d["alpha"][level] for _, d in seen] == [0.05, 0.025, 0.0125]


def test_after_a_hold_the_evidence_goes_on_with_requests_that_were_not_judged(gate):
    gate("first")
    code, decision = gate("second", n=700)
    assert (code, decision["reason"], decision["attempt"]) == (3, "too_few_requests", 2)
    assert decision["again"]["how"] == "resume"
    assert decision["alpha"] == {"promote": 0.05, "rollback": 0.05}
    assert (decision["n_requests"], decision["n_window"]) == (700, 700)
    first, second = judged_ids(gate, "first"), judged_ids(gate, "second")
    assert (len(first), len(second), len({*first, *second})) == (400, 300, 700)
    assert evidence_of(gate, "second")["n"] == 700


def test_evidence_that_goes_on_is_that_of_one_run_over_all_requests(gate):
    gate("first")
    gate("second", n=700)
    gate("whole", n=700, needed=99_999)
    on, whole = (evidence_of(gate, name) for name in ("second", "whole"))
    for key in ("n", "n_available", "e_promote", "e_rollback"):
        assert on[key] == pytest.approx(whole[key], rel=1e-9)
    for key in ("lower", "upper"):  # where a search for them starts depends on the looks
        assert on[key] == pytest.approx(whole[key], rel=1e-3)


def test_a_chain_of_attempts_counts_no_request_twice_though_its_first_folder_is_gone(gate):
    gate("first")
    gate("second", n=700)
    shutil.rmtree(gate.runs / "first")
    _, decision = gate("third", n=900)
    assert (decision["again"]["how"], decision["n_requests"]) == ("resume", 900)
    assert len(judged_ids(gate, "third")) == 200


def test_together_they_reach_the_answer_that_each_is_too_short_for(gate):
    assert gate("first", needed=600)[1]["reason"] == "too_few_requests"
    code, decision = gate("second", n=700, needed=600)
    assert (code, decision["decision"], decision["again"]["how"]) == (0, "PROMOTE", "resume")
    assert 600 <= decision["n_requests"] <= 700
    assert len(judged_ids(gate, "second")) == decision["n_requests"] - 400


def test_asking_again_about_the_same_traffic_adds_nothing_and_costs_nothing(gate):
    _, first = gate("first")
    _, again = gate("second")
    assert (again["reason"], again["n_requests"]) == (first["reason"], 400)
    assert again["alpha"] == first["alpha"]
    assert evidence_of(gate, "second") == evidence_of(gate, "first")
    assert judged_ids(gate, "second") == []
    assert gate("third", n=700)[1]["n_requests"] == 700


def test_evidence_is_gone_on_from_once(gate):
    gate("first")
    gate("second", n=700)
    shutil.rmtree(gate.runs / "second")
    _, decision = gate("third", n=700)
    assert (decision["again"]["how"], decision["alpha"]["promote"]) == ("spend", 0.025)


@pytest.mark.parametrize("file", ["state.npz", "decision.json", "manifest.json"])
def test_evidence_that_was_changed_is_not_gone_on_from(gate, file):
    gate("first")
    path = gate.runs / "first" / file
    path.write_bytes(path.read_bytes() + b" ")
    _, decision = gate("second", n=700)
    assert decision["again"]["how"] == "spend"
    assert "is not as that attempt left it" in decision["again"]["why"]


def test_a_window_claim_has_nothing_to_go_on_from(gate):
    rails = [{"name": "flips", "metric": "decision_flip", "margin": 0.05}]
    asked = {"base": {**REFACTOR, "preset": "none"}, "claim": "window", "guardrails": rails}
    gate("first", **asked)
    _, decision = gate("second", **asked)
    assert (decision["again"]["how"], decision["alpha"]["promote"]) == ("spend", 0.025)


def test_requests_that_planned_the_bets_stay_out_of_every_later_attempt(gate):
    gate("first", windows={"planning": 100})
    _, decision = gate("second", n=700, windows={"planning": 100})
    assert (decision["again"]["how"], decision["n_requests"]) == ("resume", 600)
    assert len({*judged_ids(gate, "first"), *judged_ids(gate, "second")}) == 600


def test_slices_go_on_with_the_tests_they_were_planned_with(gate):
    rails = [{"name": "flips", "metric": "decision_flip", "margin": 0.05, "slice_by": ["site"],
              "min_slice": 100}]  # fmt: skip
    asked = {"base": {**REFACTOR, "preset": "none"}, "guardrails": rails}
    gate("first", windows={"planning": 100}, **asked)
    _, decision = gate("second", n=700, windows={"planning": 100}, **asked)
    assert decision["again"]["how"] == "resume"
    found = [evidence_of(gate, "second", f"flips[site={site}]") for site in "ab"]
    assert all(e["n"] == e["n_available"] for e in found)
    assert sum(e["n"] for e in found) == 600  # those that planned are in none of them


def test_the_report_says_how_an_attempt_goes_on(gate):
    gate("first")
    gate("second", n=700)
    page = (gate.runs / "second" / "report.html").read_text()
    assert "goes on from attempt 1" in page


def test_a_hold_that_saw_nothing_is_no_attempt(gate):
    code, decision = gate("empty", as_of="2020-01-01T00:00:00Z")
    assert (code, decision["reason"]) == (3, "empty_window")
    assert gate("second")[1]["attempt"] == 1


def test_another_candidate_is_another_question(gate):
    gate("first")
    assert gate("second", candidate=gate.other)[1]["attempt"] == 1


def test_another_policy_is_another_question(gate):
    gate("first")
    assert gate("second", needed=99_999)[1]["attempt"] == 1


def test_a_promotion_is_an_attempt(gate):
    """Asked on at full level, a harmless candidate is rolled back sooner or later."""
    assert gate("first", needed=300)[0] == 0
    _, decision = gate("second", needed=300)
    assert (decision["attempt"], decision["alpha"]["rollback"]) == (2, 0.025)


def test_looking_under_advise_first_is_an_attempt(gate):
    gate("look", mode="advise")
    assert gate("then")[1]["attempt"] == 2


def test_attempts_count_wherever_their_run_folders_are(gate):
    gate("one/run")
    assert gate("two/run")[1]["attempt"] == 2


def test_rows_without_ids_are_new_evidence_at_half_the_error_rates(
    gate, harness, write_policy, tmp_path
):
    """A row's place says nothing about the rows of another file: none of them may be skipped or repeated."""
    import numpy as np

    seen = []
    for week, x in enumerate((np.zeros(300), np.full(400, -3.0))):
        table = tmp_path / f"week-{week}.npz"
        np.savez(table, x=x.astype(np.float32))
        policy = write_policy(REFACTOR, windows={"min_requests": 100_000})
        ran = harness("gate", gate.old, gate.other, "-t", table, "-p", policy,
                      "--as-of", AS_OF, "-o", gate.runs / f"week-{week}", "--json")  # fmt: skip
        seen.append(json.loads(ran.out))
    assert [d["again"]["how"] for d in seen] == ["first", "spend"]
    assert "no recorded ids" in seen[1]["again"]["why"]
    assert seen[1]["n_requests"] == 400


def test_an_asking_that_found_nothing_new_is_gone_on_from(gate):
    for n in range(4):
        gate(f"run-{n}")
    _, decision = gate("more", n=700)
    assert decision["again"]["how"] == "resume"
    assert decision["alpha"]["promote"] == 0.05
    judged = [i for n in range(4) for i in judged_ids(gate, f"run-{n}")] + judged_ids(gate, "more")
    assert len(judged) == len(set(judged)) == 700


def test_ids_that_name_other_requests_now_are_new_evidence(gate):
    """A counter that begins anew every day: yesterday's ids are not yesterday's requests."""
    gate("first")
    tiny_traffic(gate.place / "traffic-700", 700, later_s=86_400)
    _, decision = gate("second", n=700)
    assert decision["again"]["how"] == "spend"
    assert "name requests of another time" in decision["again"]["why"]
    assert decision["n_requests"] == 700


def test_slices_that_grow_out_of_the_pool_are_asked_about_anew(gate):
    """What was pooled for want of requests must not stay without a claim for good."""
    rails = [{"name": "flips", "metric": "decision_flip", "margin": 0.05, "slice_by": ["site"],
              "min_slice": 250}]  # fmt: skip
    asked = {"base": {**REFACTOR, "preset": "none"}, "guardrails": rails}
    gate("first", **asked)
    _, decision = gate("second", n=700, **asked)
    assert (decision["again"]["how"], decision["alpha"]["promote"]) == ("spend", 0.025)
    assert "flips[site=a]" in decision["again"]["why"]
    assert evidence_of(gate, "second", "flips[site=a]")["gating"]


@pytest.mark.parametrize(("other", "how"), [(False, "resume"), (True, "spend")])
def test_ids_without_times_are_trusted_only_where_the_traffic_is_the_same(
    gate, harness, write_policy, tmp_path, other, how
):
    """A counter that begins anew gives its ids twice, and no time tells the requests apart."""
    import numpy as np

    policy = write_policy(REFACTOR, windows={"min_requests": 100_000})
    ids = np.array([f"r{i}" for i in range(300)])
    for week, x in enumerate((0.0, -3.0)):
        table = tmp_path / f"counted-{week if other else 0}.npz"
        np.savez(table, x=np.full(300, x if other else 0.0, np.float32), request_id=ids)
        ran = harness("gate", gate.old, gate.other, "-t", table, "-p", policy,
                      "--as-of", AS_OF, "-o", gate.runs / f"counted-{week}", "--json")  # fmt: skip
    assert json.loads(ran.out)["again"]["how"] == how

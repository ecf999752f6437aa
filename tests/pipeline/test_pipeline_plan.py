"""`plan`: what a policy asks of traffic, and whether tables of that size then keep the promise."""

import json
import shutil
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest
import yaml
from gates import AS_OF, FLIGHTS, MODELS, RETRAIN, ROOT
from scipy.stats import binom
from simulated import simulated

from harness import judge_table, plan
from harness.core.errors import PolicyError, UsageError
from harness.core.verdicts import Decision
from harness.pipeline.gate import resume_gate, run_gate
from harness.store.runs import RunFolder

SCORE = {"name": "score", "column": "d", "range": [-0.25, 0.25], "margin": 0.02, "effect": 0.0}
FLIPS = {"name": "flips", "metric": "decision_flip", "margin": 0.05, "effect": 0.01}


@pytest.fixture
def policy_file(tmp_path):
    def write(*guardrails, **more):
        path = tmp_path / "policy.yaml"
        path.write_text(yaml.safe_dump({"version": 1, "guardrails": list(guardrails), **more}))
        return path

    return write


def table(n, seed=0, mean=0.0, sd=0.05, flips=0.01):
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"d": rng.normal(mean, sd, n), "flips": (rng.random(n) < flips) * 1})


def csv(path, **more):
    table(**more).to_csv(path, index=False)
    return path


def by_name(result):
    return {test.name: test for test in result.tests}


@pytest.mark.usefixtures("few_points")
def test_tables_of_the_planned_size_are_promoted_as_often_as_promised(policy_file, tmp_path):
    path = policy_file(SCORE, FLIPS, windows={"planning": 200})
    needs = plan(path, [csv(tmp_path / "t.csv", n=1000, seed=99)])
    size = int(needs.requests)
    asked = yaml.safe_load(path.read_text())
    promoted = [
        judge_table(table(size, seed), asked).decision is Decision.PROMOTE for seed in range(60)
    ]
    assert 0.78 <= np.mean(promoted) <= 1.0
    fewer = [
        judge_table(table(size // 3, seed), asked).decision is Decision.PROMOTE
        for seed in range(60)
    ]
    assert np.mean(fewer) < 0.7


def test_the_guardrail_that_asks_for_the_most_binds(policy_file):
    needs = plan(policy_file(SCORE, {**FLIPS, "margin": 0.012}))
    assert needs.binding == "flips"
    assert needs.requests >= by_name(needs)["flips"].quantile


def test_the_least_that_may_decide_binds_where_the_tests_need_fewer(policy_file):
    needs = plan(policy_file(FLIPS, windows={"min_requests": 90_000}))
    assert (needs.requests, needs.binding) == (90_000, "windows.min_requests")
    assert by_name(needs)["flips"].quantile < 90_000


def test_reported_guardrails_ask_for_nothing(policy_file):
    tight = {**FLIPS, "margin": 0.011, "gating": False}
    needs = plan(policy_file(SCORE, tight))
    assert needs.binding == "score"
    assert needs.requests < by_name(needs)["flips"].quantile


def test_a_planning_set_asks_for_less_than_the_worst_spread(policy_file, tmp_path):
    data = csv(tmp_path / "t.csv", n=1000)
    blind = by_name(plan(policy_file(SCORE), [data]))["score"]
    seeing = by_name(plan(policy_file(SCORE, windows={"planning": 300}), [data]))["score"]
    assert "largest variance" in blind.basis
    assert "first 300 rows" in seeing.basis
    assert seeing.expected < blind.expected / 5
    assert seeing.harm < blind.harm


def test_the_z_test_beside_it_has_the_textbook_size(policy_file, tmp_path):
    # (z₀.₉₅ + z₀.₉)²·sd²/gap² = 8.564·.0025/.0004 = 53.5
    needs = plan(policy_file(SCORE, windows={"planning": 5000}), [csv(tmp_path / "t.csv", n=6000)])
    assert by_name(needs)["score"].fixed_sample == pytest.approx(53.5, abs=3)


def test_the_z_test_for_rare_flips_is_near_the_published_one(policy_file):
    # 1,549 by the exact test for flips .001 against a margin of .005.
    rare = {"name": "f", "metric": "decision_flip", "margin": 0.005, "effect": 0.001}
    assert by_name(plan(policy_file(rare)))["f"].fixed_sample == pytest.approx(1549, rel=0.02)


def test_slices_ask_for_as_many_as_their_share_needs(policy_file, tmp_path):
    rows = table(4000)
    rows["caller"] = np.where(np.arange(4000) % 4 == 0, "app", "web")
    rows.to_csv(tmp_path / "t.csv", index=False)
    sliced = {**SCORE, "slice_by": ["caller"]}
    needs = by_name(plan(policy_file(sliced, windows={"planning": 400}), [tmp_path / "t.csv"]))
    assert needs["score[caller=app]"].share == pytest.approx(0.25)
    assert needs["score[caller=app]"].quantile > 3 * needs["score"].quantile


def test_a_gate_s_policy_is_planned_with_its_traffic():
    needs = plan(ROOT / "scenarios" / "policies" / "flights-retrain.yaml", [FLIGHTS])
    windows = {window.name: window for window in needs.windows}
    assert (windows["newest"].available, windows["matured"].available) == (57607, 56323)
    assert {"score[origin=EWR]", "loss", "features"} <= by_name(needs).keys()
    assert windows["matured"].binding == "loss"


def test_the_folder_holds_a_drawing_that_can_be_read(policy_file, tmp_path):
    data = csv(tmp_path / "t.csv", n=1000)
    needs = plan(policy_file(SCORE, FLIPS), [data], out=tmp_path / "plan")
    root = ET.fromstring((needs.out / "plan.svg").read_text())  # noqa: S314 - our own
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 2
    for line in lines:
        heights = [float(point.split(",")[1]) for point in line.get("points").split()]
        assert heights == sorted(heights, reverse=True)
    told = json.loads((needs.out / "plan.json").read_text())
    assert told["binding"] == needs.binding
    with pytest.raises(UsageError, match="not an empty folder"):
        plan(policy_file(SCORE), out=tmp_path / "plan")


def test_two_tables_are_refused(policy_file, tmp_path):
    data = csv(tmp_path / "t.csv", n=10)
    with pytest.raises(UsageError, match="one table"):
        plan(policy_file(SCORE), [data, data])


def test_a_planning_set_that_leaves_nothing_to_judge_is_refused(policy_file):
    with pytest.raises(PolicyError, match="more than max_requests"):
        plan(policy_file(SCORE, windows={"planning": 90, "min_requests": 1, "max_requests": 90}))


def test_rows_that_plan_are_no_evidence(policy_file):
    rows = table(1500)
    rows.loc[:299, "d"] = 0.25
    asked = yaml.safe_load(policy_file(SCORE, windows={"planning": 300}).read_text())
    verdict = judge_table(rows, asked)
    assert verdict.guardrails[0].n == 1200
    assert verdict.decision is Decision.PROMOTE
    assert judge_table(rows, {**asked, "windows": {}}).decision is Decision.ROLLBACK
    assert any("planned the bets" in said for said in verdict.record.not_compared)


@pytest.mark.usefixtures("few_points")
@simulated(250, 2)
def test_planning_on_the_first_rows_keeps_the_error_rates(policy_file, runs):
    """The mean exactly at the margin; the bets are chosen by the first rows of the same table."""
    asked = yaml.safe_load(policy_file(SCORE, windows={"planning": 50}).read_text())
    rng = np.random.default_rng(8)
    seen = []
    for _ in range(runs):
        d = np.where(rng.random(450) < 0.58, 0.125, -0.125)  # mean .02
        seen.append(judge_table(pd.DataFrame({"d": d}), asked).decision)
    most = binom.ppf(0.999, runs, 0.05)
    assert seen.count(Decision.PROMOTE) <= most
    assert seen.count(Decision.ROLLBACK) <= most


def test_a_table_shorter_than_its_planning_set_is_held(policy_file):
    asked = yaml.safe_load(policy_file(SCORE, windows={"planning": 50}).read_text())
    verdict = judge_table(table(40), asked)
    assert (verdict.decision, verdict.reason) == (Decision.HOLD, "empty_window")


@pytest.fixture(scope="module")
def planned_gate(some_flights, windows, tmp_path_factory):
    """A gate whose first 200 requests a window only plan; tests write to copies of its run."""
    folder = tmp_path_factory.mktemp("planned")
    rails = [
        *RETRAIN["guardrails"],
        {"name": "score", "metric": "score_shift", "margin": 0.2, "direction": "both",
         "effect": 0.0},
    ]  # fmt: skip
    asked = {**RETRAIN, "guardrails": rails, "windows": {**RETRAIN["windows"], "planning": 200}}
    policy = folder / "policy.yaml"
    policy.write_text(yaml.safe_dump(asked))
    return run_gate(
        str(MODELS / "v1.onnx"), str(MODELS / "v2.onnx"), traffic=[some_flights], policy=policy,
        as_of=AS_OF, out=folder / "run", cache_dir=windows,
    )  # fmt: skip


def test_a_gate_plans_its_bets_on_requests_that_it_never_judges(planned_gate):
    run = RunFolder.open(planned_gate.run)
    manifest = run.read_json("manifest.json")
    planning = manifest["planning"]
    assert planning["requests"] == {"newest": 200, "matured": 200}
    assert 0.0 < planning["second_moments"]["score"] < 0.2
    grid = next(test for test in planning["tests"] if test["name"] == "score")
    assert len(grid["promote"][0]["lambda"]) == 12
    with np.load(run.path / "order.npz") as order:
        drawn = {name: order[name] for name in ("newest", "matured")}
    pairs = [run.read_pairs(chunk) for chunk in run.pairs_chunks()]
    for name, positions in drawn.items():
        judged = sum(int((chunk["window"] == name).sum()) for chunk in pairs)
        assert 0 < judged <= len(positions) - 200
    whole = {e.name: e for e in planned_gate.evidence}["score"]
    assert whole.n_available == len(drawn["newest"]) - 200


def test_an_earlier_run_says_how_values_spread(planned_gate, write_policy, some_flights):
    score = {"name": "score", "metric": "score_shift", "margin": 0.2, "effect": 0.0}
    policy = write_policy(RETRAIN, guardrails=[score])
    blind = by_name(plan(policy, [some_flights]))["score"]
    seeing = by_name(plan(policy, [some_flights], earlier=planned_gate.run))["score"]
    assert "values in run" in seeing.basis
    assert seeing.bound < blind.bound


def test_a_resumed_run_keeps_the_bets_that_were_fixed(planned_gate, tmp_path, monkeypatch):
    run = shutil.copytree(planned_gate.run, tmp_path / "run")
    told = [json.loads((run / name).read_text()) for name in ("evidence.json", "manifest.json")]
    for name in ("decision.json", "evidence.json", "state.npz"):
        (run / name).unlink()
    monkeypatch.setattr("harness.pipeline.planning_pass._values", None)
    again = resume_gate(run)
    assert again.decision is planned_gate.decision
    assert json.loads((run / "evidence.json").read_text())["evidence"] == told[0]["evidence"]
    assert json.loads((run / "manifest.json").read_text())["planning"] == told[1]["planning"]


def test_a_plan_over_units_counts_units(policy_file, tmp_path):
    table(2000).assign(user=np.arange(2000) // 5).to_csv(tmp_path / "t.csv", index=False)
    path = policy_file(SCORE, unit="user", weight="unit", windows={"planning": 100})
    needs = plan(path, [tmp_path / "t.csv"])
    assert needs.windows[0].available == 300
    assert "units" in needs.tests[0].basis


def gate_policy(tmp_path, *guardrails, **more):
    path = tmp_path / "gate.yaml"
    content = {"version": 1, "preset": "none", "decision": RETRAIN["decision"], **more}
    path.write_text(yaml.safe_dump({**content, "guardrails": list(guardrails)}))
    return path


def test_every_bin_of_a_calibration_is_planned_for(tmp_path):
    rail = {"name": "cal", "metric": "calibration_shift", "margin": 0.2, "effect": 0.0}
    least = {"min_requests": 1}
    one = plan(gate_policy(tmp_path, {**rail, "bins": 1}, windows=least))
    four = plan(gate_policy(tmp_path, {**rail, "bins": 4}, windows=least))
    assert by_name(four)["cal"].bound == pytest.approx(4 * by_name(one)["cal"].bound)
    # All four have to be proven, so together they need more than each.
    assert four.requests > by_name(four)["cal"].quantile > 3 * by_name(one)["cal"].quantile
    assert any("4 bins" in note for note in four.notes)


def test_latency_is_planned_in_requests_of_its_sample(tmp_path):
    rail = {"name": "slow", "metric": "latency_ratio", "margin": 0.2, "effect": 0.0}
    found = plan(gate_policy(tmp_path, rail))
    assert any("replayed singly" in note for note in found.notes)
    assert by_name(found)["slow"].mean == 0.0
    assert by_name(found)["slow"].margin == pytest.approx(np.log(1.2))

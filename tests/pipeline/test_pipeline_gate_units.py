"""Gates that count users or hours once: the drawn order, what is counted, and what is refused."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from gates import ROOT, tiny_model, tiny_traffic

from harness.core.errors import TrafficError, UsageError
from harness.decide.policy import policy_from_yaml
from harness.pipeline import prepare as preparation
from harness.pipeline.at_hand import earlier_values
from harness.pipeline.gate import resume_gate, run_gate
from harness.pipeline.gate_units import unit_ends
from harness.pipeline.plan import plan
from harness.replay.order import draw_order, draw_units
from harness.store.runs import RunFolder

USERS, EACH = 120, 5
N = USERS * EACH
AS_OF = "2021-01-01T00:00:00Z"
POLICY = {
    "version": 1,
    "preset": "none",
    "unit": "user",
    "weight": "unit",
    "decision": {"output": "label", "rule": "none", "score": "probability"},
    "windows": {"newest": {"days": 200}, "min_requests": 600},
    "guardrails": [
        {"name": "flips", "metric": "decision_flip", "margin": 0.3},
        {"name": "score", "metric": "score_shift", "margin": 0.3},
    ],
    "sandbox": {"memory": "2GiB"},
    "graph": {"when": "never"},
}
STOPPED = """
import os, signal, sys
from pathlib import Path
from harness.pipeline.gate import resume_gate

def listener(event):
    if event.stage == "replay" and event.done >= 300:
        os.kill(os.getpid(), signal.SIGKILL)

resume_gate(Path(sys.argv[1]), listener=listener)
"""


def user(i):
    return f"u{i % USERS}"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Both versions and traffic in which a user's requests lie far apart."""
    folder = tmp_path_factory.mktemp("units")
    tiny_model(folder / "v1.onnx")
    tiny_model(folder / "v2.onnx", raised="Add({x}, {x})")
    tiny_traffic(folder / "traffic", N, users=[user(i) for i in range(N)])
    return folder


def gate(made, out, cache, *, traffic="traffic", **changes):
    path = made / f"{out.name}.yaml"
    path.write_text(yaml.safe_dump({**POLICY, **changes}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "BATCH_REQUESTS", 32)
        patch.setattr(preparation.secrets, "randbits", lambda _: 11)
        return run_gate(
            str(made / "v1.onnx"), str(made / "v2.onnx"), traffic=[made / traffic], policy=path,
            as_of=AS_OF, out=out, cache_dir=cache, state_dir=out.parent / f"{out.name}-state",
        )  # fmt: skip


def read(run, name):
    return json.loads((run / f"{name}.json").read_text())


def evidence(run):
    return {e["name"]: e for e in read(run, "evidence")["evidence"]}


def pairs(run):
    folder = RunFolder.open(run)
    parts = [folder.read_pairs(n) for n in folder.pairs_chunks()]
    return {name: np.concatenate([np.asarray(p[name]) for p in parts]) for name in parts[0]}


@pytest.fixture(scope="module")
def whole(made, windows):
    """A gate over all users, in batches that cut them."""
    gate(made, made / "whole", windows)
    return made / "whole"


def test_the_tests_count_users_and_the_windows_requests(whole):
    found = evidence(whole)["score"]
    assert (found["n"], found["n_available"]) == (USERS, USERS)
    assert found["reason"].startswith("Proven within")
    assert "units of user, each once, like the newest window's" in found["subject"]
    window = read(whole, "decision")["windows"]["newest"]
    assert (window["n"], window["judged"], window["units"]) == (N, N, USERS)
    said = read(whole, "decision")["not_compared"]
    assert any("600 requests are 120 units of user" in text for text in said)


def test_a_plan_counts_the_users_of_sealed_traffic_and_of_an_earlier_run(made, windows, whole):
    path = made / "planned.yaml"
    path.write_text(yaml.safe_dump(POLICY))
    sealed = Path(read(whole, "manifest")["window"]["path"])
    needs = plan(path, [sealed], earlier=whole)
    assert needs.windows[0].available == USERS
    least = {**POLICY["windows"], "min_requests": 100_000, "max_requests": 200_000}
    path.write_text(yaml.safe_dump({**POLICY, "windows": least}))
    more = plan(path, [sealed], earlier=whole)
    assert (more.requests, more.binding) == (needs.requests, needs.binding)
    assert more.requests < USERS
    assert "min_requests asks for 100,000 requests among them" in more.to_text()
    path.write_text(yaml.safe_dump(POLICY))
    assert f"600 recorded exchanges, {USERS} units of user" in needs.to_text()
    found = earlier_values(whole, policy_from_yaml(path.read_text(), "p"))["score"]
    assert len(found) == USERS
    assert np.std(found) < 0.7 * np.std(pairs(whole)["x:score"])
    path.write_text(yaml.safe_dump({**POLICY, "unit": "session"}))
    with pytest.raises(UsageError, match="does not record the unit session"):
        plan(path, earlier=whole)
    with pytest.raises(TrafficError, match="does not record the column session"):
        plan(path, [sealed])


def test_users_come_whole_and_one_after_another(whole):
    order = pairs(whole)["cx:user"].astype(str)
    changes = np.flatnonzero(order[1:] != order[:-1])
    assert len(changes) + 1 == USERS
    assert order[:EACH].tolist() != [user(i) for i in range(EACH)]


def test_the_value_of_a_user_is_the_mean_of_its_requests(whole):
    table = pairs(whole)
    users = table["cx:user"].astype(str)
    means = [table["x:score"][users == u].mean() for u in dict.fromkeys(users.tolist())]
    found = evidence(whole)["score"]
    last = found["path"][-1]
    assert last["n"] == len(means)
    assert last["lower"] < np.mean(means) < last["upper"]
    # Beyond what single requests would show: a user's mean varies less.
    assert np.std(means) < 0.7 * np.std(table["x:score"])


def test_a_killed_gate_ends_with_the_identical_evidence(made, windows, whole):
    run = made / "killed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.pipeline.gate.conclude", _not_now)
        with pytest.raises(KeyboardInterrupt):
            gate(made, run, windows)
    ended = subprocess.run(
        [sys.executable, "-c", STOPPED, run], capture_output=True, check=False, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ended.returncode == -signal.SIGKILL
    saved = RunFolder.open(run).load_state()
    assert any(sums["count"] for sums in saved[2]["evidence"]["units"].values())
    resume_gate(run)
    assert evidence(run) == evidence(whole)
    assert read(run, "decision")["decision"] == read(whole, "decision")["decision"]


def _not_now(*_):
    raise KeyboardInterrupt


def test_a_window_claim_is_about_users_and_planning_takes_whole_ones(made, windows):
    run = made / "window"
    asked = {"newest": {"days": 200}, "min_requests": 500, "planning": 20}
    gate(made, run, windows, claim="window", windows=asked)
    found = evidence(run)["score"]
    assert found["subject"].startswith("mean over exactly the 120 units of user, each once,")
    assert (found["n"], found["n_available"]) == (USERS - 20, USERS - 20)
    assert read(run, "manifest")["planning"]["requests"] == {"newest": 20 * EACH}
    # All of exactly these users were seen, so nothing is left to chance.
    assert found["e_promote"] == 1e300


def test_a_user_in_two_slices_is_refused(made, windows):
    traffic = made / "mixed"
    tiny_traffic(traffic, 40, users=["a"] * 40)
    rails = [{**POLICY["guardrails"][0], "slice_by": ["site"]}]
    with pytest.raises(TrafficError, match="a unit of user has requests with site"):
        gate(made, made / "sliced", windows, traffic="mixed", guardrails=rails)


def test_a_request_without_a_user_is_refused(made, windows):
    tiny_traffic(made / "nobody", 40, users=["a"] * 39 + [""])
    with pytest.raises(TrafficError, match="1 requests of the newest window carry no user"):
        gate(made, made / "missing", windows, traffic="nobody")


def test_a_column_that_is_not_recorded_is_refused(made, windows):
    with pytest.raises(TrafficError, match="does not record the column usr"):
        gate(made, made / "unknown", windows, unit="usr")


def test_blocks_of_time_count_once(made, windows):
    gate(made, made / "blocks", windows, unit="1m")
    assert evidence(made / "blocks")["flips"]["n"] == pytest.approx(N / 60, abs=1)


@pytest.mark.parametrize("limit", [0, 3, 10, 1000])
def test_an_order_holds_whole_units_up_to_the_limit(limit):
    unit = np.array([0, 1, 1, 2, 2, 2, 3, 3, 3, 3])
    selected = np.ones(10, np.bool_)
    selected[9] = False
    order = draw_units(selected, unit, seed=3, window="newest", limit=limit)
    assert len(order) <= limit
    assert len(set(order.tolist())) == len(order)
    sizes = dict(zip(*np.unique(unit[:9], return_counts=True), strict=True))
    ends = unit_ends(order, unit)
    assert np.diff(ends, prepend=0).tolist() == [sizes[unit[order[e - 1]]] for e in ends]


def test_every_unit_is_as_likely_to_come_first_whatever_its_size():
    unit = np.repeat([0, 1, 2, 3], [1, 2, 10, 40])
    every = np.ones(len(unit), np.bool_)
    first = [
        unit[draw_units(every, unit, seed=s, window="newest", limit=99)[0]] for s in range(800)
    ]
    counts = np.bincount(first, minlength=4)
    # 200 ± 4 standard deviations of 12.2.
    assert counts.min() > 150
    assert counts.max() < 250
    by_request = unit[draw_order(every, seed=1, window="newest", limit=99)]
    assert len(unit_ends(np.arange(len(unit)), by_request)) > 4


def test_the_folder_of_a_refused_gate_is_not_left(made):
    assert not Path(made / "unknown").exists()


def test_a_later_attempt_starts_anew_and_pays(made, windows):
    """The same users come again in new requests, and each may count once."""
    tight = [{**POLICY["guardrails"][1], "margin": 0.001}]
    first, second = made / "first", made / "second"
    gate(made, first, windows, guardrails=tight)
    assert read(first, "decision")["decision"] == "HOLD"
    (made / "second-state").symlink_to(made / "first-state")
    gate(made, second, windows, guardrails=tight)
    said = read(second, "decision")["again"]
    assert said["how"] == "spend"
    assert "units of user may go on in new requests" in said["why"]
    assert evidence(second)["score"]["n"] == USERS

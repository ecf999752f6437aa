"""The live judge as a whole: answers, refusals, restarts; a process that is killed."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from scipy.stats import binom

from harness.core.errors import GateError, PolicyError, TrafficError
from harness.core.jsonable import canonical
from harness.core.live import LiveGuardrail, LiveKind
from harness.core.policies import Direction
from harness.core.verdicts import Decision, Verdict
from harness.judge.exposures import Requests
from harness.judge.live import LiveJudge
from harness.judge.live_plan import Labels, LiveBatch, LivePlan
from harness.judge.track import Track

SECOND = 10**9
RATE = LiveGuardrail(name="rate", kind=LiveKind.SHIFT, margin=0.1)
ERRORS = LiveGuardrail(name="errors", kind=LiveKind.ERRORS, margin=2.0)
SCORE = LiveGuardrail(
    name="score", kind=LiveKind.PAIRED, margin=0.05, bounds=(-1.0, 1.0), direction=Direction.BOTH
)
LOSS = LiveGuardrail(
    name="loss", kind=LiveKind.SHIFT, margin=0.1, label_maturity_s=60.0, gap=0.1, second_moment=0.2
)
CANARY = LivePlan(guardrails=(RATE, ERRORS), maturity_s=5.0)


def batch(rng, number, *, pi=0.5, n=400, each=1, rates=(0.3, 0.3), errors=(0.02, 0.02), users=None,
          seconds=10, names=("rate", "errors")):  # fmt: skip
    """Ten seconds of traffic: new users, arm by coin flip, `each` requests a user."""
    count = n // each if users is None else users
    arms = rng.random(count) < pi
    wanted = rng.random(count) < np.where(arms, rates[1], rates[0])
    failing = rng.random(count) < np.where(arms, errors[1], errors[0])
    start = number * seconds * SECOND
    first = np.sort(rng.integers(0, (seconds - 1 - each // 2) * SECOND, count))
    rows = np.repeat(np.arange(count), each)
    ts_ns = start + first[rows] + np.tile(np.arange(each), count) * (SECOND // 2)
    order = np.argsort(ts_ns, kind="stable")
    values = {"rate": wanted[rows].astype(float), "errors": failing[rows].astype(float)}
    requests = Requests(
        ts_ns=ts_ns[order],
        unit=np.array([f"{number}-{row}" for row in rows[order]], object),
        candidate=arms[rows][order],
        propensity=np.full(len(rows), pi),
        values={name: values[name][order] for name in names},
    )
    return LiveBatch(number=number, until_ns=start + seconds * SECOND, requests=requests)


def empty(number, until_s, names=("rate", "errors"), labels=None):
    nothing = np.zeros(0)
    requests = Requests(
        ts_ns=nothing.astype(np.int64),
        unit=nothing.astype(object),
        candidate=nothing.astype(np.bool_),
        propensity=nothing,
        values=dict.fromkeys(names, nothing),
    )
    return LiveBatch(
        number=number, until_ns=until_s * SECOND, requests=requests, labels=labels or {}
    )


def run(plan, batches):
    judge = LiveJudge(plan)
    answers = [judge.update(b) for b in batches]
    return judge, answers


def test_harm_is_rolled_back_and_named():
    rng = np.random.default_rng(1)
    judge, answers = run(CANARY, [batch(rng, i, rates=(0.3, 0.6)) for i in range(10)])
    assert answers[-1].decision is Decision.ROLLBACK
    assert answers[-1].culprits == ("rate",)
    assert judge.evidence()[0].verdict is Verdict.FAIL
    assert judge.evidence()[0].lower >= 0.1


def test_more_errors_are_rolled_back():
    rng = np.random.default_rng(2)
    _, answers = run(CANARY, [batch(rng, i, errors=(0.02, 0.3)) for i in range(10)])
    assert answers[-1].decision is Decision.ROLLBACK
    assert answers[-1].culprits == ("errors",)


def test_a_harmless_candidate_is_promoted_over_a_ramp():
    rng = np.random.default_rng(3)
    ramp = [0.05] * 3 + [0.2] * 3 + [0.5] * 14
    batches = [batch(rng, i, pi=pi, n=1_000) for i, pi in enumerate(ramp)]
    judge, answers = run(CANARY, batches)
    assert answers[-1].decision is Decision.PROMOTE
    assert [e.verdict for e in judge.evidence()] == [Verdict.PASS, Verdict.PASS]
    assert answers[0].decision is Decision.HOLD
    assert answers[0].reason == "undecided"


def test_shadow_needs_no_arms():
    rng = np.random.default_rng(4)
    plan = LivePlan(guardrails=(SCORE,), maturity_s=0.0)
    judge = LiveJudge(plan)
    for number in range(4):
        made = batch(rng, number, n=500, names=())
        shadow = dataclasses.replace(
            made.requests,
            candidate=np.zeros(500, np.bool_),
            propensity=np.zeros(500),
            values={"score": rng.normal(0.0, 0.02, 500)},
        )
        answer = judge.update(dataclasses.replace(made, requests=shadow))
    assert (answer.decision, answer.sample_ratio_p) == (Decision.PROMOTE, 1.0)
    assert answer.n_closed == 2_000


def test_a_broken_split_is_a_hold_that_stays():
    rng = np.random.default_rng(5)
    judge = LiveJudge(CANARY)
    for number in range(6):
        made = batch(rng, number, pi=0.5, rates=(0.3, 0.9))
        said = dataclasses.replace(made.requests, propensity=np.full(400, 0.3))
        answer = judge.update(dataclasses.replace(made, requests=said))
    assert (answer.decision, answer.reason) == (Decision.HOLD, "sample_ratio_mismatch")
    assert answer.sample_ratio_p < 0.001
    assert "as declared" in answer.explanation
    again = judge.update(batch(rng, 6))
    assert again.reason == "sample_ratio_mismatch"


def test_promotion_waits_for_whole_cycles_and_rollback_does_not():
    rng = np.random.default_rng(6)
    day = dataclasses.replace(CANARY, cycle_s=100.0)
    _, answers = run(day, [batch(rng, i, n=2_000) for i in range(12)])
    decisions = [a.decision for a in answers]
    assert decisions[:10] == [Decision.HOLD] * 10
    # The first day's units are closed 5 s after its end.
    assert decisions[10:] == [Decision.PROMOTE] * 2
    assert answers[-1].whole_cycles == 1
    assert "over 1 whole cycle." in answers[-1].explanation
    assert answers[3].so_far
    _, harmful = run(day, [batch(rng, i, rates=(0.2, 0.8)) for i in range(5)])
    assert harmful[-1].decision is Decision.ROLLBACK
    assert "so far" in harmful[-1].explanation


def labelled(rng, judge, batches, *, late=False, candidate_labels=1.0):
    """Feeds traffic, then each batch's labels 30 s (or 70 s) later."""
    waiting = []
    for made in batches:
        requests = made.requests
        keep = ~requests.candidate | (rng.random(len(requests)) < candidate_labels)
        due = made.until_ns + (70 if late else 30) * SECOND
        found = Labels(
            unit=requests.unit[keep],
            value=(rng.random(keep.sum()) < 0.3).astype(float),
            ts_ns=np.full(int(keep.sum()), due - SECOND),
        )
        waiting.append((due, found))
        ready = [item for item in waiting if item[0] <= made.until_ns]
        waiting = [item for item in waiting if item[0] > made.until_ns]
        labels = {"loss": ready[0][1]} if ready else {}
        answer = judge.update(dataclasses.replace(made, labels=labels))
    return answer


LABELS = LivePlan(guardrails=(RATE, LOSS), maturity_s=5.0)


def test_labels_have_a_clock_of_their_own_and_half_the_level():
    rng = np.random.default_rng(7)
    judge = LiveJudge(LABELS)
    batches = [batch(rng, i, n=1_000, names=("rate",)) for i in range(25)]
    answer = labelled(rng, judge, batches)
    assert LABELS.levels() == {"requests": 0.025, "labels after 60 s": 0.025}
    assert answer.decision is Decision.PROMOTE
    loss = judge.evidence()[1]
    assert 0 < loss.n < judge.evidence()[0].n


def test_labels_that_come_late_never_count():
    rng = np.random.default_rng(8)
    judge = LiveJudge(LABELS)
    answer = labelled(rng, judge, [batch(rng, i, names=("rate",)) for i in range(12)], late=True)
    assert judge.evidence()[1].verdict is Verdict.NO_DATA
    assert dict(answer.ignored)["label_late_or_unknown"] > 0
    assert answer.decision is Decision.HOLD


def test_labels_that_one_arm_loses_are_a_hold():
    rng = np.random.default_rng(9)
    judge = LiveJudge(LABELS)
    batches = [batch(rng, i, names=("rate",)) for i in range(15)]
    answer = labelled(rng, judge, batches, candidate_labels=0.5)
    assert (answer.decision, answer.reason) == (Decision.HOLD, "labels_unequal")


def test_a_guardrail_that_does_not_gate_only_reports():
    rng = np.random.default_rng(10)
    plan = LivePlan(guardrails=(dataclasses.replace(RATE, gating=False), ERRORS), maturity_s=5.0)
    judge, answers = run(plan, [batch(rng, i, n=1_000, rates=(0.2, 0.8)) for i in range(14)])
    assert judge.evidence()[0].verdict is Verdict.FAIL
    assert answers[-1].decision is not Decision.ROLLBACK


def test_nothing_gates_nothing_is_promoted():
    plan = LivePlan(guardrails=(dataclasses.replace(RATE, gating=False),), maturity_s=1.0)
    rng = np.random.default_rng(11)
    _, answers = run(plan, [batch(rng, i, n=2_000, names=("rate",)) for i in range(4)])
    assert answers[-1].decision is Decision.HOLD


def test_without_any_error_an_error_ratio_proves_nothing():
    rng = np.random.default_rng(20)
    judge, answers = run(CANARY, [batch(rng, i, n=2_000, errors=(0.0, 0.0)) for i in range(6)])
    assert [e.verdict for e in judge.evidence()] == [Verdict.PASS, Verdict.NO_DATA]
    assert answers[-1].decision is Decision.HOLD


def test_a_repeated_batch_changes_nothing_and_is_counted():
    rng = np.random.default_rng(12)
    batches = [batch(rng, i) for i in range(4)]
    once, _ = run(CANARY, batches)
    twice, answers = run(CANARY, [b for b in batches for _ in range(2)])
    assert dict(answers[-1].ignored)["repeated_batches"] == 4
    assert canonical(twice.evidence()) == canonical(once.evidence())


def spoiled(change, **requests):
    rng = np.random.default_rng(13)
    made = batch(rng, 1, n=50)
    changed = dataclasses.replace(made.requests, **requests)
    return dataclasses.replace(made, requests=changed, **change)


GOOD = batch(np.random.default_rng(13), 1, n=50)
N = len(GOOD.requests)


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (dataclasses.replace(GOOD, number=2), "has not come yet"),
        (dataclasses.replace(GOOD, until_ns=5 * SECOND), "ends before"),
        (spoiled({}, ts_ns=GOOD.requests.ts_ns - 10 * SECOND), "not in order"),
        (spoiled({}, ts_ns=GOOD.requests.ts_ns[::-1]), "not in order"),
        (spoiled({"until_ns": 15 * SECOND}), "not in order"),
        (spoiled({}, unit=np.full(N, "", object)), "no unit"),
        (spoiled({}, unit=np.full(N, None, object)), "no unit"),
        (spoiled({}, propensity=np.full(N, math.nan)), "propensity"),
        (dataclasses.replace(batch(np.random.default_rng(13), 1, n=65), requests=dataclasses.replace(
            batch(np.random.default_rng(13), 1, n=65).requests,
            propensity=np.linspace(0.1, 0.9, 65))), "different propensities"),
        (spoiled({}, candidate=np.zeros(3, np.bool_)), "different lengths"),
        (spoiled({}, values={"rate": np.zeros(N)}), "values of"),
        (spoiled({}, values={"rate": np.full(N, 2.0), "errors": np.zeros(N)}), "outside"),
        (spoiled({"labels": {"rate": Labels(unit=np.zeros(0, object), value=np.zeros(0),
                                            ts_ns=np.zeros(0, np.int64))}}), "takes none"),
    ],
)  # fmt: skip
def test_a_batch_that_cannot_be_is_refused_whole(bad, what):
    judge = LiveJudge(CANARY)
    judge.update(batch(np.random.default_rng(14), 0, n=50))
    before = canonical(judge.state())
    with pytest.raises(TrafficError, match=what):
        judge.update(bad)
    assert canonical(judge.state()) == before
    assert judge.update(GOOD).n_units == 100


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha_promote": 0.0},
        {"alpha_rollback": -0.1},
        {"sample_ratio_alpha": 1.0},
        {"cycle_s": -1.0},
        {"guardrails": ()},
        {"guardrails": (RATE, RATE)},
        {"guardrails": (dataclasses.replace(RATE, margin=1.0),)},
        {"guardrails": (dataclasses.replace(RATE, margin=math.nan),)},
        {"guardrails": (dataclasses.replace(RATE, bounds=(1.0, 0.0)),)},
        {"guardrails": (dataclasses.replace(RATE, label_maturity_s=0.0),)},
        {"guardrails": (dataclasses.replace(ERRORS, margin=0.5),)},
        {"guardrails": (dataclasses.replace(ERRORS, direction=Direction.BOTH),)},
        {"guardrails": (dataclasses.replace(SCORE, bounds=(0.0, 1.0)),)},
    ],
)
def test_a_plan_that_cannot_be_is_refused(wrong):
    with pytest.raises(PolicyError):
        dataclasses.replace(CANARY, **wrong)


def test_a_saved_judge_goes_on_identically_after_every_batch():
    rng = np.random.default_rng(15)
    plan = dataclasses.replace(CANARY, cycle_s=20.0, burst_gap_s=0.5)
    batches = [batch(rng, i, pi=0.2 if i < 3 else 0.5) for i in range(8)]
    _, answers = run(plan, batches)
    judge, found = LiveJudge(plan), []
    for made in batches:
        judge = LiveJudge.from_state(plan, json.loads(canonical(judge.state())))
        found.append(judge.update(made))
    assert found == answers


def test_evidence_of_another_plan_is_refused():
    other = dataclasses.replace(CANARY, alpha_promote=0.01)
    with pytest.raises(GateError):
        LiveJudge.from_state(other, LiveJudge(CANARY).state())


_WORKER = """
import json, os, pathlib, sys
import numpy as np
sys.path.insert(0, {tests!r})
from test_judge_live import CANARY, batch
from harness.core.jsonable import canonical
from harness.judge.live import LiveJudge

saved = pathlib.Path({saved!r})
judge = LiveJudge(CANARY)
if saved.exists():
    judge = LiveJudge.from_state(CANARY, json.loads(saved.read_bytes()))
for number in range(60):
    # Every process draws the same traffic; the judge skips what it has seen.
    answer = judge.update(batch(np.random.default_rng([7, number]), number, n=200))
    fresh = saved.with_suffix(".new")
    fresh.write_bytes(canonical(judge.state()))
    os.replace(fresh, saved)
    print(number, flush=True)
    if number == 50:
        sys.stdin.readline()
print(canonical(judge.evidence()).hex(), flush=True)
"""


def worker(saved):
    """Judges sixty batches; before the last nine it waits for a line, or for the end of its input."""
    code = textwrap.dedent(_WORKER).format(tests=os.path.dirname(__file__), saved=str(saved))  # noqa: PTH120
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_a_process_that_is_killed_goes_on_to_the_identical_answer(tmp_path):
    saved = tmp_path / "judge.json"
    killed = worker(saved)
    for line in killed.stdout:
        if int(line) == 20:
            killed.send_signal(signal.SIGKILL)
            break
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    stopped_at = json.loads(saved.read_bytes())["next"]
    assert 20 < stopped_at < 60
    again = worker(saved)
    out, _ = again.communicate(timeout=300)
    judge = LiveJudge(CANARY)
    for number in range(60):
        judge.update(batch(np.random.default_rng([7, number]), number, n=200))
    assert out.split()[-1] == canonical(judge.evidence()).hex()


def fleet(plan, paths, seed, batches, **kinds):
    """(rollbacks, promotions) of whole live judges."""
    rng = np.random.default_rng(seed)
    rollbacks = promotions = 0
    for _ in range(paths):
        judge = LiveJudge(plan)
        promoted = False
        for number in range(batches):
            pi = (0.1, 0.3, 0.5)[min(number // 4, 2)]
            answer = judge.update(batch(rng, number, pi=pi, **kinds))
            promoted |= answer.decision is Decision.PROMOTE
        rollbacks += answer.decision is Decision.ROLLBACK
        promotions += promoted
    return rollbacks, promotions


AT_MARGIN = LivePlan(
    guardrails=(
        dataclasses.replace(RATE, gap=0.1, second_moment=0.2),
        dataclasses.replace(ERRORS, margin=1.0),
    ),
    maturity_s=6.0,
)


@pytest.mark.usefixtures("few_points")
def test_whole_judges_at_the_margin_keep_their_level_with_ten_requests_a_user():
    rollbacks, promotions = fleet(
        AT_MARGIN, 60, 16, 12, n=1_500, each=10, rates=(0.3, 0.4), errors=(0.1, 0.1)
    )
    tolerated = binom.ppf(0.9999, 60, 0.05)
    assert rollbacks <= tolerated
    assert promotions <= tolerated


@pytest.mark.usefixtures("few_points")
def test_the_same_users_taken_request_by_request_would_lose_it():
    rng = np.random.default_rng(19)
    crossed = 0
    for _ in range(20):
        judge = LiveJudge(dataclasses.replace(AT_MARGIN, sample_ratio_alpha=1e-12))
        for number in range(8):
            made = batch(rng, number, n=1_500, each=10, rates=(0.3, 0.4), errors=(0.1, 0.1))
            alone = np.array([f"{number}-{i}" for i in range(1_500)], object)
            requests = dataclasses.replace(made.requests, unit=alone)
            answer = judge.update(dataclasses.replace(made, requests=requests))
        crossed += answer.decision is Decision.ROLLBACK
    assert crossed > binom.ppf(0.9999, 20, 0.05)


def test_memory_is_flat_in_requests_of_the_same_users():
    rng = np.random.default_rng(17)
    judge = LiveJudge(CANARY)
    judge.update(batch(rng, 0, n=300))
    sizes = []
    for number in range(1, 12):
        made = batch(rng, number, n=300)
        known = np.array([f"0-{i}" for i in range(300)], object)
        same = dataclasses.replace(made.requests, unit=known)
        answer = judge.update(dataclasses.replace(made, requests=same))
        sizes.append(len(canonical(judge.state())))
    assert answer.n_units == 300
    assert max(sizes[1:]) - min(sizes[1:]) < 200


def test_a_batch_costs_milliseconds():
    rng = np.random.default_rng(18)
    judge = LiveJudge(CANARY)
    judge.update(batch(rng, 0, n=10_000))
    made = batch(rng, 1, n=10_000)
    started = time.process_time()
    judge.update(made)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize("guardrail", [RATE, ERRORS, SCORE])
def test_harm_that_shows_within_a_batch_is_found_however_traffic_is_cut(guardrail):
    # Harm, then as much of the opposite: at the batch's end nothing is left to see.
    rng, n = np.random.default_rng(31), 3_000
    arms = rng.random(n) < 0.5
    harmed = arms == (np.arange(n) < n // 2)
    luck = rng.random(n)
    values = {
        "rate": (luck < np.where(harmed, 0.6, 0.2)).astype(float),
        "errors": (luck < np.where(harmed, 0.3, 0.03)).astype(float),
        "score": np.where(np.arange(n) < n // 2, 0.5, -0.9) * luck,
    }[guardrail.name]
    plan = LivePlan(guardrails=(dataclasses.replace(guardrail, direction=Direction.INCREASE),),
                    maturity_s=0.0)  # fmt: skip
    found = []
    for parts in (1, 4, 60):
        judge = LiveJudge(plan)
        for number, rows in enumerate(np.array_split(np.arange(n), parts)):
            requests = Requests(
                ts_ns=rows * SECOND,
                unit=np.array([str(row) for row in rows], object),
                candidate=arms[rows],
                propensity=np.full(len(rows), 0.5),
                values={guardrail.name: values[rows]},
            )
            end = (int(rows[-1]) + 1) * SECOND
            answer = judge.update(LiveBatch(number=number, until_ns=end, requests=requests))
        found.append((answer.decision, answer.culprits))
    assert found == [(Decision.ROLLBACK, (guardrail.name,))] * 3
    last = judge._tests[guardrail.name].log_e_rollback()
    assert last < math.log(20)


def test_looks_inside_a_batch_are_those_of_units_one_by_one():
    rng = np.random.default_rng(32)
    for bounds, direction in (((0.0, 1.0), Direction.INCREASE), ((-1.0, 1.0), Direction.BOTH)):
        at = {"direction": direction, "margin": 0.2, "bounds": bounds, "alphas": (0.05, 0.05)}
        x, failed = np.round(rng.random(30)), rng.random(30) < 0.2
        single, whole = Track(**at), Track(**at)
        one_by_one = []
        for value, lost in zip(x, failed, strict=True):
            single.add(np.array([value])[: 0 if lost else 1], int(lost))
            one_by_one.append(single.log_e_rollback())
        both = [whole.add_each(x[part], failed[part]) for part in (slice(0, 11), slice(11, 30))]
        assert np.concatenate(both) == pytest.approx(np.array(one_by_one), abs=1e-9)


@pytest.mark.parametrize("answer_of", [lambda b: [b], lambda b: [b, empty(11, 2_000)]])
def test_silence_makes_no_whole_cycle(answer_of):
    """Half an hour of traffic and then nothing: the rest of the day was not seen."""
    rng = np.random.default_rng(6)
    day = dataclasses.replace(CANARY, cycle_s=200.0)
    judge, _ = run(day, [batch(rng, i, n=2_000) for i in range(10)])
    last = [judge.update(b) for b in answer_of(empty(10, 1_000))][-1]
    assert (last.decision, last.whole_cycles) == (Decision.HOLD, 0)
    assert "Seen in part: 1 cycle" in last.explanation

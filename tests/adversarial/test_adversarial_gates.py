"""Candidates that do harm, through real gates: the right answer, and nothing left behind."""

from __future__ import annotations

import json
import os
import time

import hostile_models as hostile
import numpy as np
import psutil
import pytest
from attack_gates import resources
from attacks import BREAKING
from gates import REFACTOR, tiny_model, tiny_traffic
from hostile_worker import hostile_worker

from harness.pipeline import opening
from harness.sandbox import deadlines

pytestmark = pytest.mark.usefixtures("each_look_anew")

AS_OF = "2020-12-01T00:00:00Z"
N = 600
POISONED = (17, 401)
GROWTH_BYTES = 96 << 20
"""Imports of a first gate and buffers of the allocator, far below what the candidates ask for."""


@pytest.fixture
def gate(harness, write_policy, tmp_path, monkeypatch):
    """Runs a gate against the tiny model: (exit code, decision.json, kind → findings, seconds)."""
    monkeypatch.setattr(deadlines, "PATIENCE", 100.0)  # these machines may be busy
    policy = write_policy(
        REFACTOR, windows={"min_requests": N},
        sandbox={"require": "S0", "memory": "1GiB", "batch_deadline": "100ms"},
    )  # fmt: skip
    baseline = tiny_model(tmp_path / "baseline.onnx")

    def run(candidate, *, poison=()):
        x = np.random.default_rng(5).uniform(-3, 3, N)
        x[list(poison)] = 5.0
        traffic = tiny_traffic(tmp_path / "traffic", values=x)
        held, used = resources(), psutil.Process().memory_info().rss
        began = time.perf_counter()
        ran = harness("gate", baseline, candidate, "--traffic", traffic, "--policy", policy,
                      "--as-of", AS_OF, "--out", tmp_path / "run", "-q")  # fmt: skip
        seconds = time.perf_counter() - began
        assert resources() == held
        assert psutil.Process().memory_info().rss - used < GROWTH_BYTES
        decision = json.loads((tmp_path / "run" / "decision.json").read_text())
        kinds: dict[str, list[dict[str, object]]] = {}
        for finding in json.loads((tmp_path / "run" / "findings.json").read_text())["findings"]:
            kinds.setdefault(finding["kind"], []).append(finding)
        return ran.code, decision, kinds, seconds

    return run


def candidate(tmp_path, lines, threshold):
    return hostile.hostile_model(tmp_path / "candidate.onnx", lines, threshold)


def test_the_frame_of_these_models_is_harmless_below_its_threshold(gate, tmp_path):
    code, decision, kinds, _ = gate(candidate(tmp_path, hostile.CRASH, hostile.POISON))
    assert (code, decision["decision"], kinds) == (0, "PROMOTE", {})


KINDS = {
    "crash": (hostile.CRASH, "candidate_crash"),
    "loop": (hostile.LOOP, "candidate_timeout"),
    "hungry": (hostile.HUNGRY, "candidate_error"),
    "error": (hostile.ERROR, "candidate_error"),
}
LONG = {("always", "loop"), ("always", "crash"), ("always", "hungry"), ("poison", "hungry")}
"""With few requests they stand in test_adversarial_users; here each of many costs a deadline or a process."""


@pytest.mark.parametrize(
    ("harm", "kind", "threshold"),
    [
        pytest.param(
            *KINDS[name], threshold, id=f"{when}-{name}",
            marks=[pytest.mark.long] if (when, name) in LONG else [],
        )
        for when, threshold in (("poison", hostile.POISON), ("always", hostile.ALWAYS))
        for name in KINDS
        if (when, name) != ("poison", "crash")  # the next test
    ],
)  # fmt: skip
def test_a_candidate_that_does_harm_is_rolled_back(gate, tmp_path, harm, kind, threshold):
    # To look for a second one that hangs costs as many deadlines again.
    poisoned = POISONED[:1] if harm is hostile.LOOP else POISONED
    poison = poisoned if threshold == hostile.POISON else ()
    assert_rolled_back(
        gate(candidate(tmp_path, harm, threshold), poison=poison), harm, kind, poison
    )


def assert_rolled_back(came, harm, kind, poison):
    code, decision, kinds, _ = came
    assert (code, decision["decision"], decision["reason"]) == (1, "ROLLBACK", "candidate_fails")
    assert kind in kinds
    assert ("memory_limit" in kinds) == (harm is hostile.HUNGRY)
    if poison:
        found = {f["requests"][0] for f in kinds["poison_request"]}
        assert found
        assert found <= {f"t-{i}" for i in poison}  # one may be enough to decide


def test_a_poison_request_is_quarantined_and_fails_the_same_way_in_a_comparison(
    gate, harness, tmp_path
):
    bad = candidate(tmp_path, hostile.CRASH, hostile.POISON)
    came = gate(bad, poison=POISONED)
    assert_rolled_back(came, *KINDS["crash"], POISONED)
    kinds = came[2]
    (told,) = {f["what"] for f in kinds["poison_request"][:1]}
    assert "was killed by SIGFPE" in told
    assert 'its last words: "Fatal Python error: Floating point exception"' in told
    (file,) = {f["remedy"].split("RUN/")[1] for f in kinds["poison_request"][:1]}
    ran = harness("compare", tmp_path / "baseline.onnx", bad, "-i", tmp_path / "run" / file, "-q")
    assert ran.code == 1
    assert "1 request: the candidate's process dies" in ran.out


def test_a_baseline_that_fails_as_well_is_no_harm(gate, tmp_path):
    bad = candidate(tmp_path, hostile.ERROR, hostile.POISON)
    (tmp_path / "baseline.onnx").write_bytes(bad.read_bytes())
    code, _, kinds, _ = gate(bad, poison=POISONED)
    assert code != 1
    assert {f["severity"] for f in kinds["poison_request"]} == {"info"}


@pytest.fixture
def taken_over(tmp_path, monkeypatch):
    """Makes the candidate's processes run a worker that a test has taken over."""

    def take_over(lines, **options):
        script = hostile_worker(tmp_path, lines, **options)
        honest = opening.Start
        marked = (tmp_path / "candidate.onnx").read_bytes()

        def start(files, **given):
            mine = os.pread(files.model_fd, len(marked) + 1, 0) == marked
            return honest(files, **(given | {"python": script} if mine else given))

        monkeypatch.setattr(opening, "Start", start)

    # Another file with the same answers: only what its process does can speak against it.
    tiny_model(tmp_path / "candidate.onnx", cutoff="2020-01-02T00:00:00Z")
    return take_over


@pytest.mark.parametrize(
    "attack",
    [
        # With two requests each of them stands in test_adversarial_users.
        pytest.param(a, id=a.name, marks=[] if a.name == "flood" else [pytest.mark.long])
        for a in BREAKING
    ],
)
def test_a_child_that_breaks_the_rules_is_not_promoted(gate, taken_over, tmp_path, attack):
    taken_over(attack.lines, after=attack.after)
    code, decision, kinds, _ = gate(tmp_path / "candidate.onnx")
    assert (code, decision["reason"]) == (attack.code, attack.reason)
    assert attack.kind in kinds
    assert (list(kinds) == ["candidate_flaky"]) == (attack.reason == "flaky_candidate")


@pytest.mark.parametrize(
    ("before", "word"),
    [("sys.exit(3)", "exited with code 3"), ("os.kill(os.getpid(), 11)", "SIGSEGV")],
)
def test_a_child_that_ends_before_it_is_given_the_model_says_nothing_of_it(
    gate, taken_over, tmp_path, before, word
):
    taken_over("", before=before)
    code, decision, kinds, _ = gate(tmp_path / "candidate.onnx")
    assert (code, decision["reason"]) == (3, "candidate_not_tried")
    assert "Its model was not tried" in decision["explanation"]
    assert decision["next"].startswith("Run the gate again, or `harness doctor`: ")
    told = kinds["candidate_not_tried"][0]
    assert word in told["what"]
    assert (told["severity"], told["remedy"]) == ("warning", decision["next"])


def test_a_child_that_hangs_at_its_start_ends_at_the_start_deadline(
    gate, taken_over, tmp_path, write_policy
):
    taken_over("", before="time.sleep(600)")
    write_policy(
        REFACTOR, windows={"min_requests": N},
        sandbox={"require": "S0", "memory": "1GiB", "start_deadline": "1s"},
    )  # fmt: skip
    code, decision, kinds, seconds = gate(tmp_path / "candidate.onnx")
    assert (code, decision["reason"]) == (3, "candidate_not_tried")
    assert "Its model was not tried" in decision["explanation"]
    told = kinds["candidate_not_tried"][0]
    assert "within 1 s, its sandbox.start_deadline" in told["what"]
    assert told["severity"] == "warning"
    assert seconds < 300  # it sleeps for twice as long

"""`harness canary`: wrong input is told in one message with exit code 2."""

from __future__ import annotations

import json

import pytest

POLICY = """
version: 1
decision: {output: p, rule: threshold, value: 0.5}
live:
  steps: [0.1, 0.5]
  unit: user
  guardrails:
    - {name: score, metric: score_shift, kind: shift, margin: 0.1}
"""
SERVE = ("--listen", "127.0.0.1:0", "--baseline", "127.0.0.1:1", "--candidate", "127.0.0.1:2")


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("steps: [0.1, 0.5]", "stepz: [0.1]", "did you mean 'steps'"),
        ("metric: score_shift, ", "metric: score, ", "score_shift"),
        ("metric: score_shift, ", "metric: decision_flip, ", "not measured on split traffic"),
        ("metric: score_shift, ", "range: [0, 1], ", "nothing says what is measured"),
        ("metric: score_shift, ", "metric: score_shift, range: [0, 2], ", "follows from"),
        ("metric: score_shift, ", "metric: loss_difference, ", "loss: is missing"),
        ("metric: score_shift, ", "metric: loss_difference, loss: brier, ", "label_maturity"),
        ("metric: score_shift, ", "metric: loss_difference, loss: brier, label_maturity: 1h, ", "none come"),
        ("metric: score_shift, ", "metric: score_shift, slower_than: 5ms, ", "metric: latency"),
        ("metric: score_shift, ", "metric: latency, ", "range: "),
        ("decision: {output: p, rule: threshold, value: 0.5}\n", "", "needs the policy's `decision`"),
        ("  unit: user\n", "  unit_in: input\n", "there is none"),
        ("unit: user", "unit: user\n  unit_in: cookie", "cookie"),
        ("unit: user", "unit: user\n  stay: {days: 1}", "days"),
        ("unit: user", "unit: user\n  stay: {requests: 0}", "at least 1"),
        ("unit: user", "unit: user\n  on_failure: retry", "retry"),
        ("unit: user", "unit: user\n  budget: {time: soon}", "no duration"),
        ("steps: [0.1, 0.5]\n  unit: user", "unit: user", "there are no steps"),
    ],
)  # fmt: skip
def test_a_policy_that_is_not_understood_is_refused(harness, tmp_path, old, new, says):
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY.replace(old, new))
    ran = harness("canary", *SERVE, "--policy", path, "--out", tmp_path / "out")
    assert (ran.code, says.lower() in ran.err.lower()) == (2, True), ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "--policy"),
        (("--policy", "{policy}"), "--out"),
        (("--policy", "{policy}", "--out", "out"), "--listen"),
        (("--policy", "{policy}", "--out", "out", "--listen", "127.0.0.1:0"), "--baseline and --candidate"),
        (("--policy", "{policy}", "--out", "out", *SERVE, "--labels", "none.jsonl"), "no such file"),
        (("--policy", "{policy}", "--out", "out", *SERVE[2:], "--listen", "nowhere:1"), "cannot be listened on"),
        (("--policy", "{policy}", "--out", "out", *SERVE[:4], "--candidate", "nohost"), "is no HOST:PORT"),
        (("--policy", "{policy}", "--out", "out", "--judge-listen", "nowhere:1"), "cannot be listened on"),
        (("--policy", "{policy}", "--out", "out", *SERVE, "--labels", "{policy}"), "takes labels"),
        (("--policy", "{policy}", "--out", "out", *SERVE, "--look-every", "nan"), "no number of seconds"),
        (("--policy", "{policy}", "--out", "out", "--listen", "nowhere:1", "--baseline", "127.0.0.1:1",
          "--candidate", "127.0.0.1:1"), "are the same address"),
        (("--follow", "nothing"), "no canary's folder"),
        (("--follow",), "--policy"),
        (("--policy", "{policy}", "--out", "out", *SERVE, "--tls-cert", "{policy}"), "Give both files"),
    ],
)  # fmt: skip
def test_a_command_that_cannot_be_meant_is_refused(harness, policy, words, says):
    ran = harness("canary", *(word.format(policy=policy) for word in words))
    assert (ran.code, says in ran.err) == (2, True), ran.err


def test_a_folder_of_another_canary_is_refused(harness, policy, tmp_path):
    from harness.live.folder import CanaryFolder
    from harness.live.identity import Identity
    from harness.live.policy import read_live_policy

    live = read_live_policy(policy)
    asked = Identity.of(live, seed="s", baseline="127.0.0.1:1", candidate="127.0.0.1:9")
    CanaryFolder.start(tmp_path / "out", live, asked, POLICY)[0].close()
    ran = harness("canary", *SERVE, "--policy", policy, "--out", tmp_path / "out")
    assert (ran.code, "another candidate" in ran.err) == (2, True)


def test_a_report_of_a_canary_is_its_page_and_nothing_else(harness, policy, tmp_path):
    from harness.live.folder import CanaryFolder
    from harness.live.identity import Identity
    from harness.live.policy import read_live_policy

    live = read_live_policy(policy)
    asked = Identity.of(live, seed="s", baseline="b", candidate="c")
    CanaryFolder.start(tmp_path / "out", live, asked, POLICY)[0].close()
    ran = harness("report", tmp_path / "out")
    assert (ran.code, ran.out.strip()) == (0, str(tmp_path / "out" / "report.html"))
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
    ran = harness("report", tmp_path / "out", "--format", "terminal")
    assert (ran.code, "decision.json" in ran.err) == (2, True)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_finished_canary_is_followed_to_its_exit_code(harness, policy, tmp_path, as_json):
    from dataclasses import replace

    from harness.core.verdicts import Decision
    from harness.live.folder import CanaryFolder
    from harness.live.identity import Identity
    from harness.live.policy import read_live_policy

    live = read_live_policy(policy)
    asked = Identity.of(live, seed="s", baseline="b", candidate="c")
    folder, canary = CanaryFolder.start(tmp_path / "out", live, asked, POLICY)
    folder.tell("decision", replace(canary.standing(), decision=Decision.ROLLBACK, final=True))
    folder.close()
    ran = harness("canary", "--follow", tmp_path / "out", *(["--json"] if as_json else []))
    assert ran.code == 1
    last = ran.out.splitlines()[-1]
    assert (json.loads(last)["decision"] if as_json else last.split()[1]) == "ROLLBACK"

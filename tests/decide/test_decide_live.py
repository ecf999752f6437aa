"""The `live` section of a policy: one file for replay, tables and running traffic."""

from __future__ import annotations

import pytest

from harness.core.errors import PolicyError
from harness.core.live import Live, LiveGuardrail, LiveKind, LiveMetric
from harness.core.policies import Direction
from harness.decide.policy import live_from_yaml, policy_from_yaml, table_policy_from_yaml

LIVE = """
live:
  steps: [0.01, 0.1, 0.5]
  unit: user
  maturity: 30m
  cycle: 24h
  bursts: {gap: 5s, longest: 10m}
  sample_ratio: 0.0005
  guardrails:
    - {name: score, kind: shift, range: [0, 1], margin: 0.05, direction: both, effect: 0.01, variance: 0.09}
    - {name: errors, kind: errors, ratio: 1.5, gating: false}
    - {name: loss, kind: shift, range: [0, 1], margin: 0.02, label_maturity: 24h}
"""
ALPHA = "version: 1\nalpha: {promote: 0.01, rollback: 0.02}\n"
GATE = ALPHA + "preset: refactor\n"
TABLE = ALPHA + "guardrails:\n  - {name: d, range: [-1, 1], margin: 0.1}\n"
SHADOW = """version: 1
live:
  unit: user
  guardrails:
    - {name: score, kind: paired, range: [-1, 1], margin: 0.05, effect: 0.01, variance: 0.01}
"""


def test_everything_that_is_said_is_read():
    assert live_from_yaml(ALPHA + LIVE, "p") == Live(
        steps=(0.01, 0.1, 0.5), unit="user", maturity_s=1800.0, cycle_s=86_400.0,
        burst_gap_s=5.0, burst_longest_s=600.0, sample_ratio_alpha=0.0005,
        alpha_promote=0.01, alpha_rollback=0.02,
        guardrails=(
            LiveGuardrail(name="score", kind=LiveKind.SHIFT, margin=0.05, direction=Direction.BOTH,
                          gap=0.04, second_moment=0.09),
            LiveGuardrail(name="errors", kind=LiveKind.ERRORS, margin=1.5, gating=False,
                          metric=LiveMetric.FAILURE),
            LiveGuardrail(name="loss", kind=LiveKind.SHIFT, margin=0.02, label_maturity_s=86_400.0),
        ),
    )  # fmt: skip


def test_without_steps_both_versions_answer_and_the_moment_is_about_the_margin():
    shadow = live_from_yaml(SHADOW, "p")
    assert (shadow.steps, shadow.alpha_promote) == ((), 0.05)
    assert shadow.guardrails[0].second_moment == pytest.approx(0.01 + 0.04**2)


@pytest.mark.parametrize("direction", ["increase", "decrease"])
def test_a_gap_is_the_way_from_the_effect_to_the_harm(direction):
    text = SHADOW.replace("effect: 0.01", f"direction: {direction}, effect: 0.01")
    gap = {"increase": 0.04, "decrease": 0.06}[direction]
    assert live_from_yaml(text, "p").guardrails[0].gap == pytest.approx(gap)


def test_one_file_serves_replay_tables_and_live_traffic():
    for rest, read in ((GATE, policy_from_yaml), (TABLE, table_policy_from_yaml)):
        assert live_from_yaml(rest + LIVE, "p") == live_from_yaml(ALPHA + LIVE, "p")
        assert read(rest + LIVE, "p").digest == read(rest, "p").digest


@pytest.mark.parametrize(
    ("rest", "read"), [(GATE, policy_from_yaml), (TABLE, table_policy_from_yaml)]
)
def test_a_mistake_in_it_is_told_whoever_reads_the_file(rest, read):
    with pytest.raises(PolicyError, match=r"live\.cycle"):
        read(rest + LIVE.replace("24h", "1 day", 1), "p")


def test_a_policy_without_it_has_no_live_plan():
    with pytest.raises(PolicyError, match="live: is missing"):
        live_from_yaml(GATE, "p")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("steps", "step", "Did you mean .steps"),
        ("[0.01, 0.1, 0.5]", "[0.1, 0.01]", "shares of traffic that rise"),
        ("[0.01, 0.1, 0.5]", "[0.5, 1]", "shares of traffic that rise"),
        ("[0.01, 0.1, 0.5]", "[0, 0.5]", "shares of traffic that rise"),
        ("[0.01, 0.1, 0.5]", "[]", "shares of traffic that rise"),
        ("[0.01, 0.1, 0.5]", "[.nan]", "needs a number"),
        ("  steps: [0.01, 0.1, 0.5]\n", "", "there are no steps"),
        ("kind: shift", "kind: paired", "steps split traffic"),
        ("kind: shift", "kind: shfit", "shift"),
        ("sample_ratio: 0.0005", "sample_ratio: 1", "below 1"),
        ("sample_ratio: 0.0005", "sample_ratio: 0", "above 0"),
        ("longest: 10m", "longest: 1s", "shorter than the gap"),
        ("margin: 0.05", "margin: 1", "can reach"),
        ("margin: 0.05", "margin: 0", "can reach"),
        ("effect: 0.01", "effect: -0.05", "not within the margin"),
        (", variance: 0.09", "", "plans nothing without `variance`"),
        ("effect: 0.01, ", "", "plans nothing without `effect`"),
        ("ratio: 1.5", "ratio: 0.9", "from 1"),
        ("ratio: 1.5", "ratio: 1.5, margin: 0.1", "has no meaning for errors"),
        ("range: [0, 1], margin: 0.02", "range: [0, 1], margin: 0.02, ratio: 2", "kind errors"),
        ("name: errors", "name: score", "used twice"),
        ("label_maturity: 24h", "label_maturity: 0h", "above 0"),
    ],
)
def test_what_is_not_understood_is_refused(old, new, says):
    with pytest.raises(PolicyError, match=says):
        live_from_yaml(ALPHA + LIVE.replace(old, new, 1), "p")


def test_something_has_to_decide():
    with pytest.raises(PolicyError, match="nothing could ever be promoted"):
        live_from_yaml(SHADOW.replace("margin: 0.05", "margin: 0.05, gating: false"), "p")


@pytest.mark.parametrize(
    ("unit", "found"),
    [
        ("10m", ("", 600.0)),
        ("request", ("", 0.0)),
        ("user", ("user", 0.0)),
        ("1st-party", ("1st-party", 0.0)),
    ],
)
def test_shadow_traffic_says_what_counts_once(unit, found):
    live = live_from_yaml(SHADOW.replace("unit: user", f"unit: {unit}"), "p")
    assert (live.unit, live.block_s) == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (SHADOW.replace("  unit: user\n", ""), "live.unit: is missing: requests one after another"),
        (SHADOW.replace("unit: user", "unit: 10m\n  maturity: 1m"), "beside blocks of 10m"),
        (SHADOW.replace("unit: user", "unit: 0s"), "has no length"),
        (SHADOW.replace("unit: user", "unit: 0.0000000001ms"), "has no length"),
        (SHADOW.replace("unit: user", "unit: 10 m"), "reads like a time block"),
        (SHADOW.replace("unit: user", "unit: 10M"), "reads like a time block"),
        (SHADOW.replace("unit: user", "unit: 10min"), "reads like a time block"),
        (SHADOW.replace("unit: user", "unit: Request"), "reads like `request`"),
        (SHADOW.replace("unit: user", "unit: requests"), "reads like `request`"),
        (ALPHA + LIVE.replace("cycle: 24h", "quiet: 1h"), "would make an empty one whole"),
        (
            ALPHA + LIVE.replace("cycle: 24h", "cycle: 24h\n  quiet: 24h"),
            "would make an empty one whole",
        ),
        (ALPHA + LIVE.replace("unit: user", "unit: 10m"), "'10m' is a time block, and steps split"),
    ],
)
def test_units_that_would_mislead_are_refused(text, says):
    with pytest.raises(PolicyError, match=says):
        live_from_yaml(text, "p")

from __future__ import annotations

import contextlib
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import PolicyError
from harness.core.policies import (
    Claim,
    Direction,
    GraphPolicy,
    LatencyPolicy,
    Loss,
    Metric,
    Mode,
    Preset,
    Probes,
    Rule,
    Scope,
    When,
    WindowName,
)
from harness.decide.policy import policy_from_yaml, table_policy_from_yaml

DECISION = "decision: {output: p, rule: threshold, value: 0.3}\n"
RETRAIN = f"version: 1\npreset: retrain\n{DECISION}"
REFACTOR = "version: 1\npreset: refactor\n"

FULL = """
version: 1
preset: retrain
mode: advise
alpha: {promote: 0.01, rollback: 0.02}
claim: process
weight: request
decision: {output: probabilities, rule: threshold, value: 0.3, positive: 1}
windows: {newest: {days: 30}, matured: {maturity: 48h}, min_requests: 100, max_requests: 1000, cover: [origin, carrier]}
guardrails:
  - {name: rate,  metric: decision_rate_shift, margin: 0.10, direction: both, effect: 0.05}
  - {name: score, metric: score_shift, margin: 0.05, direction: both, slice_by: [carrier], window: newest}
  - {name: loss,  metric: loss_difference, loss: brier, margin: 2e-3, window: matured}
  - {name: same,  metric: parity_mismatch, scope: features, margin: 0.001, expected_changes: [age]}
sandbox: {require: S1, memory: 1GiB, batch_deadline: 5s, probes: separate}
approval: {required: true, approvers: 2, expires: 24h}
mapping: {outputs: {p: probability}, narrower: [x]}
"""


def refused(text, *parts):
    with pytest.raises(PolicyError) as caught:
        policy_from_yaml(text, "policy.yaml")
    message = str(caught.value)
    for part in ("policy.yaml", *parts):
        assert part in message
    return message


def by_name(policy):
    return {guardrail.name: guardrail for guardrail in policy.guardrails}


def test_a_claim_about_the_window_is_read_where_every_request_has_a_value():
    assert policy_from_yaml(f"{REFACTOR}{DECISION}claim: window", "p").claim is Claim.WINDOW
    dropped = policy_from_yaml(f"{RETRAIN}claim: window\ndrop: [loss]", "p")
    assert dropped.claim is Claim.WINDOW


def test_every_key_is_read():
    policy = policy_from_yaml(FULL, "p")
    assert (policy.mode, policy.alpha_promote, policy.alpha_rollback) == (Mode.ADVISE, 0.01, 0.02)
    assert (policy.decision.rule, policy.decision.value) == (Rule.THRESHOLD, 0.3)
    assert policy.decision.positive == 1
    assert (policy.windows.newest_days, policy.windows.maturity_s) == (30.0, 172_800.0)
    assert (policy.windows.min_requests, policy.windows.max_requests) == (100, 1000)
    assert policy.windows.cover == ("origin", "carrier")
    assert (policy.sandbox.require, policy.sandbox.memory_bytes) == ("S1", 2**30)
    assert policy.sandbox.batch_deadline_s == 5.0
    assert policy.sandbox.probes is Probes.SEPARATE
    assert (policy.approval.required, policy.approval.approvers) == (True, 2)
    assert policy.mapping.outputs == (("p", "probability"),)
    assert policy.mapping.narrower == ("x",)
    rails = by_name(policy)
    assert rails["rate"].effect == 0.05
    assert rails["score"].slice_by == ("carrier",)
    assert (rails["loss"].loss, rails["loss"].margin) == (Loss.BRIER, 0.002)
    assert rails["same"].expected_changes == ("age",)


def test_retrain_brings_its_guardrails():
    rails = policy_from_yaml(RETRAIN, "p").guardrails
    assert [(g.name, g.margin, g.gating) for g in rails] == [
        ("features", 0.001, True),
        ("rate", 0.10, True),
        ("score", 0.05, True),
        ("loss", 0.002, True),
        ("calibration", 0.05, False),
        ("flips", 0.01, False),
    ]
    assert rails[1].direction is rails[2].direction is Direction.BOTH
    assert rails[3].window is WindowName.MATURED


def test_refactor_brings_parity_and_reports_flips_where_a_decision_is_known():
    bare = policy_from_yaml(REFACTOR, "p")
    assert [(g.name, g.scope, g.gating) for g in bare.guardrails] == [
        ("outputs", Scope.OUTPUTS, True),
        ("features", Scope.FEATURES, True),
    ]
    assert bare.decision is None
    decided = policy_from_yaml(REFACTOR + DECISION, "p")
    assert by_name(decided)["flips"].gating is False


def test_a_guardrail_of_the_same_name_replaces_the_presets_in_place():
    text = f"{RETRAIN}guardrails: [{{name: score, metric: score_shift, margin: 0.2}}]\n"
    rails = policy_from_yaml(text, "p").guardrails
    assert [g.name for g in rails] == ["features", "rate", "score", "loss", "calibration", "flips"]
    assert (rails[2].margin, rails[2].direction) == (0.2, Direction.INCREASE)


def test_other_guardrails_are_added():
    text = f"{RETRAIN}guardrails: [{{name: nan, metric: nan_rate, margin: 0.001}}]\n"
    assert [g.name for g in policy_from_yaml(text, "p").guardrails][-1] == "nan"


def test_a_presets_guardrail_can_be_dropped():
    rails = by_name(policy_from_yaml(f"{RETRAIN}drop: [loss, features]\n", "p"))
    assert set(rails) == {"rate", "score", "flips"}


def test_loss_is_matured_without_saying_so():
    text = (
        f"{RETRAIN}guardrails: [{{name: l, metric: loss_difference, loss: absolute, margin: 0.1}}]"
    )
    assert by_name(policy_from_yaml(text, "p"))["l"].window is WindowName.MATURED


def test_spelling_does_not_change_the_digest_and_meaning_does():
    same = policy_from_yaml("preset: 'retrain'\n" + DECISION + "version: 1 # one\n", "other.yaml")
    assert same == policy_from_yaml(RETRAIN, "p")
    explicit = f"{RETRAIN}alpha: {{promote: 5e-2}}\nmode: enforce\n"
    assert policy_from_yaml(explicit, "p").digest == same.digest
    stricter = policy_from_yaml(f"{RETRAIN}alpha: {{promote: 0.01}}\n", "p")
    assert stricter.digest != same.digest
    assert len(same.digest) == 64


def rail(keys):
    return f"{RETRAIN}guardrails:\n  - {{name: g, {keys}}}\n"


RAIL = "{name: g, metric: nan_rate, margin: 0.1}"
LOSS = "{name: loss, metric: loss_difference, loss: brier, margin: 0.1}"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["is empty"]),
        ("- a", ["needs keys and values"]),
        ("version: [1", ["line 1", "is no YAML"]),
        ("version: 1\n\x00", ["is no YAML"]),
        ("version: 1\n---\nversion: 1", ["is no YAML"]),
        ("preset: retrain", ["version", "is missing"]),
        ("version: 2\npreset: retrain", ["line 1", "version"]),
        ("version: true\npreset: retrain", ["needs a number"]),
        ("version: 1", ["preset", "is missing"]),
        ("version: 1\npreset: retrian", ["line 2", "did you mean 'retrain'?"]),
        ("version: 1\npreset: hotfix", ["not supported yet"]),
        (f"{RETRAIN}alhpa: {{}}", ["line 4, alhpa", "Did you mean 'alpha'?"]),
        (f"{RETRAIN}mode: advise\nmode: enforce", ["line 5, mode", "given twice", "line 4"]),
        (f"{RETRAIN}1: 2", ["no word"]),
        (f"{RETRAIN}mode: yes", ["needs a text"]),
        (f"{RETRAIN}mode:", ["not nothing"]),
        (f"{RETRAIN}alpha: 0.05", ["needs keys and values"]),
        (f"{RETRAIN}alpha: {{promote: 0.5}}", ["alpha.promote", "below 0.5"]),
        (f"{RETRAIN}alpha: {{rollback: 0}}", ["alpha.rollback", "above 0"]),
        (f"{RETRAIN}alpha: {{rollback: .nan}}", ["needs a number"]),
        (f"{RETRAIN}claim: window", ["claim", "'loss'", "requests with a label", "drop: [loss]"]),
        (f"{RETRAIN}weight: unit", ["'unit' needs a unit"]),
        (f"{RETRAIN}unit: 1h", ["leaves open which mean is meant"]),
        (f"{RETRAIN}unit: 1h\nweight: unit", ["'calibration'", "drop: [calibration]"]),
        (
            f"{RETRAIN}unit: 1h\nweight: request\ndrop: [calibration]",
            ["weight", "not supported yet by a gate"],
        ),
        (f"{RETRAIN}unpaired: true", ["not supported yet by a gate"]),
        (
            f"{RETRAIN}unit: user\nweight: unit\ndrop: [calibration]\nguardrails: [{{name: slow, metric: latency_ratio, margin: 0.1}}]",
            ["unit", "'slow'", "single requests"],
        ),
        (f"{RETRAIN}windows: {{newest: {{days: 0}}}}", ["windows.newest.days"]),
        (f"{RETRAIN}windows: {{newest: {{day: 3}}}}", ["windows.newest.day", "'days'"]),
        (f"{RETRAIN}windows: {{matured: {{maturity: 24}}}}", ["windows.matured.maturity"]),
        (f"{RETRAIN}windows: {{matured: {{maturity: 24x}}}}", ["no duration"]),
        (f"{RETRAIN}windows: {{min_requests: 0}}", ["at least 1"]),
        (f"{RETRAIN}windows: {{min_requests: 1.5}}", ["whole number"]),
        (f"{RETRAIN}windows: {{max_requests: 10}}", ["below min_requests"]),
        (f"{RETRAIN}windows: {{cover: carrier}}", ["needs a list"]),
        (f"{RETRAIN}windows: {{cover: [a, a]}}", ["repeats 'a'"]),
        (f"{RETRAIN}sandbox: {{require: S9}}", ["no isolation tier"]),
        (f"{RETRAIN}sandbox: {{memory: 1 gigabyte}}", ["no size"]),
        (f"{RETRAIN}sandbox: {{probes: seperate}}", ["separate"]),
        (f"{RETRAIN}approval: {{required: 1}}", ["true or false"]),
        (f"{RETRAIN}approval: {{approvers: 0}}", ["at least 1"]),
        (f"{RETRAIN}mapping: {{inputs: {{a: c, b: c}}}}", ["one to one"]),
        (f"{RETRAIN}drop: [losses]", ["did you mean 'loss'?"]),
        (f"{RETRAIN}drop: [features, rate, score, loss, flips]", ["no guardrail decides"]),
        ("version: 1\npreset: retrain", ["needs a decision rule"]),
        (
            "version: 1\npreset: retrain\ndecision: {output: label, rule: none}",
            ["'score'", "needs a score output"],
        ),
        ("version: 1\npreset: retrain\ndecision: {output: p, rule: threshold}", ["value"]),
        (
            "version: 1\npreset: retrain\ndecision: {output: p, rule: argmax, value: 1}",
            ["no meaning"],
        ),
        (rail("margin: 0.1"), ["guardrails[0].metric", "is missing"]),
        (rail("metric: score_shfit, margin: 0.1"), ["line 5", "did you mean 'score_shift'?"]),
        (rail("metric: failure, margin: 0.1, unit: user"), ["unit", "whole policy", "beside"]),
        (rail("metric: sample_ratio, margin: 0.1"), ["not supported yet"]),
        (
            rail("column: score_diff, range: [-1, 1], margin: 0.1"),
            ["column", "belongs to a table", "harness judge"],
        ),
        (rail("metric: score_shift"), ["margin", "is missing"]),
        (rail("metric: score_shift, margin: 1.0"), ["outside the range"]),
        (rail("metric: score_shift, margin: -0.1"), ["outside the range"]),
        (rail("metric: score_shift, margin: '0.1'"), ["needs a number"]),
        (rail("metric: score_shift, margin: 1:30"), ["needs a number"]),
        (rail("metric: decision_flip, margin: 0.1, direction: both"), ["never below 0"]),
        (rail("metric: score_shift, margin: 0.1, effect: 0.1"), ["effect", "within the margin"]),
        (rail("metric: loss_difference, margin: 0.1"), ["loss", "is missing"]),
        (
            rail("metric: loss_difference, loss: brier, margin: 0.1, window: newest"),
            ["window: matured"],
        ),
        (rail("metric: parity_mismatch, margin: 0.1"), ["scope", "is missing"]),
        (rail("metric: score_shift, margin: 0.1, loss: brier"), ["belongs to metric"]),
        (rail("metric: score_shift, margin: 0.1, expected_changes: []"), ["belongs to metric"]),
        (
            f"{RETRAIN}expected_changes: [a]",
            ["unknown key here", "belongs to a guardrail", "`guardrails:`"],
        ),
        (
            f"{RETRAIN}window: {{}}",
            ["unknown key here", "Did you mean 'windows'? If not, write it"],
        ),
        (
            f"{RETRAIN}margin: 0.1",
            ["to a guardrail, in the list under `guardrails:`. Write it there"],
        ),
        (f"{RETRAIN}expires: 24h", ["it belongs under `approval`. Write it there."]),
        (f"{RETRAIN}memory: 1GiB", ["unknown key here", "under `sandbox` or `graph`"]),
        (f"{RETRAIN}days: 3", ["unknown key here", "under `windows.newest`"]),
        (
            f"{RETRAIN}guardrails: [{{name: features, expected_changes: [a]}}]",
            [
                "in place of the preset's 'features'",
                "metric: parity_mismatch, scope: features, margin: 0.001",
            ],
        ),
        (rail("metric: score_shift, margin: 0.1, min_slice: 3"), ["without slice_by"]),
        (rail("metric: score_shift, margin: 0.1, slice_by: [1]"), ["slice_by[0]"]),
        (f"{RETRAIN}guardrails: [{{name: a b, metric: nan_rate, margin: 0.1}}]", ["is no name"]),
        (f"{RETRAIN}guardrails: [{RAIL}, {RAIL}]", ["guardrails[1].name", "used twice"]),
        (f"{RETRAIN}drop: [loss]\nguardrails: [{LOSS}]", ["dropped and defined"]),
    ],
)
def test_what_is_not_understood_is_refused_with_place_and_remedy(text, parts):
    message = refused(text)
    for part in parts:
        assert part.lower() in message.lower()


def test_yaml_tags_are_data_not_code():
    refused(f"{RETRAIN}mode: !!python/object/apply:os.system [echo]", "mode")
    refused(f"{RETRAIN}mode: !!python/name:os.system ''", "mode")


def test_deep_nesting_is_an_error_not_a_crash():
    refused("[" * 5000, "is no YAML")


WORDS = st.sampled_from(
    ["version", "preset", "retrain", "alpha", "guardrails", "1", "0.05", "both", "x", "~", "true"]
)
VALUES = st.recursive(
    WORDS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3)
)


def flow(value):
    match value:
        case dict():
            return "{" + ", ".join(f"{k}: {flow(v)}" for k, v in value.items()) + "}"
        case list():
            return "[" + ", ".join(flow(v) for v in value) + "]"
        case _:
            return value


KEYS = ["alpha", "mode", "windows", "guardrails", "drop", "sandbox", "approval", "mapping", "claim"]


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))
def test_any_document_is_a_policy_or_a_policy_error(values):
    text = RETRAIN + "".join(f"{key}: {flow(value)}\n" for key, value in values.items())
    policy = None
    with contextlib.suppress(PolicyError):
        policy = policy_from_yaml(text, "p")
    assert policy is None or policy.preset is Preset.RETRAIN


@given(st.text(max_size=60))
def test_any_text_is_refused_without_a_traceback(text):
    with pytest.raises(PolicyError):
        policy_from_yaml(text, "p")


def test_every_metric_can_be_asked_for():
    more = {
        Metric.PARITY_MISMATCH: ", scope: outputs",
        Metric.LOSS_DIFFERENCE: ", loss: zero_one",
    }
    for metric in set(Metric) - {Metric.COLUMN, Metric.RATIO}:
        text = rail(f"metric: {metric.value}, margin: 0.1{more.get(metric, '')}")
        assert by_name(policy_from_yaml(text, "p"))["g"].metric is metric


def test_policy_is_frozen():
    policy = policy_from_yaml(RETRAIN, "p")
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.mode = Mode.ADVISE


def test_the_latency_sample_is_read():
    policy = policy_from_yaml(RETRAIN + "latency: {sample: 300, planning: 100}\n", "p")
    assert policy.latency == LatencyPolicy(sample=300, planning=100)


@pytest.mark.parametrize("latency", ["{sample: 0}", "{sample: 100}", "{samples: 3000}", "3"])
def test_a_latency_sample_without_a_meaning_is_refused(latency):
    with pytest.raises(PolicyError, match="latency"):
        policy_from_yaml(RETRAIN + f"latency: {latency}\n", "p")


@pytest.mark.parametrize(
    ("guardrail", "wrong"),
    [
        ("metric: ratio, margin: 0.1", "needs a table"),
        ("metric: latency_ratio, margin: 0.1, direction: both", "harm only where it grows"),
        ("metric: latency_ratio, margin: 2.0", "no tolerated growth"),
        ("metric: latency_p99, margin: 0.0", "no tolerated growth"),
        ("metric: latency_p99, margin: 0.1, slice_by: [site]", "latency"),
        ("metric: latency_p99, margin: 0.1, window: matured", "newest"),
        ("metric: latency_ratio, margin: 0.1, cutoff: 0.1", "latency_p99"),
        ("metric: calibration_shift, margin: 0.1, slice_by: [site]", "bins"),
        ("metric: calibration_shift, margin: 0.1, window: newest", "labels"),
        ("metric: calibration_shift, margin: 0.1, bins: 0", "at least 1"),
        ("metric: score_shift, margin: 0.1, bins: 4", "calibration_shift"),
        ("metric: excess_flip, margin: 0.1, flip: a", "unknown key"),
        ("metric: latency_ratio, margin: 0.1, effect: 0.2", "within the margin"),
        ("metric: latency_p99, margin: 0.1, effect: 0.05", "within the margin"),
    ],
)
def test_a_metric_s_keys_have_their_meaning_or_are_refused(guardrail, wrong):
    with pytest.raises(PolicyError, match=wrong):
        policy_from_yaml(rail(guardrail), "p")


def test_a_cut_off_that_nothing_fixes_is_refused():
    text = rail("metric: latency_p99, margin: 0.1")
    with pytest.raises(PolicyError, match="cannot fix one"):
        policy_from_yaml(text + "\nlatency: {sample: 1000, planning: 100}\n", "p")
    fixed = rail("metric: latency_p99, margin: 0.1, cutoff: 0.02")
    policy = policy_from_yaml(fixed + "\nlatency: {sample: 1000, planning: 100}\n", "p")
    assert by_name(policy)["g"].cutoff_s == 0.02


def test_calibration_is_reported_only_where_labels_are_read_anyway():
    policy = policy_from_yaml(RETRAIN + "drop: [loss]\n", "p")
    assert {g.window for g in policy.guardrails} == {WindowName.NEWEST}


def test_a_window_claim_has_no_calibration():
    text = (
        rail("metric: calibration_shift, margin: 0.1")
        + "\nclaim: window\ndrop: [loss, calibration]\n"
    )
    with pytest.raises(PolicyError, match="does not fit guardrail 'g'"):
        policy_from_yaml(text, "p")


def test_how_the_graphs_are_searched_is_read():
    policy = policy_from_yaml(
        RETRAIN + "graph: {requests: 64, memory: 1MiB, when: always, deadline: 2m}\n", "p"
    )
    assert policy.graph == GraphPolicy(
        requests=64, memory_bytes=1 << 20, when=When.ALWAYS, deadline_s=120.0
    )


@pytest.mark.parametrize("memory", ["1KiB", "16MiB", "0MiB"])
def test_memory_that_no_process_starts_in_is_refused(memory):
    with pytest.raises(PolicyError, match=r"sandbox\.memory.*MiB"):
        policy_from_yaml(RETRAIN + f"sandbox: {{memory: {memory}}}\n", "p")


@pytest.mark.parametrize("graph", ["{request: 64}", "{when: sometimes}", "{memory: big}", "3"])
def test_a_search_without_a_meaning_is_refused(graph):
    with pytest.raises(PolicyError, match="graph"):
        policy_from_yaml(RETRAIN + f"graph: {graph}\n", "p")


@pytest.mark.parametrize(
    ("key", "says"), [("slice_by: [s]", "a table of their own"), ("metric: failure", "`column:`")]
)
def test_what_has_no_test_where_rows_are_one_arm_s_is_told(key, says):
    rails = f"guardrails: [{{name: y, range: [0, 1], margin: 0.1, {key}}}]"
    with pytest.raises(PolicyError, match=says):
        table_policy_from_yaml(f"version: 1\nunpaired: true\n{rails}", "p")

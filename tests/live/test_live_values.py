"""What a guardrail's value is for each answer of one version."""

from dataclasses import replace

import numpy as np
import pytest

from harness.decide.policy import live_from_yaml
from harness.live.layouts import Answered
from harness.live.unusable import sent_unusable
from harness.live.values import Measurer, of_silence
from harness.wire.columns import ColumnDecoder
from harness.wire.gen import open_inference_pb2
from harness.wire.messages import response_bytes

POLICY = """
version: 1
decision: {output: p, rule: threshold, value: 0.5}
live:
  steps: [0.5]
  guardrails:
    - {name: score, metric: score_shift, kind: shift, margin: 0.1}
    - {name: rate, metric: decision_rate_shift, kind: shift, margin: 0.1}
    - {name: nan, metric: nan_rate, kind: shift, margin: 0.1}
    - {name: failed, metric: failure, kind: shift, margin: 0.1}
    - {name: slow, metric: latency, kind: shift, slower_than: 50ms, margin: 0.1}
    - {name: seconds, metric: latency, kind: shift, range: [0, 0.2], margin: 0.1}
    - {name: errors, kind: errors, ratio: 2}
    - {name: brier, metric: loss_difference, loss: brier, kind: shift, label_maturity: 1h, margin: 0.1}
    - {name: wrong, metric: loss_difference, loss: zero_one, kind: shift, label_maturity: 1h, margin: 0.1}
"""
NAN = np.nan


def answered(*scores, code=0, latency_s=0.01, name="p"):
    if code:
        return Answered(b"", code, latency_s)
    outputs = {name: np.array(scores, np.float32)[:, None]}
    return Answered(response_bytes("m", "1", outputs, ""), code, latency_s)


ANSWERS = [
    answered(0.2),
    answered(0.8, latency_s=0.06),
    answered(0.2, 0.6),
    answered(NAN),
    answered(code=13, latency_s=0.001),
    answered(0.4, latency_s=3.0),
    Answered(b"noise\xff", 0, 0.01),
    answered(0.4, name="q"),
    answered(-0.8),
    answered(0.2, 1.7),
]
EXPECTED = {
    "score": [0.2, 0.8, 0.4, NAN, NAN, 0.4, NAN, NAN, NAN, NAN],
    "rate": [0, 1, 0.5, NAN, NAN, 0, NAN, NAN, 0, 0.5],
    "nan": [0, 0, 0, 1, NAN, 0, NAN, 0, 1, 0.5],
    "failed": [0, 0, 0, 0, 1, 0, 1, 0, 0, 0],
    "errors": [0, 0, 0, 0, 1, 0, 1, 0, 0, 0],
    "slow": [0, 1, 0, 0, NAN, 1, NAN, 0, 0, 0],
    "seconds": [0.01, 0.06, 0.01, 0.01, NAN, 0.2, NAN, 0.01, 0.01, 0.01],
}


@pytest.fixture
def found():
    return Measurer(live_from_yaml(POLICY, "p")).measure(ANSWERS)


@pytest.mark.parametrize("name", EXPECTED)
def test_an_answer_s_value_and_nan_for_what_failed(found, name):
    np.testing.assert_allclose(found.values[name], EXPECTED[name], atol=1e-6)


def test_what_a_label_is_compared_with(found):
    np.testing.assert_allclose(found.answers["brier"], EXPECTED["score"], atol=1e-6)
    np.testing.assert_allclose(found.answers["wrong"], EXPECTED["rate"], atol=1e-6)
    assert set(found.values) == set(EXPECTED)


def test_another_form_is_no_failure_and_counts_as_not_measured(found):
    assert found.counts == {
        "failed": 2, "broken_form": 0, "unknown_form": 0, "other_form": 0, "without_output": 1,
        "nan": 3, "other_outputs": 0,
    }  # fmt: skip
    assert {name for name, _ in found.unfit} == {"score", "rate", "brier", "wrong"}


def asking(answer, *outputs):
    """The same answer, to a client that names the outputs it wants."""
    message = open_inference_pb2.ModelInferRequest(model_name="m")
    for name in outputs:
        message.outputs.add(name=name)
    return replace(answer, request=message.SerializeToString())


def test_who_asks_for_other_outputs_is_left_out_of_what_reads_one_and_of_nothing_else():
    other, both = answered(0.4, name="q"), answered(0.4)
    found = Measurer(live_from_yaml(POLICY, "p")).measure(
        [asking(other, "q"), asking(answered(code=13), "q"), asking(other, "p", "q"),
         asking(both, "p"), asking(both)]
    )  # fmt: skip
    assert set(found.left_out) == {"score", "rate", "brier", "wrong"}
    assert all(at.tolist() == [True, True, False, False, False] for at in found.left_out.values())
    # The third named an output that did not come: a failure.
    assert found.values["failed"].tolist() == [0, 1, 1, 0, 0]
    np.testing.assert_allclose(found.values["score"], [NAN, NAN, NAN, 0.4, 0.4], atol=1e-6)
    assert found.counts == {
        "failed": 1, "broken_form": 1, "unknown_form": 0, "other_form": 0, "without_output": 0,
        "nan": 0, "other_outputs": 2,
    }  # fmt: skip


def test_what_nobody_asked_for_is_no_misfit():
    found = Measurer(live_from_yaml(POLICY, "p")).measure([asking(answered(0.4, name="q"), "q")])
    assert found.unfit == ()


def test_an_answer_is_decoded_once(monkeypatch):
    decoded = []
    plain = ColumnDecoder.decode

    def counted(self, messages):
        decoded.extend(messages)
        return plain(self, messages)

    monkeypatch.setattr(ColumnDecoder, "decode", counted)
    answers = [answered(i / 100) for i in range(50)]
    Measurer(live_from_yaml(POLICY, "p")).measure(answers)
    assert len(decoded) == 50


def test_values_do_not_depend_on_how_answers_are_cut_into_batches(found):
    measurer = Measurer(live_from_yaml(POLICY, "p"))
    parts = [measurer.measure(ANSWERS[a:b]) for a, b in ((0, 1), (1, 4), (4, 10))]
    for name, column in found.values.items():
        np.testing.assert_array_equal(np.concatenate([p.values[name] for p in parts]), column)


def test_a_threshold_on_what_is_no_probability_is_usable_where_nothing_reads_a_score():
    """A rule may be about logits; then none of them is outside of anything."""
    rails = [
        line for line in POLICY.splitlines() if "score_shift" not in line and "brier" not in line
    ]
    found = Measurer(live_from_yaml("\n".join(rails), "p")).measure([answered(-0.8), answered(7.0)])
    assert found.values["nan"].tolist() == [0, 0]
    assert found.counts["nan"] == 0


def test_an_output_that_its_client_did_not_ask_for_is_not_unusable():
    both = Answered(
        response_bytes("m", "1", {n: np.array([[v]], np.float32) for n, v in (("p", -3), ("q", 0.4))}, ""),
        0, 0.01,
    )  # fmt: skip
    found = Measurer(live_from_yaml(POLICY, "p")).measure([asking(both, "q"), asking(both)])
    assert found.values["nan"].tolist() == [0, 1]


def test_sent_values_without_a_score_are_nan_where_they_have_not_failed():
    live = live_from_yaml(POLICY, "p")
    sent = {
        "score": np.array([0.2, NAN, NAN, NAN]), "rate": np.array([0.0, 0.0, NAN, NAN]),
        "nan": np.array([0.0, 0.0, 0.0, NAN]), "failed": np.array([0.0, 0.0, 1.0, 0.0]),
    }  # fmt: skip
    found = sent_unusable(live, sent)
    np.testing.assert_array_equal(found["nan"], [0, 1, 0, NAN])
    assert all(found[name] is sent[name] for name in ("score", "rate", "failed"))


def test_of_silence_is_known_that_it_failed_and_took_longer_than_the_patience():
    found = of_silence(live_from_yaml(POLICY, "p"))  # its patience is 10 s
    assert found == {"failed": 1.0, "errors": 1.0, "slow": 1.0, "seconds": 0.2}


@pytest.mark.parametrize(
    ("changed", "to", "known"),
    [
        ("slower_than: 50ms", "slower_than: 10s", True),
        ("slower_than: 50ms", "slower_than: 11s", False),
        ("range: [0, 0.2]", "range: [0, 10]", True),
        ("range: [0, 0.2]", "range: [0, 10.1]", False),
    ],
)
def test_a_latency_that_silence_does_not_tell_is_unknown(changed, to, known):
    found = of_silence(live_from_yaml(POLICY.replace(changed, to), "p"))
    assert (("slow" if "slower" in to else "seconds") in found) is known


def test_silence_in_a_shadow_tells_nothing_of_a_pair():
    paired = POLICY.replace("steps: [0.5]", "unit: request").partition("    - {name: rate")[0]
    paired = paired.replace("kind: shift", "kind: paired")
    paired += "    - {name: failed, metric: failure, kind: paired, margin: 0.1}\n"
    assert of_silence(live_from_yaml(paired, "p")) == {}

"""A candidate whose answers are broken in form is not promoted, whatever their scores are."""

from dataclasses import replace

import numpy as np
import pytest
from canaries import POLICY, live

from harness.core.calls import Call
from harness.core.verdicts import Decision
from harness.live.arms import judged
from harness.live.folder import CanaryFolder
from harness.live.forms import Fit, Forms
from harness.live.identity import Identity
from harness.live.layouts import Answered, Layouts
from harness.live.steady_clock import SteadyClock
from harness.live.values import Measurer
from harness.live.watcher import Watcher
from harness.wire import MODEL_INFER
from harness.wire.gen import open_inference_pb2 as pb
from harness.wire.messages import request_bytes, response_bytes

ROWS = 3


def asking(rows=ROWS, outputs=("probability", "label"), model="m", request_id="r1"):
    message = pb.ModelInferRequest.FromString(
        request_bytes(model, {"x": np.ones((rows, 1), np.float32)}, request_id)
    )
    for name in outputs:
        message.outputs.add(name=name)
    return message.SerializeToString()


def answer(rows=ROWS, outputs=("probability", "label"), width=1, model="m", response_id="r1"):
    column = np.full((rows, width), 0.3, np.float32)
    return response_bytes(model, "1", dict.fromkeys(outputs, column), response_id)


BROKEN = {
    "a named output is missing": answer(outputs=("probability",)),
    "more rows": answer(rows=2 * ROWS),
    "fewer rows": answer(rows=1),
    "another shape": answer(width=2),
    "another id": answer(response_id="zzz"),
    "another model": answer(model="another"),
    "one output more": answer(outputs=("probability", "label", "more")),
}


def fit(forms, request, response, *, candidate):
    answered = [Answered(response, 0, 0.01, request)]
    return Fit(forms.fit(answered, Layouts().sort(answered), candidate=candidate)[0])


@pytest.fixture
def shown():
    forms = Forms()
    assert fit(forms, asking(), answer(), candidate=False) is Fit.FITS
    return forms


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_an_answer_of_another_form_than_the_baseline_s_is_broken(shown, broken):
    assert fit(shown, asking(), broken, candidate=True) is Fit.BROKEN
    assert fit(shown, asking(), answer(), candidate=True) is Fit.FITS


def test_until_the_baseline_has_answered_a_question_nothing_is_known(shown):
    other = asking(outputs=("label",))
    assert fit(shown, other, answer(outputs=("label",)), candidate=True) is Fit.UNKNOWN
    assert fit(shown, other, answer(outputs=("label",)), candidate=False) is Fit.FITS
    assert fit(shown, other, answer(outputs=("label",)), candidate=True) is Fit.FITS


@pytest.mark.parametrize(
    "odd",
    [answer(rows=1), answer(response_id=""), answer(model="m-v7")],
    ids=["one row for all", "no id", "another name"],
)
def test_what_the_baseline_itself_does_not_keep_binds_nobody(odd):
    forms = Forms()
    for candidate in (False, True):
        assert fit(forms, asking(), odd, candidate=candidate) is Fit.FITS


def test_a_rule_that_the_baseline_breaks_now_and_then_binds_both_alike(shown):
    for _ in range(40):
        fit(shown, asking(), answer(), candidate=False)
    for candidate in (True, False):
        assert fit(shown, asking(), answer(rows=1), candidate=candidate) is Fit.BROKEN


def test_shapes_that_follow_from_the_inputs_are_no_form():
    forms = Forms()
    for width in range(1, 12):
        fit(forms, asking(), answer(width=width), candidate=False)
    assert fit(forms, asking(), answer(width=90), candidate=True) is Fit.FITS
    assert fit(forms, asking(), answer(outputs=("other",)), candidate=True) is Fit.BROKEN


def test_a_broken_answer_fails_and_an_unknown_one_has_no_value_at_all():
    policy = POLICY + "    - {name: failed, metric: failure, kind: shift, margin: 0.1}\n"
    forms = Forms()
    early = Answered(answer(), 0, 0.01, asking())
    candidate = Measurer(live(policy), forms, candidate=True)
    before = candidate.measure([early])
    assert np.isnan([before.values["score"][0], before.values["failed"][0]]).all()
    assert (before.values["errors"][0], before.counts["unknown_form"]) == (0.0, 1)
    Measurer(live(policy), forms).measure([early])
    found = candidate.measure([early, replace(early, response=BROKEN["more rows"])])
    assert (found.values["failed"].tolist(), found.counts["broken_form"]) == ([0.0, 1.0], 1)
    assert np.isnan(found.values["score"]).tolist() == [False, True]


def call(arm, request, response):
    return Call(
        ts_ns=1, latency_ns=10**6, method=MODEL_INFER, code=0, details="", request=request,
        response=response, metadata=(), trailing=(), upstream=arm.name,
    )  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_candidate_that_is_broken_in_form_is_rolled_back(tmp_path, broken):
    policy = POLICY.replace("unit: user", "unit: x-user")
    policy += "    - {name: failed, metric: failure, kind: shift, margin: 0.1, effect: 0, variance: 0.02}\n"
    asked = Identity.of(live(policy), seed="s", baseline="b", candidate="c")
    folder, canary = CanaryFolder.start(tmp_path / "c", live(policy), asked, policy)
    ups = type("Up", (), {"name": "baseline"})(), type("Up", (), {"name": "candidate"})()
    watcher = Watcher(canary, folder, live(policy), ups, SteadyClock())
    for i in range(3_000):
        arm = watcher.route(MODEL_INFER, asking(), (("x-user", f"u{i}"),))
        watcher.offer(call(arm, asking(), broken if judged(arm.name)[0] else answer()))
        if i % 100 == 99:
            watcher.turn()
            if watcher.standing.final:
                break
    standing = watcher.close()
    assert (standing.decision, standing.culprits) == (Decision.ROLLBACK, ("failed",))
    assert any("of another form than was asked for" in note for note in standing.notes)


def test_several_models_and_a_client_s_own_version_are_no_change_of_version(tmp_path):
    policy = POLICY.replace("unit: user", "unit: x-user")
    asked = Identity.of(live(policy), seed="s", baseline="b", candidate="c")
    folder, canary = CanaryFolder.start(tmp_path / "c", live(policy), asked, policy)
    ups = type("Up", (), {"name": "baseline"})(), type("Up", (), {"name": "candidate"})()
    watcher = Watcher(canary, folder, live(policy), ups, SteadyClock())

    def ask(i, model, version, answers):
        request = pb.ModelInferRequest.FromString(asking(model=model))
        request.model_version = version
        arm = watcher.route(MODEL_INFER, asking(), (("x-user", f"u{i}"),))
        response = pb.ModelInferResponse.FromString(answer(model=model))
        response.model_version = answers
        watcher.offer(call(arm, request.SerializeToString(), response.SerializeToString()))

    for i in range(60):
        ask(i, "m", "", "1")
        ask(i + 100, "n", "", "7")
        ask(i + 200, "m", "0", "0")
        ask(i + 300, "silent", "", "")
    watcher.turn()
    assert not watcher.standing.final
    assert canary.counts["candidate_version_unsaid"] > 0
    for i in range(400, 460):
        ask(i, "n", "", "8")
    watcher.turn()
    assert watcher.standing.reason == "version_changed"
    assert "was 7 and is 8 for model n" in watcher.standing.explanation
    assert any("does not say which version answers" in n for n in watcher.close().notes)

"""No data never promotes, and labels count only when they could have been known."""

import json
import re

import numpy as np
import pytest
from gates import RETRAIN, TINY_START_NS, tiny_model, tiny_traffic

from harness.store.label_rows import write_labels

AS_OF = "2020-12-01T00:00:00Z"
MINUTE_NS = 60_000_000_000


@pytest.fixture
def gate(harness, write_policy, tmp_path):
    """A retrain of the tiny model: (exit code, decision.json, manifest.json)."""
    model = tiny_model(tmp_path / "model.onnx")

    def run(traffic, *more, baseline=model, candidate=model, maturity="5m"):
        policy = write_policy(
            RETRAIN,
            windows={"matured": {"maturity": maturity}, "min_requests": 300, "cover": []},
            guardrails=[
                {"name": "features", "metric": "parity_mismatch", "scope": "features",
                 "margin": 0.05},
                {"name": "loss", "metric": "loss_difference", "loss": "brier", "margin": 0.1,
                 "window": "matured"},
            ],
        )  # fmt: skip
        out = tmp_path / "run"
        ran = harness("gate", baseline, candidate, "-t", traffic, "-p", policy, "-o", out,
                      "--as-of", AS_OF, "-q", *more)  # fmt: skip
        assert ran.code in {0, 1, 3}, ran.err
        decision, manifest = (
            json.loads((out / f"{n}.json").read_text()) for n in ("decision", "manifest")
        )
        return ran.code, decision, manifest

    return run


def labels_for(path, ids, *, late_ns=MINUTE_NS, label=1.0):
    ts = TINY_START_NS + np.arange(len(ids)) * 1_000_000_000
    write_labels(
        path, request_id=np.array(ids, object), label=np.full(len(ids), label), event_ts_ns=ts,
        label_event_ts_ns=ts, ingestion_ts_ns=ts + late_ns,
    )  # fmt: skip
    return path


def assert_nothing_to_judge_the_loss_by(ended, why):
    code, decision, _ = ended
    assert (code, decision["decision"], decision["reason"]) == (3, "HOLD", "empty_window")
    assert decision["binding_guardrail"] == "loss"
    assert decision["windows"]["matured"]["judged"] == 0
    assert why in decision["windows"]["matured"]["reason"]


def test_with_labels_in_time_it_promotes(gate, tmp_path):
    assert gate(tiny_traffic(tmp_path / "traffic", labels=True))[0] == 0


def test_labels_that_were_corrected_too_late_are_told(gate, harness, tmp_path):
    traffic = tiny_traffic(tmp_path / "traffic", labels=True)
    flipped = [f"t-{i}" for i in range(600)]
    late = labels_for(tmp_path / "late.parquet", flipped, late_ns=60 * MINUTE_NS, label=0.0)
    _, _, manifest = gate(traffic, "--labels", late)
    corrected = manifest["labels"]["corrected"]
    assert 200 < corrected < 400
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"{corrected:,} requests had their label corrected after the maturity" in page
    assert f"{corrected:,} of these correct a label that counts" in page


def test_without_labels_it_holds(gate, tmp_path):
    ended = gate(tiny_traffic(tmp_path / "traffic"))
    assert_nothing_to_judge_the_loss_by(ended, "600 exchanges: no label")


def test_labels_later_than_the_maturity_do_not_count(gate, tmp_path):
    ended = gate(tiny_traffic(tmp_path / "traffic", labels=True), maturity="30s")
    assert_nothing_to_judge_the_loss_by(ended, "label later than the maturity")


def test_labels_that_arrive_after_as_of_do_not_count(gate, tmp_path):
    traffic = tiny_traffic(tmp_path / "traffic")
    ids = [f"t-{i}" for i in range(600)]
    late = labels_for(tmp_path / "late.parquet", ids, late_ns=200 * 86_400 * 10**9)
    ended = gate(traffic, "--labels", late)
    assert_nothing_to_judge_the_loss_by(ended, "no label")
    assert ended[2]["labels"]["after_as_of"] == 600


@pytest.mark.parametrize("side", ["baseline", "candidate"])
def test_without_a_training_cut_off_no_loss_is_judged(side, gate, tmp_path):
    unknown = tiny_model(tmp_path / "unknown.onnx", cutoff=None)
    ended = gate(tiny_traffic(tmp_path / "traffic", labels=True), **{side: unknown})
    assert_nothing_to_judge_the_loss_by(ended, "training cut-off of unknown file is not recorded")


def test_trained_on_everything_leaves_no_loss_to_judge(gate, tmp_path):
    trained = tiny_model(tmp_path / "trained.onnx", cutoff="2020-10-01T00:00:00Z")
    ended = gate(tiny_traffic(tmp_path / "traffic", labels=True), candidate=trained)
    assert_nothing_to_judge_the_loss_by(ended, "up to the training cut-off 2020-10-01T00:00:00Z")


def test_labels_of_unknown_requests_are_counted(gate, tmp_path):
    traffic = tiny_traffic(tmp_path / "traffic", labels=True)
    strange = labels_for(tmp_path / "strange.parquet", ["s-1", "s-2", "s-3"])
    code, _, manifest = gate(traffic, "--labels", strange)
    assert code == 0
    assert manifest["labels"]["unknown"] == 3
    assert "3" in told_of_unknown_labels((tmp_path / "run" / "report.html").read_text())
    assert manifest["labels"]["joined"] == 600


def told_of_unknown_labels(page):
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    return next(iter(re.findall(r".{60}unknown request.{40}", text)), "")


def test_a_corrected_label_replaces_the_earlier_one(gate, tmp_path):
    traffic = tiny_traffic(tmp_path / "traffic", labels=True)
    ids = [f"t-{i}" for i in range(600)]
    flipped = labels_for(tmp_path / "flipped.parquet", ids, late_ns=2 * MINUTE_NS, label=0.0)
    _, _, manifest = gate(traffic, "--labels", flipped)
    assert manifest["labels"]["duplicates"] == 600
    with np.load(tmp_path / "run" / "order.npz") as saved:
        assert saved["label"].tolist() == [0.0] * 600


def test_a_worse_loss_is_rolled_back(gate, tmp_path):
    worse = tiny_model(tmp_path / "worse.onnx", raised="Neg({x})")
    code, decision, _ = gate(tiny_traffic(tmp_path / "traffic", labels=True), candidate=worse)
    assert code == 1
    assert decision["reason"] == "guardrail_failed"


BODIES = """
version: 1
inputs: [{name: x, datatype: FP32}]
outputs: [{name: probability, datatype: FP32}, {name: label, datatype: INT64}]
"""
OUTCOMES = """
version: 1
request_id: id
label: {column: outcome, values: {'yes': 1, 'no': 0}}
event_time: {column: asked, unit: s}
label_time: {column: happened, unit: s}
ingestion_time: {column: loaded, unit: s}
"""


def captured(folder, x):
    """SageMaker's capture of the tiny model: values without names or types."""
    path = folder / "tiny" / "v1" / "2020" / "09" / "13" / "12" / "x.jsonl"
    path.parent.mkdir(parents=True)
    lines = []
    for i, value in enumerate(x.tolist()):
        p = float(np.float32(1 / (1 + np.exp(-np.float32(value)))))
        answer = json.dumps({"predictions": [{"probability": p, "label": int(p >= 0.5)}]})
        at = np.datetime64(TINY_START_NS // 10**9 + i, "s")
        lines.append({
            "captureData": {"endpointInput": {"data": repr(value), "encoding": "CSV"},
                            "endpointOutput": {"data": answer, "encoding": "JSON"}},
            "eventMetadata": {"eventId": f"t-{i}", "inferenceTime": f"{at}Z"},
        })  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def ground_truth(folder, x):
    """Its labels, collected in the hour of the requests; arrived at its end."""
    path = folder / "2020" / "09" / "13" / "12" / "y.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(
        json.dumps({"groundTruthData": {"data": str(int(v > 0)), "encoding": "CSV"},
                    "eventMetadata": {"eventId": f"t-{i}"}}) + "\n"
        for i, v in enumerate(x.tolist())
    ))  # fmt: skip
    return [folder, "--format", "sagemaker"]


def outcomes(folder, x):
    """Labels as a table with all three times: the label arrives ten minutes after its event."""
    folder.mkdir()
    (folder / "m.yaml").write_text(OUTCOMES)
    start = TINY_START_NS // 10**9
    rows = [f"t-{i},{'yes' if v > 0 else 'no'},{start + i},{start + i + 60},{start + i + 660}"
            for i, v in enumerate(x.tolist())]  # fmt: skip
    (folder / "o.csv").write_text("\n".join(["id,outcome,asked,happened,loaded", *rows, ""]))
    return [folder / "o.csv", "--mapping", folder / "m.yaml"]


@pytest.mark.parametrize(
    ("labels", "maturity", "code"),
    [(ground_truth, "1h", 0), (outcomes, "11m", 0), (outcomes, "10m", 3)],
)
def test_imported_captures_and_labels_are_judged_by_their_arrival(
    labels, maturity, code, gate, harness, tmp_path
):
    x = np.random.default_rng(7).normal(size=600).astype(np.float32)
    (tmp_path / "bodies.yaml").write_text(BODIES)
    traffic, window = tmp_path / "traffic", tmp_path / "window"
    for words in (
        ["traffic", "import", "sagemaker", captured(tmp_path / "logs", x), "--to", traffic, "-q",
         "--mapping", tmp_path / "bodies.yaml"],
        ["labels", "import", *labels(tmp_path / "truth", x), "--to", traffic],
        ["traffic", "seal", traffic, "--out", window, "-q"],
    ):  # fmt: skip
        assert harness(*words).code == 0
    ended = gate(window, "--labels", traffic / "labels", maturity=maturity)
    assert ended[0] == code
    if code:
        assert_nothing_to_judge_the_loss_by(ended, "600 exchanges: label later than the maturity")
    else:
        assert ended[1]["windows"]["matured"]["judged"] > 300

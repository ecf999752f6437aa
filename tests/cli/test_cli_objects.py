"""Commands on traffic in an object store say what they say of the same traffic in a folder."""

import json

import pytest
from gates import RETRAIN, tiny_model, tiny_traffic

from harness.store.label_rows import label_paths
from harness.store.places import files_below, move

AS_OF = "2020-12-01T00:00:00Z"


@pytest.fixture
def both(bucket, tmp_path):
    """The same traffic with labels in a folder and in an object store."""
    copied = tiny_traffic(tmp_path / "copy", labels=True)
    for name in files_below(copied, ".parquet"):
        move(copied / name, bucket / "t" / str(name))
    return tiny_traffic(tmp_path / "t", labels=True), bucket / "t"


def test_a_gate_of_objects_decides_as_one_of_files(both, harness, write_policy, tmp_path):
    model = tiny_model(tmp_path / "model.onnx")
    policy = write_policy(
        RETRAIN,
        windows={"matured": {"maturity": "5m"}, "min_requests": 300, "cover": []},
        guardrails=[
            {"name": "loss", "metric": "loss_difference", "loss": "brier", "margin": 0.1, "window": "matured"}
        ],
    )  # fmt: skip
    found = []
    for k, place in enumerate(both):
        out = tmp_path / f"run{k}"
        ran = harness(
            "gate", model, model, "-t", place, "-p", policy, "-o", out, "--as-of", AS_OF, "-q"
        )
        manifest = json.loads((out / "manifest.json").read_text())
        decision = json.loads((out / "decision.json").read_text())
        found.append(
            (
                ran.code,
                decision["decision"],
                manifest["window"]["window_hash"],
                manifest["labels"]["matched"],
            )
        )
    assert found[0] == found[1]
    assert found[0][3] == 600
    assert manifest["request"]["traffic"] == [str(both[1])]
    assert "secret" not in (tmp_path / "run1" / "manifest.json").read_text()


def test_show_and_delays_of_objects_are_those_of_files(both, harness):
    for words in (("traffic", "show", "--json"), ("labels", "delay", "--as-of", AS_OF, "--json")):
        texts = [harness(*words[:2], place, *words[2:]).out for place in both]
        files, objects = (
            {k: v for k, v in json.loads(t).items() if k not in {"path", "traffic"}} for t in texts
        )
        assert files == objects


def test_a_wrong_place_is_a_usage_error(bucket, harness):
    ran = harness("traffic", "show", bucket / "none")
    assert ran.code == 2
    assert "no .parquet file of recorded exchanges" in ran.err


def test_labels_imported_by_command_are_those_that_gates_read(tmp_path, harness):
    traffic = tiny_traffic(tmp_path / "t")
    (tmp_path / "l.csv").write_text(
        "id,y,at\nt-0,1,1600000060\nt-1,0,1600000061\nt-x,0,1600000061\n"
    )
    (tmp_path / "m.yaml").write_text(
        "version: 1\nrequest_id: id\nlabel: {column: y}\ningestion_time: {column: at, unit: s}\n"
    )
    ran = harness(
        "labels", "import", tmp_path / "l.csv", "--to", traffic, "--mapping", tmp_path / "m.yaml"
    )
    assert ran.code == 0
    assert "2 matched, 1 of unknown requests" in ran.out
    assert len(label_paths(traffic)) == 1
    assert "2 exchanges labelled, 1 of unknown requests" in harness("traffic", "show", traffic).out

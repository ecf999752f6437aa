"""The digest covers the model, its external data and its requirements, and nothing else."""

import hashlib
import json
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.resolve.digest import external_data_names, model_content


def test_digest_can_be_recomputed_by_hand(make_model):
    model = make_model("m.onnx", external=True)
    weights = model.with_name("weights.bin").read_bytes()
    canonical = {
        "external": [
            {
                "name": "weights.bin",
                "sha256": hashlib.sha256(weights).hexdigest(),
                "size": len(weights),
            }
        ],
        "format": "harness-model/1",
        "model": {
            "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
            "size": model.stat().st_size,
        },
        "requirements": ["numpy==2.0.0", "onnxruntime==1.31.1"],
    }
    text = json.dumps(canonical, sort_keys=True, separators=(",", ":"))
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert model_content(model, ("onnxruntime==1.31.1", "numpy==2.0.0")).digest == expected


def test_unrelated_neighbours_do_not_enter(make_model):
    model = make_model("m.onnx", external=True)
    before = model_content(model).digest
    make_model("other.onnx", scale=3.0)
    model.with_name("MLmodel").write_text("utc_time_created: now")
    assert model_content(model).digest == before


def test_a_changed_external_byte_changes_it(make_model):
    model = make_model("m.onnx", external=True)
    before = model_content(model).digest
    weights = model.with_name("weights.bin")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert model_content(model).digest != before


def test_external_data_below_the_model_are_found(tmp_path):
    (tmp_path / "parts" / "deep").mkdir(parents=True)
    (tmp_path / "unnamed").mkdir()
    for file in ("parts/deep/w0.bin", "parts/w1.bin", "unnamed/w0.bin"):
        (tmp_path / file).write_bytes(b"w")
    model = tmp_path / "m.onnx"
    model.write_bytes(b"\x08location\x12parts/deep/w0.bin \x08location\x12parts/w1.bin")
    assert external_data_names(model) == ("parts/deep/w0.bin", "parts/w1.bin")


def test_a_model_without_external_data_reads_no_neighbours(make_model):
    model = make_model("m.onnx")
    model.with_name("scale").write_bytes(b"a tensor of the model has this name")
    assert external_data_names(model) == ()


def test_the_files_own_name_does_not_enter(make_model):
    assert (
        model_content(make_model("a/one.onnx")).digest
        == model_content(make_model("b/two.onnx")).digest
    )


contents = st.tuples(
    st.binary(min_size=1, max_size=64), st.lists(st.text("abc=<1.", min_size=1), max_size=3)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(one=contents, two=contents)
def test_digests_are_equal_exactly_when_contents_are(tmp_path: Path, one, two):
    digests = []
    for index, (content, requirements) in enumerate((one, two)):
        file = tmp_path / f"{index}.onnx"
        file.write_bytes(content)
        digests.append(model_content(file, tuple(requirements)).digest)
    same = one[0] == two[0] and set(one[1]) == set(two[1])
    assert (digests[0] == digests[1]) == same

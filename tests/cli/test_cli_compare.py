"""What `harness compare` answers, from whatever the inputs come."""

import json

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gates import FLIGHTS, MODELS, PLAIN, tiny_model, tiny_traffic

N = 40


@pytest.fixture
def model(tmp_path):
    return tiny_model(tmp_path / "old.onnx")


@pytest.fixture
def x():
    return np.random.default_rng(3).normal(size=N).astype(np.float32)


def inputs(kind, folder, x):
    path = folder / f"inputs.{kind}"
    match kind:
        case "npz":
            np.savez(path, x=x)
        case "parquet":
            pq.write_table(pa.table({"x": x}), path)
        case "jsonl":
            path.write_text("\n".join(json.dumps({"x": float(v)}) for v in x))
        case _:
            tiny_traffic(path, values=x)
    return path


@pytest.mark.parametrize("kind", ["npz", "parquet", "jsonl", "folder"])
def test_the_same_model_is_equal_on_inputs_of_every_kind(kind, model, x, harness, tmp_path):
    ran = harness(*PLAIN, model, model, "-i", inputs(kind, tmp_path, x), "--json")
    told = json.loads(ran.out)
    assert (ran.code, told["exit_code"], told["equal"]) == (0, 0, True)
    assert (told["compared"], told["asked"], told["available"]) == (N, N, N)


def test_another_answer_is_a_divergence(model, x, harness, tmp_path):
    other = tiny_model(tmp_path / "new.onnx", raised="Abs({x})")
    ran = harness(*PLAIN, model, other, "-i", inputs("npz", tmp_path, x), "--json")
    told = json.loads(ran.out)
    assert ran.code == 1
    assert told["intermediates"]["compared"]["output_mismatches"] == int((x < 0).sum())
    assert told["intermediates"]["compared"]["feature_mismatches"] == 0


def test_a_divergence_is_told_first(model, x, harness, tmp_path):
    other = tiny_model(tmp_path / "new.onnx", raised="Abs({x})")
    ran = harness(*PLAIN, model, other, "-i", inputs("npz", tmp_path, x), "-q")
    assert ran.out.startswith("DIVERGED: old (")


def test_the_utc_hour_is_named(harness):
    ran = harness(
        *PLAIN, MODELS / "v2.onnx", MODELS / "utc_hour.onnx", "-i", FLIGHTS, "--limit", 2000,
        "--json",
    )  # fmt: skip
    assert ran.code == 1
    hour = next(f for f in json.loads(ran.out)["findings"] if f["where"] == "hour")
    assert (hour["relation"], hour["value"]) == ("cyclic_shift", 4.0)


def test_another_signature_is_not_comparable(model, x, harness, tmp_path):
    other = tiny_model(tmp_path / "new.onnx", x="z")
    ran = harness(*PLAIN, model, other, "-i", inputs("npz", tmp_path, x))
    assert ran.code == 2
    assert "x FP32[?]" in ran.err
    assert "z FP32[?]" in ran.err


def test_a_mapping_bridges_the_signatures(model, x, harness, tmp_path):
    other = tiny_model(tmp_path / "new.onnx", x="z")
    ran = harness(*PLAIN, model, other, "-i", inputs("npz", tmp_path, x), "--map", "inputs:x=z")
    assert ran.code == 0


@pytest.mark.parametrize("side", ["old", "new"])
def test_nan_on_one_side_is_a_divergence(side, model, x, harness, tmp_path):
    nan = tiny_model(tmp_path / "nan.onnx", raised="Log({x})")
    pair = (nan, model) if side == "old" else (model, nan)
    assert harness(*PLAIN, *pair, "-i", inputs("npz", tmp_path, x)).code == 1


def test_nan_on_both_sides_is_equal(x, harness, tmp_path):
    nan = tiny_model(tmp_path / "nan.onnx", raised="Log({x})")
    assert harness(*PLAIN, nan, nan, "-i", inputs("npz", tmp_path, x)).code == 0


def test_no_requests_are_not_comparable(model, harness, tmp_path):
    empty = inputs("npz", tmp_path, np.empty(0, np.float32))
    assert harness(*PLAIN, model, model, "-i", empty).code == 2


def redeclared(model, path, features):
    loaded = onnx.load(str(model))
    onnx.helper.set_model_props(loaded, {"harness.features": json.dumps(features)})
    onnx.save(loaded, str(path))
    return path


@pytest.mark.parametrize("declared", [[], ["raised"]])
def test_a_feature_that_an_identical_graph_does_not_declare_is_equal(
    declared, model, x, harness, tmp_path
):
    other = redeclared(model, tmp_path / "new.onnx", declared)
    ran = harness("compare", model, other, "-i", inputs("npz", tmp_path, x), "--json")
    told = json.loads(ran.out)
    assert (ran.code, told["equal"]) == (0, True)
    kinds = {f["kind"]: f["where"] for f in told["findings"]}
    assert kinds["features_not_declared"] == "doubled"
    # What only the new version declares is a warning of its own.
    assert kinds.get("features_not_compared", "raised") == "raised"


def test_a_feature_that_another_graph_does_not_declare_is_not_comparable(
    model, x, harness, tmp_path
):
    other = tiny_model(tmp_path / "other.onnx", raised="Max({x}, {x})")
    bare = redeclared(other, tmp_path / "new.onnx", [])
    page, given = tmp_path / "page.html", inputs("npz", tmp_path, x)
    ran = harness("compare", model, bare, "-i", given, "--html", page)
    assert ran.code == 2
    assert ran.out.startswith("NOT COMPARABLE")
    assert "- doubled: only the baseline declares it\n" in ran.out
    assert "it is not known which of the candidate's tensors to compare" in ran.out
    # The remedy is one that a comparison has.
    assert "--map 'tensors:doubled=TENSOR'" in ran.out
    assert "expected_changes" not in ran.out
    assert (
        harness("compare", model, bare, "-i", given, "--map", "tensors:doubled=doubled").code == 0
    )
    assert "Something that counts could not be compared" in page.read_text()
    # Nor is it equal where nobody looked at the graphs.
    same = redeclared(model, tmp_path / "same.onnx", [])
    assert harness("compare", model, same, "-i", given, "--graph-requests", 0).code == 2
    # A difference is one all the same.
    neg = tiny_model(tmp_path / "neg.onnx", raised="Neg({x})")
    off = redeclared(neg, tmp_path / "off.onnx", [])
    assert harness("compare", model, off, "-i", given).code == 1


@pytest.mark.parametrize("bare", ["old", "new"])
def test_a_mapped_feature_that_one_version_does_not_declare_is_compared(
    bare, model, x, harness, tmp_path
):
    lost = redeclared(model, tmp_path / "bare.onnx", [])
    given = ("-i", inputs("npz", tmp_path, x))
    pair = (lost, model) if bare == "old" else (model, lost)
    ran = harness(*PLAIN, *pair, *given, "--map", "tensors:doubled=doubled")
    assert ran.code == 0
    assert "features: 1 of 1 tensors equal" in ran.out
    assert "only the" not in ran.out
    tensors = "tensors:doubled=raised" if bare == "new" else "tensors:raised=doubled"
    ran = harness(*PLAIN, *pair, *given, "--map", tensors)
    assert ran.code == 1
    assert "features: 0 of 1 tensors equal" in ran.out


def test_a_feature_that_only_the_new_version_has_is_a_warning(model, x, harness, tmp_path):
    old = redeclared(model, tmp_path / "bare.onnx", [])
    ran = harness(*PLAIN, old, model, "-i", inputs("npz", tmp_path, x), "--json")
    told = json.loads(ran.out)
    assert ran.code == 0
    assert "features_not_compared" in {f["kind"] for f in told["findings"]}


def test_a_feature_that_cannot_be_traced_does_not_differ_from_itself(model, x, harness, tmp_path):
    odd = redeclared(model, tmp_path / "odd.onnx", ["doubled", "nowhere"])
    ran = harness(*PLAIN, odd, odd, "-i", inputs("npz", tmp_path, x))
    # Nor is it equal: nobody has seen it.
    assert ran.code == 2
    assert "0 requests differ" in ran.out
    assert "feature nowhere: not compared" in ran.out


def test_many_features_that_were_not_compared_are_one_line(harness, tmp_path):
    bare = redeclared(MODELS / "v1.onnx", tmp_path / "bare.onnx", [])
    words = (*PLAIN, MODELS / "v1.onnx", bare, "-i", FLIGHTS, "--limit", 300, "-q")
    ran = harness(*words)
    assert ran.code == 2
    assert ran.out.count("only the baseline declares it") == 2  # features, fitted tensors
    assert "features: 0 of 24 tensors equal; 0 requests differ" in ran.out


def test_tensors_and_columns_are_told_apart(harness):
    words = (*PLAIN, MODELS / "v1.onnx", MODELS / "v1.onnx", "-i", FLIGHTS, "--limit", 300)
    assert "24 of 24 tensors equal (54 of 54 columns)" in harness(*words, "-q").out


@pytest.mark.long
def test_what_both_versions_reject_is_not_comparable(harness):
    crash = MODELS / "crash.onnx"
    ran = harness(*PLAIN, crash, crash, "-i", FLIGHTS, "--limit", 1000, "-q")
    assert ran.code == 2
    assert ran.out.startswith("NOT COMPARABLE")
    assert "0 of 1,000 requests compared" in ran.out


def test_noise_that_would_hide_a_difference_is_not_comparable(x, harness, tmp_path):
    noisy = tiny_model(
        tmp_path / "noisy.onnx", raised="RandomUniformLike<low = 0.1, high = 2.0>({x})"
    )
    model = tiny_model(tmp_path / "other.onnx", raised="Mul({x}, {x})")
    told = harness(*PLAIN, noisy, noisy, "-i", inputs("npz", tmp_path, x), "-q")
    assert told.code == 2
    assert "probability is computed from a random operator" in told.out
    assert harness(*PLAIN, model, model, "-i", inputs("npz", tmp_path, x)).code == 0


def test_the_same_comparison_says_the_same_twice(harness):
    words = (*PLAIN, MODELS / "v1.onnx", MODELS / "v2.onnx", "-i", FLIGHTS, "--limit", 1500,
             "--json")  # fmt: skip
    first, second = (json.loads(harness(*words).out) for _ in range(2))
    for told in (first, second):
        for pinned in told["models"]:
            del pinned["path"]  # a folder of the comparison's own
    assert first == second
    assert first["compared"] == 1500


def test_a_comparison_leaves_nothing_behind(model, x, harness, tmp_path):
    harness(*PLAIN, model, model, "-i", inputs("npz", tmp_path, x))
    assert list((tmp_path / "work").iterdir()) == []


def test_the_boosted_twin_is_equal_to_itself_with_all_its_features(harness, some_flights):
    """Trees answer in steps: a last digit before a split would show as a jump."""
    gbt = MODELS / "gbt.onnx"
    ran = harness(*PLAIN, gbt, gbt, "-i", some_flights, "--json")
    told = json.loads(ran.out)["intermediates"]
    assert ran.code == 0
    assert told["compared"]["feature_requests"] > 0
    assert {row["verdict"] for row in (*told["features"], *told["outputs"])} == {"equal"}


def test_the_boosted_twin_differs_from_the_logistic_one_only_after_the_features(
    harness, some_flights
):
    ran = harness(*PLAIN, MODELS / "v2.onnx", MODELS / "gbt.onnx", "-i", some_flights, "--json")
    told = json.loads(ran.out)["intermediates"]
    assert ran.code == 1
    assert told["compared"]["output_mismatches"] > 0
    assert told["compared"]["feature_mismatches"] == 0


def test_a_shape_that_a_version_does_not_keep_is_a_finding_of_that_version(harness, tmp_path):
    def model(path, declared):
        x = onnx.helper.make_tensor_value_info("x", 1, ["N", "F"])
        y = onnx.helper.make_tensor_value_info("y", 1, ["N", declared])
        graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "g", [x], [y])
        opset = [onnx.helper.make_opsetid("", 15)]
        onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)
        return path

    np.savez(tmp_path / "in.npz", x=np.ones((N, 4), np.float32))
    old, new = model(tmp_path / "old.onnx", "F"), model(tmp_path / "new.onnx", 3)
    ran = harness("compare", old, new, "-i", tmp_path / "in.npz", "--json")
    (finding,) = [
        f for f in json.loads(ran.out)["findings"] if f["kind"].endswith("_undeclared_shape")
    ]
    assert (finding["kind"], finding["where"]) == ("candidate_undeclared_shape", "candidate")
    assert "output y is declared as (rows, 3) and came as (rows, 4)" in finding["what"]


def test_a_tensor_that_could_not_be_compared_is_named_beside_the_equal_ones(harness, tmp_path):
    x = onnx.helper.make_tensor_value_info("x", 1, ["N"])
    y = onnx.helper.make_tensor_value_info("y", 1, ["N"])
    z = onnx.helper.make_tensor_value_info("z", onnx.TensorProto.BFLOAT16, ["N"])
    nodes = [
        onnx.helper.make_node("Neg", ["x"], ["y"]),
        onnx.helper.make_node("Cast", ["x"], ["z"], to=onnx.TensorProto.BFLOAT16),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [x], [y, z])
    opset = [onnx.helper.make_opsetid("", 15)]
    path = tmp_path / "m.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    np.savez(tmp_path / "in.npz", x=np.ones(N, np.float32))
    ran = harness("compare", path, path, "-i", tmp_path / "in.npz", "--graph-requests", "0", "-q")
    assert ran.code == 2
    assert ran.out.startswith("NOT COMPARABLE")
    assert "outputs: 1 of 1 tensors equal; 0 requests differ" in ran.out
    assert "not compared: output z" in ran.out


def test_a_name_that_turns_the_line_is_written_as_numbers(harness, tmp_path):
    name = "y\u202egnp\u2028\x1b[31m"
    x = onnx.helper.make_tensor_value_info("x", 1, ["N"])
    y = onnx.helper.make_tensor_value_info(name, 1, ["N"])
    for op in ("Neg", "Abs"):
        graph = onnx.helper.make_graph([onnx.helper.make_node(op, ["x"], [name])], "g", [x], [y])
        opset = [onnx.helper.make_opsetid("", 15)]
        model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
        onnx.save(model, tmp_path / f"{op}.onnx")
    np.savez(tmp_path / "in.npz", x=np.ones(N, np.float32))
    page = tmp_path / "page.html"
    ran = harness(
        "compare", tmp_path / "Neg.onnx", tmp_path / "Abs.onnx", "-i", tmp_path / "in.npz",
        "--html", page, "-q",
    )  # fmt: skip
    assert (ran.code, "y\\u202egnp\\u2028" in ran.out) == (1, True)
    for text in (ran.out, page.read_text()):
        assert not {"\u202e", "\u2028", "\x1b"} & set(text)


ABOVE = """<ir_version: 8, opset_import: ["": 17]>
above (float[n] x) => (float[n] y) <float cut = {{{cut}}}, float nought = {{0}}>
{{ small = Less(x, cut)
   y = Where(small, nought, x) }}"""


@pytest.mark.parametrize(("sigma", "below", "answer"), [(4, 0.005, 1), (8, 5e-7, 2)])
def test_small_answers_of_a_heavy_tail_that_become_zero_are_never_equal(
    sigma, below, answer, harness, tmp_path
):
    values = np.exp(np.random.default_rng(9).normal(size=600) * sigma).astype(np.float32)
    for name, cut in (("old", 0), ("new", below)):
        onnx.save(onnx.parser.parse_model(ABOVE.format(cut=cut)), tmp_path / f"{name}.onnx")
    models = (tmp_path / "old.onnx", tmp_path / "new.onnx")
    ran = harness(*PLAIN, *models, "-i", inputs("npz", tmp_path, values))
    assert ran.code == answer
    assert ("small values are not comparable" in ran.out) == (answer == 2)


FIRST_ROW = """<ir_version: 8, opset_import: ["": 17]>
first (float[n,2] x) => (float[n,2] y) <int64[1] at = {{0}}>
{{ r = Relu(x)
   y = {last} }}"""


def test_one_row_for_a_whole_batch_is_never_equal(harness, tmp_path):
    for name, last in (("old", "Identity(r)"), ("new", "Gather(r, at)")):
        model = onnx.parser.parse_model(FIRST_ROW.format(last=last))
        onnx.save(model, tmp_path / f"{name}.onnx")
    values = np.random.default_rng(1).normal(size=(60, 2)).astype(np.float32)
    models = (tmp_path / "old.onnx", tmp_path / "new.onnx")
    ran = harness(*PLAIN, *models, "-i", inputs("npz", tmp_path, values))
    assert ran.code == 2
    assert "answers no batch of several requests" in ran.out

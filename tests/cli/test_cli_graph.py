"""Where the graphs part: what `harness compare` and `harness gate` say about it."""

import json

import numpy as np
import onnx
import pytest
from gates import AS_OF, MODELS, REFACTOR, RETRAIN, tiny_model, tiny_traffic
from onnx import parser

N = 40


@pytest.fixture
def model(tmp_path):
    return tiny_model(tmp_path / "old.onnx", raised="Neg({x})")


@pytest.fixture
def inputs(tmp_path):
    x = np.random.default_rng(3).normal(size=N).astype(np.float32)
    np.savez(tmp_path / "inputs.npz", x=x)
    return tmp_path / "inputs.npz"


def test_the_first_place_to_part_is_told_and_proven(model, inputs, harness, tmp_path):
    other = tiny_model(tmp_path / "new.onnx", raised="Abs({x})")
    ran = harness("compare", model, other, "-i", inputs, "--json")
    told = json.loads(ran.out)
    report = told["graph"]["report"]
    (first,) = report["divergences"]
    assert ran.code == 1
    assert first["divergence"]["baseline"] == "raised"
    assert [c["candidate"] for c in first["divergence"]["changes"]] == ["Abs"]
    assert all(proof["before"] > proof["after"] == 0 for proof in report["proofs"])
    (finding,) = (f for f in told["findings"] if f["kind"] == "first_divergence_graph")
    assert "this is the whole cause" in finding["what"]


def test_the_worst_row_is_the_one_that_is_furthest_apart(model, inputs, harness, tmp_path):
    other = tiny_model(tmp_path / "new.onnx", raised="Abs({x})")
    told = json.loads(harness("compare", model, other, "-i", inputs, "--json").out)
    x = np.load(inputs)["x"]
    worst = told["graph"]["report"]["divergences"][0]["worst"][0]
    assert worst["inputs"] == [["x", f"{x.max():.6g}"]]
    assert (worst["baseline"], worst["candidate"]) == (f"{-x.max():.6g}", f"{x.max():.6g}")


def test_requests_that_differ_are_looked_into_first(model, harness, tmp_path):
    x = -np.ones(300, np.float32)
    x[250:] = 1.0
    np.savez(tmp_path / "late.npz", x=x)
    other = tiny_model(tmp_path / "new.onnx", raised="Abs({x})")
    words = ("compare", model, other, "-i", tmp_path / "late.npz", "--graph-requests", 60, "--json")
    told = json.loads(harness(*words).out)
    (state,) = (s for s in told["graph"]["report"]["states"] if s["baseline"] == "raised")
    assert (state["rows"], state["differing"]) == (60, 50)


def test_coverage_and_tiers_are_told(model, inputs, harness):
    ran = harness("compare", model, model, "-i", inputs, "-q")
    assert ran.code == 0
    assert "graph: 5 of 5 tensors equal in 40 requests; 5 of 5 tensors" in ran.out
    assert "matched by 5 identical" in ran.out


def test_no_look_is_said_and_changes_no_answer(model, inputs, harness):
    ran = harness("compare", model, model, "-i", inputs, "-q", "--graph-requests", 0)
    assert ran.code == 0
    assert "graph: not looked into" in ran.out


def test_a_memory_limit_makes_sketches(model, inputs, harness):
    ran = harness("compare", model, model, "-i", inputs, "-q", "--memory", "64B")
    assert ran.code == 0
    assert "(floats by sketches)" in ran.out


def test_a_memory_that_is_no_size_is_refused(model, inputs, harness):
    ran = harness("compare", model, model, "-i", inputs, "--memory", "lots")
    assert ran.code == 2
    assert "Write it like 256MiB" in ran.err


@pytest.mark.parametrize(
    ("pair", "role"), [("raise=raised", "baseline"), ("raised=rised", "candidate")]
)
def test_a_mapped_tensor_that_is_not_there_is_refused(pair, role, model, inputs, harness):
    ran = harness("compare", model, model, "-i", inputs, "--map", f"tensors:{pair}")
    assert ran.code == 2
    assert f"the {role} has no" in ran.err
    assert "did you mean 'raised'?" in ran.err


def test_a_mapping_of_tensors_is_used(model, inputs, harness):
    ran = harness(
        "compare", model, model, "-i", inputs, "--map", "tensors:raised=doubled", "--json"
    )
    states = json.loads(ran.out)["graph"]["report"]["states"]
    # What is the same computation needs no mapping, and keeps its partner.
    assert {s["baseline"]: s["candidate"] for s in states}["raised"] == "raised"


@pytest.fixture
def gated(harness, tmp_path, write_policy):
    """`harness gate` on a tiny candidate: (exit code, run folder)."""

    def run(raised, policy=REFACTOR, **graph):
        baseline = tiny_model(tmp_path / "baseline.onnx", raised="Neg({x})")
        candidate = tiny_model(tmp_path / "candidate.onnx", raised=raised)
        ran = harness(
            "gate", baseline, candidate, "-t", tiny_traffic(tmp_path / "traffic"), "-q",
            "-p", write_policy(policy, graph=graph), "-o", tmp_path / "run",
        )  # fmt: skip
        assert ran.code in {0, 1, 3}, ran.err
        return ran.code, tmp_path / "run"

    return run


def read(run, name):
    return json.loads((run / f"{name}.json").read_text())


def test_a_gate_shows_where_the_graphs_part(gated):
    code, run = gated("Abs({x})")
    graph = read(run, "intermediates")["graph"]
    assert code == 1
    assert [d["divergence"]["baseline"] for d in graph["report"]["divergences"]] == ["raised"]
    kinds = [f["kind"] for f in read(run, "findings")["findings"]]
    assert "first_divergence_graph" in kinds


def test_a_gate_in_which_nothing_differs_does_not_look(gated):
    code, run = gated("Neg({x})")
    graph = read(run, "intermediates")["graph"]
    assert code == 0
    assert graph["report"] is None
    assert graph["why"].endswith("nothing that was compared and counts differs beyond the floor")


def test_a_gate_whose_candidate_answers_nothing_says_that_nothing_was_compared(gated):
    code, run = gated("Range({x}, {x}, {x})")
    graph = read(run, "intermediates")["graph"]
    assert (code, read(run, "decision")["reason"]) == (1, "candidate_fails")
    assert graph["why"].startswith("no row was compared")


def test_a_gate_that_always_looks_does(gated):
    _, run = gated("Neg({x})", when="always", requests=10)
    report = read(run, "intermediates")["graph"]["report"]
    assert (report["requests"], report["equal"], report["compared"]) == (10, 5, 5)


def test_a_gate_that_never_looks_says_so(gated):
    _, run = gated("Abs({x})", when="never")
    assert "the policy asks for none" in read(run, "intermediates")["graph"]["why"]


def test_other_answers_of_a_retrain_are_not_looked_into(gated):
    retrain = {k: v for k, v in RETRAIN.items() if k != "guardrails"} | {
        "drop": ["loss", "features"],
        "windows": {"newest": {"days": 200}, "min_requests": 300},
    }
    _, run = gated("Mul({x}, {x})", retrain)
    assert "what a retrain is for" in read(run, "intermediates")["graph"]["why"]


def test_a_gate_finds_the_local_hour_in_the_flights(harness, some_flights, write_policy, tmp_path):
    ran = harness(
        "gate", MODELS / "v2.onnx", MODELS / "utc_hour.onnx", "-t", some_flights, "--as-of", AS_OF,
        "-p", write_policy(RETRAIN, graph={"requests": 64}), "-o", tmp_path / "run", "-q",
    )  # fmt: skip
    report = read(tmp_path / "run", "intermediates")["graph"]["report"]
    assert ran.code == 1
    assert [d["divergence"]["baseline"] for d in report["divergences"]] == ["second_of_day"]
    assert report["requests"] == 64


def test_graphs_are_looked_into_in_next_to_no_memory(harness, tmp_path):
    traffic = tiny_traffic(tmp_path / "traffic", 100)
    old = tiny_model(tmp_path / "old.onnx", raised="Exp({x})")
    new = tiny_model(tmp_path / "new.onnx", raised="Abs({x})")
    ran = harness("compare", old, new, "-i", traffic, "--memory", "1KiB", "-q")
    assert ran.code == 1
    assert "(floats by sketches)" in ran.out
    assert "the graphs part at raised: 100 of 100 rows differ" in ran.out


SCORES = """
<ir_version: 8, opset_import: ["" : 15, "ai.onnx.ml" : 3]>
scores (float[N, 2] x) => (seq(map(int64, float)) z) {{
  p = {squash}(x)
  z = ai.onnx.ml.ZipMap<classlabels_int64s = [0, 1]>(p)
}}
"""


def test_scores_by_class_are_looked_into_and_drawn(harness, tmp_path):
    for squash in ("Softmax", "Sigmoid"):
        made = parser.parse_model(SCORES.format(squash=squash))
        onnx.save(made, str(tmp_path / f"{squash}.onnx"))
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32))
    ran = harness(
        "compare", tmp_path / "Softmax.onnx", tmp_path / "Sigmoid.onnx", "-i", tmp_path / "x.npz",
        "-q", "--html", tmp_path / "page.html",
    )  # fmt: skip
    assert ran.code == 1
    assert "Softmax → p is made by Sigmoid" in ran.out
    page = (tmp_path / "page.html").read_text()
    assert 'class="box first bad"' in page

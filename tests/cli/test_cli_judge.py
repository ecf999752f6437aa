"""`harness judge`: exit codes, the example, JSON."""

import json

import numpy as np
import pytest
from gates import ROOT

EXAMPLE = ROOT / "scenarios" / "tables" / "score-shift.csv"
POLICY = ROOT / "scenarios" / "policies" / "table.yaml"


@pytest.fixture
def table(tmp_path):
    def write(mean):
        values = np.random.default_rng(1).normal(mean, 0.05, 1500)
        path = tmp_path / "t.csv"
        path.write_text("d\n" + "".join(f"{v}\n" for v in values))
        return path

    return write


@pytest.mark.parametrize(("mean", "code"), [(0.0, 0), (0.02, 3), (0.06, 1)])
def test_the_exit_code_is_the_decision(mean, code, table, harness, tmp_path):
    policy = tmp_path / "p.yaml"
    policy.write_text(
        "version: 1\nguardrails:\n  - {name: d, range: [-0.25, 0.25], margin: 0.02}\n"
    )
    ran = harness("judge", table(mean), "-p", policy, "--json")
    assert (ran.code, json.loads(ran.out)["exit_code"]) == (code, code)


def test_the_example_of_the_readme_promotes(harness):
    ran = harness("judge", EXAMPLE, "--policy", POLICY)
    assert ran.code == 0
    assert ran.out.startswith("PROMOTE")
    assert "clipped mean" in ran.out


def test_the_report_can_be_written_again(harness, tmp_path):
    assert harness("judge", EXAMPLE, "-p", POLICY, "-o", tmp_path / "run").code == 0
    (tmp_path / "run" / "report.html").unlink()
    assert harness("report", tmp_path / "run").code == 0
    assert "score-shift.csv" in (tmp_path / "run" / "report.html").read_text()


def test_a_policy_for_a_gate_is_refused_with_a_remedy(harness):
    ran = harness("judge", EXAMPLE, "-p", ROOT / "scenarios" / "policies" / "flights-retrain.yaml")
    assert ran.code == 2
    assert "need two models" in ran.err


def test_a_gate_refuses_a_policy_for_a_table(harness, tmp_path):
    ran = harness("gate", "a.onnx", "b.onnx", "-t", EXAMPLE, "-p", POLICY, "-o", tmp_path / "run")
    assert ran.code == 2
    assert not (tmp_path / "run").exists()

"""How often the same question was asked before, and what that costs."""

import json

import pytest

from harness.pipeline.attempts import attempt_number

LINEAGE = {"baseline": "a", "candidate": "b", "policy": "c"}


@pytest.fixture
def runs(tmp_path):
    """Writes a run folder beside the others: `runs(name, …)`."""

    def write(name, *, lineage=LINEAGE, pairs=True, decision="HOLD", manifest=None):
        run = tmp_path / name
        (run / "pairs").mkdir(parents=True)
        (run / "manifest.json").write_text(manifest or json.dumps({"lineage": lineage}))
        if pairs:
            (run / "pairs" / "00000.parquet").write_bytes(b"")
        if decision is not None:
            (run / "decision.json").write_text(json.dumps({"decision": decision}))
        return tmp_path

    write.number = lambda: attempt_number(tmp_path, LINEAGE, tmp_path / "own")
    return write


def test_the_first_is_the_first(runs):
    assert runs.number() == 1


@pytest.mark.parametrize(
    ("earlier", "counts"),
    [
        ({}, True),
        ({"decision": "ROLLBACK"}, True),
        ({"decision": None}, True),
        ({"decision": "PROMOTE"}, False),
        ({"pairs": False}, False),
        ({"lineage": {**LINEAGE, "policy": "d"}}, False),
        ({"lineage": {**LINEAGE, "candidate": "d"}}, False),
        ({"manifest": '{"lineage": '}, False),
        ({"manifest": "[]"}, False),
    ],
    ids=["hold", "rollback", "interrupted", "promoted", "saw nothing", "policy", "candidate",
         "cut off", "no object"],
)  # fmt: skip
def test_what_counts_as_an_attempt(runs, earlier, counts):
    runs("earlier", **earlier)
    assert runs.number() == 1 + counts


def test_attempts_add_up_and_a_run_does_not_count_itself(runs):
    for name in ("a", "b", "own"):
        runs(name)
    assert runs.number() == 3

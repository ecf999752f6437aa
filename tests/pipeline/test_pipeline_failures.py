"""Which requests only the candidate fails."""

import json

import numpy as np
import pytest

from harness.core.errors import UsageError
from harness.core.observations import Observations, Outcome, PairBatch
from harness.core.traffic import RequestBatch
from harness.decide.facts import BaselineFailures
from harness.pipeline import assets
from harness.pipeline.baseline_failures import BaselineTally
from harness.pipeline.candidate_failures import LISTED, CandidateFailures
from harness.pipeline.comparable import never_known, rejected

NAN = float("nan")
OK, ERROR, CRASH, NOT_RUN = Outcome.OK, Outcome.ERROR, Outcome.CRASH, Outcome.NOT_RUN
TIMEOUT, INVALID = Outcome.TIMEOUT, Outcome.INVALID


def observed(outcome, values, messages=(), short=()):
    return Observations(
        outcome=np.array(outcome, np.int8),
        outputs={"p": np.array(values, np.float32)},
        features={}, trace_outputs={}, latency_s=np.zeros(len(outcome)), messages=messages,
        short=short,
    )  # fmt: skip


def pair(
    baseline, candidate, *, base=None, cand=None, rows=None, messages=(), short=((), ()), first=0
):
    n = len(baseline)
    rows = np.ones(n, np.int64) if rows is None else np.array(rows)
    total = int(rows.sum())
    requests = RequestBatch(
        seq=np.arange(n), request_id=np.array([f"r{first + i}" for i in range(n)], object),
        ts_ns=np.zeros(n, np.int64), rows=rows, inputs={}, recorded={},
        answered=np.ones(n, np.bool_), context={},
    )  # fmt: skip
    return PairBatch(
        requests=requests,
        baseline=observed(baseline, [0.0] * total if base is None else base, short=short[0]),
        candidate=observed(candidate, [0.0] * total if cand is None else cand, messages, short[1]),
    )


def counted(*batches):
    failures = CandidateFailures()
    for batch in batches:
        failures.update(batch)
    return failures


def test_only_what_the_baseline_answers_counts():
    failures = counted(
        pair([OK, OK, ERROR, ERROR, NOT_RUN, OK], [OK, CRASH, CRASH, OK, CRASH, NOT_RUN])
    )
    assert failures.kinds == {"CRASH": 1}
    assert (failures.ids, failures.count()) == (["r1"], 1)
    assert (failures.baseline, failures.both) == (2, 1)


def test_nan_counts_when_the_baseline_has_a_number():
    failures = counted(pair([OK] * 3, [OK] * 3, base=[0, NAN, 0], cand=[NAN, NAN, 0]))
    assert failures.kinds == {"NAN": 1}
    assert failures.ids == ["r0"]


def test_one_nan_among_a_requests_rows_is_enough():
    failures = counted(pair([OK] * 2, [OK] * 2, rows=[1, 3], cand=[0, 0, NAN, 0]))
    assert failures.ids == ["r1"]


def test_messages_are_kept_once_and_only_of_failures_that_count():
    said = ((0, "boom"), (1, "boom"), (2, "too"))
    failures = counted(pair([OK, OK, ERROR], [ERROR] * 3, messages=said))
    assert failures.messages == ["boom"]


def test_the_first_ids_are_listed_and_all_are_counted():
    batches = [pair([OK] * 15, [CRASH] * 15, first=15 * i) for i in range(3)]
    failures = counted(*batches)
    assert failures.ids == [f"r{i}" for i in range(LISTED)]
    assert failures.count() == 45


def test_a_saved_state_goes_on_as_if_nothing_had_been():
    first = pair([OK, OK], [CRASH, OK], cand=[0, NAN], messages=((0, "boom"),))
    second = pair([OK, ERROR], [ERROR, ERROR], first=2)
    resumed = CandidateFailures.from_state(json.loads(json.dumps(counted(first).state())))
    resumed.update(second)
    assert resumed.state() == counted(first, second).state()


def test_assets_are_those_of_the_clone():
    root = assets.assets_root()
    assert (root / "scenarios" / "traffic" / "flights").is_dir()
    assert (root / "models" / "flights" / "v1.onnx").is_file()


def test_without_assets_a_remedy_is_told(monkeypatch, tmp_path):
    package = tmp_path / "site" / "harness" / "pipeline" / "assets.py"
    monkeypatch.setattr(assets, "__file__", str(package))
    with pytest.raises(UsageError, match="clone"):
        assets.assets_root()


def test_an_installed_copy_carries_its_assets(monkeypatch, tmp_path):
    package = tmp_path / "harness"
    for folder in ("scenarios", "models/flights"):
        (package / "_data" / folder).mkdir(parents=True)
    monkeypatch.setattr(assets, "__file__", str(package / "pipeline" / "assets.py"))
    assert assets.assets_root() == package / "_data"


def test_windows_are_kept_where_caches_belong(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert assets.default_cache_dir() == tmp_path / "harness" / "windows"


def test_the_baseline_fails_what_the_request_is_not_at_fault_for():
    ends = [
        (OK, OK), (OK, CRASH),  # answered
        (ERROR, OK), (CRASH, CRASH), (TIMEOUT, TIMEOUT), (ERROR, CRASH), (CRASH, ERROR),  # failed
        (INVALID, INVALID), (ERROR, INVALID),  # answers that cannot be compared
        (ERROR, ERROR), (ERROR, ERROR), (ERROR, ERROR),  # short of memory: both, one, the other
        (ERROR, ERROR),  # refused by both
        (NOT_RUN, OK), (ERROR, NOT_RUN),  # not asked
    ]  # fmt: skip
    tally = BaselineTally()
    tally.update("newest", pair(*zip(*ends, strict=True), short=((9, 10), (9, 11))))
    tally = BaselineTally.from_state(json.loads(json.dumps(tally.state())))
    tally.update("newest", pair([OK] * 3, [OK] * 3))
    tally.update("matured", pair([OK, ERROR], [OK, ERROR]))
    tally.update("other", pair([OK, OK], [OK, ERROR]))
    assert tally.facts() == (
        BaselineFailures(window="newest", failed=10, asked=15, both=9, refused=1),
        BaselineFailures(window="matured", failed=0, asked=1, both=0, refused=1),
    )


@pytest.mark.parametrize(
    ("ends", "unknown", "told"),
    [
        ((ERROR, ERROR), 0, "both versions reject"),
        ((INVALID, INVALID), 1, "without a row for each row"),
        ((CRASH, CRASH), 1, "not both runtimes refuse"),
        ((TIMEOUT, TIMEOUT), 1, "not both runtimes refuse"),
        ((INVALID, ERROR), 1, "not both runtimes refuse"),
        ((ERROR, INVALID), 1, "not both runtimes refuse"),
        ((ERROR, CRASH), 1, "not both runtimes refuse"),
    ],
)
def test_only_what_both_runtimes_refuse_is_known_to_be_the_same(ends, unknown, told):
    seen = pair([ends[0], OK], [ends[1], OK])
    failures, tally = counted(seen), BaselineTally()
    tally.update("inputs", seen)
    assert tally.both["inputs"] == unknown
    hidden, said = never_known(failures, unknown), rejected(failures, unknown)
    assert (len(hidden), len(said)) == (unknown, 1 - unknown)
    assert told in (*hidden, *said)[0]

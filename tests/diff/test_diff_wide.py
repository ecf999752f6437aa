"""No column of a wide tensor hides behind the others, and rounding is none of their business."""

import tracemalloc

import numpy as np
import pytest
from diff_streams import feature_pairs, floor_of, graph, output_pairs

from harness.core.jsonable import jsonable
from harness.core.models import ModelGraph
from harness.diff.features import FeatureDiff
from harness.diff.findings import findings_from_features
from harness.diff.floor import floor_from_json
from harness.diff.outputs import OutputDiff
from harness.diff.reports import ParityVerdict
from harness.diff.signature import SignatureMatch
from harness.diff.whole import apart
from harness.diff.wide_sample import WideSample, worst_columns

ROWS = 200
WIDTHS = (1, 2, 63, 64, 65, 66, 100, 120, 257, 1000, 5000)
ONE: ModelGraph = graph(features=("e",), fitted=(), vocabularies=())
OUTPUTS = SignatureMatch(inputs=(), outputs=(("e", "e"),), extra_outputs=(), not_compared=())


def decades(width, seed):
    """Columns whose scales span nine decades, in any order; at 1 the smallest of them."""
    rng = np.random.default_rng(seed)
    scale = rng.permutation(np.logspace(-3, 6, width))
    return (rng.normal(size=(ROWS, width)) * scale).astype(np.float32)


def wrong(values, column, how, seed=0):
    """One column that is another one."""
    other = values.copy()
    match how:
        case "scaled":
            other[:, column] *= np.float32(1.609344)
        case "zero":
            other[:, column] = 0.0
        case "shifted":
            other[:, column] += np.float32(0.5 * values[:, column].std())
        case "few rows":
            rows = np.random.default_rng(seed).choice(ROWS, ROWS // 50, replace=False)
            other[rows, column] *= np.float32(1.609344)
    return other


def rounded(values, seed=0):
    """The last bit of every value, up or down."""
    up = np.random.default_rng(seed).choice(np.float32([-np.inf, np.inf]), values.shape)
    return np.nextafter(values, up)


def as_features(before, after, cuts=()):
    diff = FeatureDiff(floor_of(feature_pairs({"e": before}, {"e": before})), ONE, ONE)
    marked = [
        diff.update(pair).mismatch for pair in feature_pairs({"e": before}, {"e": after}, cuts)
    ]
    return int(np.concatenate(marked).sum()), diff.finish().features


def as_outputs(before, after, again=None):
    floor = floor_of(output_pairs({"e": before}, {"e": before if again is None else again}))
    diff = OutputDiff(OUTPUTS, floor)
    marked = [diff.update(pair).mismatch for pair in output_pairs({"e": before}, {"e": after})]
    return int(np.concatenate(marked).sum()), diff.finish().outputs


def differing(reports):
    return [r for r in reports if r.verdict is not ParityVerdict.EQUAL]


@pytest.mark.parametrize("how", ["scaled", "zero", "shifted", "few rows"])
@pytest.mark.parametrize("width", WIDTHS)
def test_one_wrong_column_is_named_at_any_width_and_scale(width, how):
    before = decades(width, seed=width)
    sizes = np.argsort(np.abs(before).max(axis=0))
    rows = ROWS // 50 if how == "few rows" else ROWS
    for column in {int(sizes[0]), int(sizes[width // 2]), int(sizes[-1])}:
        after = wrong(before, column, how)
        for diffed in (as_features, as_outputs):
            marked, reports = diffed(before, after)
            (found,) = differing(reports)
            assert found.verdict is ParityVerdict.DIFFERS
            assert found.name == f"e[{column}]"
            assert (marked, found.mismatched_requests) == (rows, rows)
            assert sum(r.columns for r in reports) == width
        assert apart(before, after, rows=ROWS, tolerance=0.0).rows.sum() == rows


@pytest.mark.parametrize("width", WIDTHS)
def test_rounding_is_equal_at_any_width_and_scale(width):
    before = decades(width, seed=width)
    after = rounded(before)
    for diffed in (as_features, as_outputs):
        marked, reports = diffed(before, after)
        assert (marked, differing(reports)) == (0, [])
        assert sum(r.columns for r in reports) == width
    assert not apart(before, after, rows=ROWS, tolerance=0.0).rows.any()


@pytest.mark.parametrize("seed", range(40))
def test_wrong_columns_of_any_kind_are_named(seed):
    rng = np.random.default_rng(seed)
    width, how = int(rng.integers(65, 400)), rng.choice(["scaled", "zero", "shifted", "few rows"])
    column = int(rng.integers(width))
    before = decades(width, seed)
    after = wrong(rounded(before, seed), column, str(how), seed)
    marked, reports = as_features(before, after, cuts=tuple(rng.integers(1, ROWS, 3)))
    assert [r.name for r in differing(reports)] == [f"e[{column}]"]
    assert marked == (ROWS // 50 if how == "few rows" else ROWS)


@pytest.mark.parametrize(
    ("how", "relation"),
    [("scaled", "scaled"), ("zero", "filled_with_zero"), ("shifted", "shifted")],
)
@pytest.mark.parametrize("cuts", [(), (10, 90)])
def test_the_wrong_column_of_a_wide_feature_gets_its_relation(how, relation, cuts):
    before = decades(120, seed=3)
    _, reports = as_features(before, wrong(before, 7, how), cuts)
    (found,) = differing(reports)
    assert (found.name, found.relation) == ("e[7]", relation)
    assert found.example is not None


def test_a_column_that_turns_wrong_late_is_named_though_others_differed_before():
    before = decades(300, seed=5)
    after = before.copy()
    for column in range(20):
        after[column, column] *= 2
    after[50:, 250] *= np.float32(1.609344)
    _, reports = as_features(before, after, cuts=(25, 50, 100))
    assert (reports[0].name, reports[0].relation) == ("e[250]", "scaled")
    assert reports[0].mismatched_requests == 150
    together = reports[3]
    assert (together.name, together.columns) == ("e[18 more columns]", 18)
    assert together.mismatched_requests == 1


def test_columns_that_changed_alike_are_one_entry_as_far_as_they_were_asked():
    before = decades(300, seed=6)
    after = before.copy()
    after[:, 40:140] *= np.float32(2.5)
    _, reports = as_features(before, after)
    changed, others, equal = reports
    assert (changed.name, changed.relation, changed.columns) == ("e[8 columns]", "scaled", 8)
    assert (others.name, others.relation, others.columns) == ("e[92 more columns]", "other", 92)
    assert (equal.name, equal.columns) == ("e[200 equal columns]", 200)


def test_a_request_counts_once_however_many_columns_differ():
    before = np.abs(decades(100, seed=8)) + 1
    after = before.copy()
    after[np.arange(ROWS), np.arange(ROWS) % 100] *= 2
    marked, reports = as_features(before, after)
    assert marked == ROWS
    assert [r.mismatched_requests for r in reports] == [2, 2, 2, 2]


def test_rounding_of_wide_answers_is_no_difference_though_columns_are_far_apart():
    rng = np.random.default_rng(11)
    weights = rng.normal(size=(64, 1000)).astype(np.float32)
    x = rng.normal(size=(ROWS, 64)).astype(np.float32)
    prior = (rng.normal(size=1000) * 3).astype(np.float32)

    def softmax(order):
        logits = (x[:, order] @ weights[order]) / np.float32(8) + prior
        size = np.exp(logits - logits.max(axis=1, keepdims=True))
        return size / size.sum(axis=1, keepdims=True)

    before, after = softmax(np.arange(64)), softmax(rng.permutation(64))
    assert (before != after).any()
    marked, reports = as_outputs(before, after)
    assert marked == 0
    assert [r.verdict for r in reports] == [ParityVerdict.EQUAL]
    assert not apart(before, after, rows=ROWS, tolerance=0.0).rows.any()


def test_rounding_of_a_unit_that_hardly_ever_fires_is_no_difference():
    rng = np.random.default_rng(12)
    before = np.maximum(rng.normal(size=(ROWS, 2000)), 0).astype(np.float32)
    before[:, :500] = 0.0
    before[np.arange(500) % ROWS, np.arange(500)] = 1e-2
    after = np.where(before > 0, before + np.float32(7e-8) * rng.choice([-1, 1], before.shape), 0)
    marked, reports = as_outputs(before, after.astype(np.float32))
    assert (marked, differing(reports)) == (0, [])
    assert not apart(before, after.astype(np.float32), rows=ROWS, tolerance=0.0).rows.any()


def test_noise_in_one_column_of_a_wide_answer_excuses_no_other():
    before = np.abs(decades(200, seed=13)) + 1
    again = before.copy()
    again[:, 5] *= np.float32(1.2)
    _, reports = as_outputs(before, wrong(before, 9, "shifted"), again)
    assert [r.name for r in differing(reports)] == ["e[9]"]


def test_the_floor_of_a_wide_tensor_survives_its_file():
    before = decades(70, seed=14)
    floor = floor_of(feature_pairs({"e": before}, {"e": rounded(before)}))
    assert len(floor.features) == 1
    assert floor_from_json(jsonable(floor)) == floor


def test_classes_of_a_wide_answer_keep_their_names():
    names = tuple(f"c{i}" for i in range(90))
    before = decades(90, seed=15)
    order = np.random.default_rng(1).permutation(90)
    keys = ({"e": names}, {"e": tuple(names[i] for i in order)})
    floor = floor_of(output_pairs({"e": before}, {"e": before}, keys=(keys[0], keys[0])))
    for after, expected in ((before, []), (wrong(before, 33, "scaled"), ["e[c33]"])):
        diff = OutputDiff(OUTPUTS, floor)
        for pair in output_pairs({"e": before}, {"e": after[:, order]}, (70,), keys):
            diff.update(pair)
        assert [r.name for r in differing(diff.finish().outputs)] == expected


def test_an_interrupted_wide_diff_says_the_same():
    before = decades(150, seed=16)
    after = wrong(before, 77, "shifted")
    floor = floor_of(feature_pairs({"e": before}, {"e": before}))
    whole, first = FeatureDiff(floor, ONE, ONE), FeatureDiff(floor, ONE, ONE)
    pairs = list(feature_pairs({"e": before}, {"e": after}, cuts=(80,)))
    for pair in pairs:
        whole.update(pair)
    first.update(pairs[0])
    second = FeatureDiff.from_state(first.state(), floor, ONE, ONE)
    second.update(pairs[1])
    assert second.finish() == whole.finish()


def test_an_expected_column_of_a_wide_feature_is_known_and_not_counted():
    before = decades(100, seed=17)
    floor = floor_of(feature_pairs({"e": before}, {"e": before}))
    for after, verdicts in ((before, []), (wrong(before, 4, "zero"), [ParityVerdict.EXPECTED])):
        diff = FeatureDiff(floor, ONE, ONE, expected_changes=("e[4]",))
        for pair in feature_pairs({"e": before}, {"e": after}):
            assert not diff.update(pair).mismatch.any()
        report = diff.finish()
        assert [r.verdict for r in differing(report.features)] == verdicts
        assert report.unknown_expected == ()


def test_the_finding_about_a_wide_feature_names_the_column():
    before = decades(100, seed=18)
    floor = floor_of(feature_pairs({"e": before}, {"e": before}))
    diff = FeatureDiff(floor, ONE, ONE)
    for pair in feature_pairs({"e": before}, {"e": wrong(before, 7, "scaled")}):
        diff.update(pair)
    (found,) = findings_from_features(diff.finish(), 0.0)
    assert found.what == (
        "e[7]: candidate = baseline × 1.609344 (miles → kilometres?), in 100 % of 200 requests"
    )


def test_all_columns_of_a_refitted_wide_tensor_are_counted():
    shape = graph(features=(), fitted=("e",), vocabularies=())
    before = decades(120, seed=21)
    after = before + np.random.default_rng(22).normal(size=before.shape).astype(np.float32) * 1e6
    diff = FeatureDiff(floor_of(feature_pairs({"e": before}, {"e": before})), shape, shape)
    for pair in feature_pairs({"e": before}, {"e": after}):
        diff.update(pair)
    told = [f.what for f in findings_from_features(diff.finish(), 0.0) if f.kind == "refitted"]
    said = (
        "120 columns of e changed with fitted constants (imputation, scaling); a fault in 120 columns (e[0], "
        "e[1], e[2], e[3] and 116 more) cannot be told from a refit: no constant can be read off the values"
    )
    assert told == [said]


def test_the_worst_columns_are_those_with_most_requests_then_the_furthest():
    differing = np.array([0, 5, 9, 5, 1])
    relative = np.array([9.0, 1.0, 0.1, 2.0, 99.0])
    assert worst_columns(differing, relative, 3).tolist() == [2, 3, 1]


def test_values_of_few_columns_are_kept_however_many_differ():
    sample = WideSample()
    rng = np.random.default_rng(19)
    for at in range(50):
        values = rng.normal(size=(10, 1000))
        cells = np.zeros((10, 1000), dtype=np.bool_)
        cells[:, 8 * at : 8 * at + 8] = True
        sample.add(values, values + 1, cells, np.arange(8 * at, 8 * at + 8))
        assert len(list(sample)) <= 16
        assert set(range(8 * at, 8 * at + 8)) <= set(sample)


def test_memory_of_a_wide_diff_does_not_grow_with_the_requests():
    before = decades(3000, seed=20)
    after = rounded(before)
    floor = floor_of(feature_pairs({"e": before}, {"e": before}))
    diff = FeatureDiff(floor, ONE, ONE)
    (pair,) = feature_pairs({"e": before}, {"e": after})
    diff.update(pair)
    tracemalloc.start()
    for _ in range(5):
        diff.update(pair)
    left, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert left < before.nbytes // 10
    # float64 of both sides and what is computed of them would be more than ten times as much.
    assert peak < 3 * before.nbytes + 16 * 2**20


COMPARED = (64, 65, 100, 1000)
"""Widths of which the first has no columns that are told together."""


def alarms(width, seed=23, rows=1000):
    """Columns of amounts, but for five that fire now and then, or never."""
    rng = np.random.default_rng(seed)
    before = rng.uniform(1e6, 2e6, (rows, width)).astype(np.float32)
    before[:, :5] = 0.0
    return before


def some_fire(values, share):
    """Another one of the five fires in each of so many requests."""
    other, rows = values.copy(), np.arange(0, len(values), round(1 / share))
    other[rows, np.arange(len(rows)) % 5] = 0.95
    return other


def summary(before, after):
    """(requests, verdicts of what is not equal) by output and feature, and rows by graph."""
    found = [as_outputs(before, after), as_features(before, after)]
    told = [(marked, sorted({r.verdict.value for r in differing(rs)})) for marked, rs in found]
    return told, int(apart(before, after, rows=len(before), tolerance=0.0).rows.sum())


@pytest.mark.parametrize("kind", ["never fired", "fires no more", "swapped", "a tenth more"])
def test_rare_values_beside_large_columns_count_the_same_at_any_width(kind):
    found = []
    for width in COMPARED:
        before = after = alarms(width)
        match kind:
            case "never fired":
                after = some_fire(before, 0.02)
            case "fires no more":
                before = some_fire(before, 0.02)
            case "swapped":
                before = some_fire(before, 0.02)
                after = before[:, [*np.roll(np.arange(5), 1), *range(5, width)]]
            case _:
                before = some_fire(before, 0.02)
                after = np.where(before == np.float32(0.95), np.float32(1.05), before)
        found.append(summary(before, after))
    assert found == [([(20, ["differs"])] * 2, 20)] * len(COMPARED)


@pytest.mark.parametrize("rows", [1, 3, 20])
def test_a_wrong_column_of_few_requests_counts_the_same_at_any_width(rows):
    found = []
    for width in COMPARED:
        before = np.random.default_rng(24).uniform(0.5e5, 1.5e5, (rows, width)).astype(np.float32)
        before[:, 7] = np.random.default_rng(25).uniform(0.02, 0.08, rows)
        found.append(summary(before, wrong(before, 7, "scaled")))
    assert found == [([(rows, ["differs"])] * 2, rows)] * len(COMPARED)


@pytest.mark.parametrize("columns", [5, 20])
def test_swapped_one_hot_columns_beside_times_part_the_graphs(columns):
    rng, rows = np.random.default_rng(26), 64
    before = np.zeros((rows, 100), dtype=np.float32)
    before[:, :3] = rng.uniform(1.5e9, 1.7e9, (rows, 3))
    before[np.arange(rows), rng.integers(3, 3 + columns, rows)] = 1
    after = before.copy()
    after[:, 3:] = np.roll(before[:, 3:], 1, axis=1)
    assert apart(before, after, rows=rows, tolerance=0.0).rows.all()


def test_a_column_of_few_rows_parts_the_graphs_by_what_parts_the_answers():
    before = np.random.default_rng(33).uniform(0.5e5, 1.5e5, (5, 100)).astype(np.float32)
    before[:, 7] = np.random.default_rng(34).uniform(0.02, 0.08, 5)
    after = before.copy()
    after[:, 7] *= np.float32(1.0009)
    assert as_outputs(before, after)[0] == 5
    assert apart(before, after, rows=5, tolerance=0.0).rows.all()


def small_column(width):
    before = np.random.default_rng(27).uniform(0.5e4, 1.5e4, (1000, width)).astype(np.float32)
    before[:, 7] = np.random.default_rng(28).uniform(0.5, 1.5, 1000)
    return before


def test_a_small_change_of_a_column_beside_large_ones_counts_the_same_at_any_width():
    for width in COMPARED:
        before = small_column(width)
        after = before.copy()
        after[:, 7] += np.float32(4e-5)
        marked, reports = as_outputs(before, after)
        assert (marked, [r.name for r in differing(reports)]) == (1000, ["e[7]"])


@pytest.mark.parametrize(("rows", "verdicts"), [(1000, ["small_values"]), (9, [])])
def test_what_only_a_lent_scale_allows_is_not_comparable(rows, verdicts):
    before = small_column(100)
    after = before.copy()
    after[:rows, 7] += np.float32(8e-6)
    floor = floor_of(output_pairs({"e": before}, {"e": before}))
    diff = OutputDiff(OUTPUTS, floor_from_json(jsonable(floor)))
    (pair,) = output_pairs({"e": before}, {"e": after})
    assert not diff.update(pair).mismatch.any()
    report = OutputDiff.from_state(diff.state(), OUTPUTS, floor).finish()
    assert [r.verdict.value for r in differing(report.outputs)] == verdicts
    assert [name for name, _ in report.unproven] == ["e[7]"] * len(verdicts)
    if verdicts:
        assert "1,000 of 1,000 rows differ by more than rounding" in report.unproven[0][1]


def test_columns_that_were_not_asked_are_not_said_to_follow_the_others():
    before = np.random.default_rng(29).uniform(1, 2, (ROWS, 120)).astype(np.float32)
    after = before.copy()
    after[:, :8] *= np.float32(1.609344)
    after[:, 8:58] += np.float32(0.01)
    _, reports = as_features(before, after)
    told = [(r.name, r.relation, r.columns) for r in differing(reports)]
    assert told == [("e[8 columns]", "scaled", 8), ("e[50 more columns]", "other", 50)]


def test_one_column_beside_eight_that_changed_alike_is_told_by_its_name():
    before = np.random.default_rng(30).uniform(1, 2, (ROWS, 120)).astype(np.float32)
    after = before.copy()
    after[:, :8] *= 2
    after[:, 100] = np.nan
    _, reports = as_features(before, after)
    told = [(r.name, r.columns, r.one_sided) for r in differing(reports)]
    assert told == [("e[8 columns]", 8, 0), ("e[100]", 1, ROWS)]

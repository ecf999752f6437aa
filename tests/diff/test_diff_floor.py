import json
import tracemalloc

import numpy as np
import pytest
from diff_streams import floor_of, observed, output_pairs, requests
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.jsonable import jsonable
from harness.core.observations import PairBatch
from harness.diff import floor_builder
from harness.diff.columns import numbered
from harness.diff.floor import Floor, floor_from_json
from harness.diff.floor_builder import FloorBuilder
from harness.diff.floor_columns import scales_of
from harness.diff.sample import LIMIT
from harness.diff.scales import column_scales

RNG = np.random.default_rng(8)
SCORES = RNG.random((300, 2)).astype(np.float32)
NOISE = SCORES + np.float32(2e-7)


def column(floor: Floor, name):
    return next(c for c in floor.outputs if c.name == name)


def test_floor_keeps_the_largest_difference_and_the_scale_of_each_column():
    floor = floor_of(output_pairs({"s": SCORES}, {"s": NOISE}))
    found = column(floor, "s[1]")
    assert found.largest == float(np.abs(NOISE.astype(float) - SCORES)[:, 1].max())
    assert found.scale == float(np.sort(SCORES[:, 1])[-2])
    assert found.rows == 300


def test_tolerance_is_eight_floors_and_never_below_the_base():
    noisy = floor_of(output_pairs({"s": SCORES}, {"s": SCORES * np.float32(1.001)}))
    found = column(noisy, "s[0]")
    assert found.tolerance(1e-6) == 8 * found.relative
    assert found.relative == pytest.approx(found.largest / SCORES[:, 0].max(), rel=1e-3)
    quiet = floor_of(output_pairs({"s": SCORES}, {"s": SCORES}))
    assert column(quiet, "s[0]").tolerance(1e-6) == 1e-6


def test_rounding_is_not_nondeterminism_but_a_random_output_is():
    rounding = floor_of(output_pairs({"s": SCORES}, {"s": NOISE}))
    assert not column(rounding, "s[0]").nondeterministic
    random = floor_of(output_pairs({"s": SCORES}, {"s": RNG.random((300, 2))}))
    assert column(random, "s[0]").nondeterministic


def test_words_that_differ_count_as_mismatch_share():
    words = np.array(["a", "b", "c", "d"], dtype=object)
    other = np.array(["a", "b", "c", "x"], dtype=object)
    floor = floor_of(output_pairs({"w": words}, {"w": other}))
    assert column(floor, "w").mismatch_share == 0.25
    assert floor.output_mismatch_share == 0.25
    assert column(floor, "w").nondeterministic


def test_failed_requests_do_not_set_the_scale():
    values = np.array([1.0, 99.0], dtype=np.float32)
    pair = PairBatch(
        requests=requests(2),
        baseline=observed(2, outputs={"p": values}, outcome=[0, 2]),
        candidate=observed(2, outputs={"p": values}),
    )
    floor = floor_of([pair])
    assert column(floor, "p").scale == 1.0
    assert floor.requests == 1


def test_floor_survives_json():
    floor = floor_of(output_pairs({"s": SCORES}, {"s": NOISE}))
    assert floor_from_json(json.loads(json.dumps(jsonable(floor)))) == floor


@pytest.mark.parametrize("columns", [1, 2, 100])
def test_a_floor_without_measure_survives_json(columns):
    values = RNG.normal(size=(300, columns)) * 1e-320
    floor = floor_of(output_pairs({"s": values}, {"s": values + 1e300}))
    again = floor_from_json(json.loads(json.dumps(jsonable(floor))))
    assert again == floor
    assert [c.tolerance(1e-6) for c in again.outputs] == [np.inf] * len(floor.outputs)


@settings(deadline=None)
@given(st.lists(st.integers(1, 299), max_size=5))
def test_batches_do_not_change_the_floor(cuts):
    whole = floor_of(output_pairs({"s": SCORES}, {"s": NOISE}))
    assert floor_of(output_pairs({"s": SCORES}, {"s": NOISE}, cuts)) == whole


def test_rows_after_the_first_do_not_change_the_scale():
    values = np.random.default_rng(3).random(3 * LIMIT).astype(np.float32)
    later = values.copy()
    later[LIMIT:] *= 1e6
    few, many = (
        floor_of(output_pairs({"p": v}, {"p": v}, range(500, len(v), 500)))
        for v in (values[: LIMIT + 500], later)
    )
    assert column(few, "p").scale == column(many, "p").scale


def test_the_noise_of_a_score_counts_though_it_widens_the_tolerance():
    noise = RNG.uniform(-0.2, 0.2, (2, 300)).astype(np.float32)
    once, again = np.clip(SCORES[:, 0] + noise, 0, 1)
    floor = floor_of(output_pairs({"p": once}, {"p": again}))
    assert floor.output_mismatch_share > 0.9
    assert column(floor, "p").mismatch_share > 0.9
    assert column(floor, "p").unprovable


def test_small_noise_leaves_a_column_provable():
    floor = floor_of(output_pairs({"s": SCORES}, {"s": SCORES * np.float32(1.0001)}))
    assert column(floor, "s[0]").nondeterministic
    assert not column(floor, "s[0]").unprovable
    assert floor.output_mismatch_share == 1.0


def test_one_noisy_row_is_enough_to_swallow_the_scale():
    other = SCORES.copy()
    other[7] += 0.01
    floor = floor_of(output_pairs({"s": SCORES}, {"s": other}))
    assert floor.output_mismatch_share == 1 / 300
    assert column(floor, "s[1]").unprovable


def test_noise_at_an_outlier_does_not_widen_the_tolerance_of_the_others():
    distance = RNG.uniform(80, 2500, 3000).astype(np.float32)
    distance[5] = 1e10
    again = distance.copy()
    again[5] = np.nextafter(distance[5], np.float32(np.inf))
    floor = floor_of(output_pairs({"d": distance}, {"d": again}))
    assert column(floor, "d").largest == 1024.0
    assert not column(floor, "d").nondeterministic
    assert column(floor, "d").tolerance(1e-6) == 1e-6


def test_what_is_not_counted_makes_no_request_differ():
    noisy = {"s": SCORES, "loud": RNG.random(300)}
    pairs = list(output_pairs(noisy, {"s": SCORES, "loud": RNG.random(300)}))
    assert floor_of(pairs).output_mismatch_share == 1.0
    builder = FloorBuilder(uncounted=("loud",))
    for pair in pairs:
        builder.update(pair)
    floor = builder.finish()
    assert floor.output_mismatch_share == 0.0
    assert column(floor, "loud").mismatch_share == 1.0


def test_heavy_pairs_are_not_held_until_a_usual_number_of_rows_is_there(monkeypatch):
    wide, n, count = 2000, 64, 40
    monkeypatch.setattr(floor_builder, "_MOST_HELD", 4 << 20)
    builder, rng = FloorBuilder(), np.random.default_rng(5)
    tracemalloc.start()
    for i in range(count):
        x = rng.normal(size=(n, wide)).astype(np.float32)
        legs = [observed(n, outputs={"y": x.copy()}) for _ in range(2)]
        builder.update(
            PairBatch(requests=requests(n, start=i * n), baseline=legs[0], candidate=legs[1])
        )
        del x, legs
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    floor = builder.finish()
    assert (floor.requests, floor.silent) == (n * count, True)
    assert 2 < floor.outputs[0].scale < 6  # of normal values
    assert peak < 28 << 20  # all of them are 39 MiB, without what they are compared with


def test_the_columns_of_batches_of_several_widths_have_the_scales_of_their_own_values():
    rng = np.random.default_rng(6)
    widths = (3, 70, 1, 41)
    parts = [(numbered(w), rng.normal(size=(5, w)).astype(np.float32)) for w in widths]
    found = scales_of(parts, lent=False)
    assert found.labels == numbered(70)
    for i in (0, 2, 40, 69):
        own = np.concatenate([values[:, i] for labels, values in parts if len(labels) > i])
        scale, typical = column_scales(own[:, None])
        assert (found.scale[i], found.typical[i]) == (scale[0], typical[0])
    assert found.of(numbered(2))[0].tolist() == found.scale[:2].tolist()
    classes = scales_of(
        [(("b", "a"), parts[0][1][:, :2]), (("a", "c"), parts[0][1][:, 1:])], lent=False
    )
    assert classes.labels == ("b", "a", "c")
    assert classes.of(("c", "b", "d"))[0].tolist() == [*found_by(parts[0][1], (2, 0)), 0.0]


def found_by(values, columns):
    return column_scales(values)[0][list(columns)].tolist()


def test_whole_numbers_of_a_column_are_counted_alike_whether_widths_vary_or_not():
    # From 2^24 on all numbers of float32 are whole: that they are shows nothing.
    large = (2.0**25 + 8 * np.arange(40, dtype=np.float32))[:, None].astype(np.float32)
    alone = scales_of([(numbered(1), large)], lent=False)
    varied = scales_of([(numbered(1), large), (numbered(2), np.hstack([large, large]))], lent=False)
    assert alone.whole.tolist() == [0.0]
    assert varied.whole.tolist() == [0.0, 0.0]


def test_labels_of_columns_are_made_once_for_all_widths():
    few, many = numbered(5000), numbered(5001)
    assert all(a is b for a, b in zip(few, many, strict=False))
    assert (many[-1], numbered(0), numbered(4096)[-1]) == ("5000", (), "4095")

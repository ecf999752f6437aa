import json

import numpy as np
from diff_streams import floor_of, observed, output_pairs, requests
from hypothesis import given
from hypothesis import strategies as st

from harness.core.jsonable import jsonable
from harness.core.observations import PairBatch
from harness.diff.floor import Floor, FloorBuilder, floor_from_json

RNG = np.random.default_rng(8)
SCORES = RNG.random((300, 2)).astype(np.float32)
NOISE = SCORES + np.float32(2e-7)


def column(floor: Floor, name):
    return next(c for c in floor.outputs if c.name == name)


def test_floor_keeps_the_largest_difference_and_the_scale_of_each_column():
    floor = floor_of(output_pairs({"s": SCORES}, {"s": NOISE}))
    found = column(floor, "s[1]")
    assert found.largest == float(np.abs(NOISE.astype(float) - SCORES)[:, 1].max())
    assert found.scale == float(NOISE[:, 1].max())
    assert found.rows == 300


def test_tolerance_is_eight_floors_and_never_below_the_base():
    noisy = floor_of(output_pairs({"s": SCORES}, {"s": SCORES * np.float32(1.001)}))
    found = column(noisy, "s[0]")
    assert found.tolerance(1e-6) == 8 * found.largest / found.scale
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


@given(st.lists(st.integers(1, 299), max_size=5), st.integers(0, 5))
def test_batches_and_a_resume_do_not_change_the_floor(cuts, stop):
    whole = floor_of(output_pairs({"s": SCORES}, {"s": NOISE}))
    builder = FloorBuilder()
    for i, pair in enumerate(output_pairs({"s": SCORES}, {"s": NOISE}, cuts)):
        if i == stop:
            builder = FloorBuilder.from_state(builder.state())
        builder.update(pair)
    assert builder.finish() == whole

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.diff.distance import FLOAT_TOLERANCE
from harness.diff.pairs import RelationKind as Kind
from harness.diff.relations import name_relation

N = 2048
RNG = np.random.default_rng(20130901)
HOUR = (RNG.integers(5 * 4, 24 * 4, N) / 4).astype(np.float32)
WEEKDAY = RNG.integers(0, 7, N)
MILES = RNG.integers(80, 2500, N).astype(np.float32)
TEMP = RNG.normal(60, 18, N).astype(np.float32)
GAPPY = np.where(RNG.random(N) < 0.1, np.float32(np.nan), TEMP)
EPOCH = RNG.integers(1_372_636_800, 1_378_000_000, N)
CODE = RNG.choice(8, N)
ORDER = np.array([3, 1, 7, 0, 4, 2, 6, 5])
SUMMER = RNG.random(N) < 0.7


def f32(values):
    return np.asarray(values, dtype=np.float32)


SECONDS = 1.6e9 + np.random.default_rng(8).uniform(0, 1e7, N)
WHOLE = np.random.default_rng(9).integers(50, 3000, N)


PLANTED = {
    "double, a quarter of an hour": (SECONDS, SECONDS + 900, Kind.SHIFTED, 900.0),
    "double to float32": (SECONDS, SECONDS.astype(np.float32).astype(float), Kind.PRECISION, None),
    "double, daylight saving": (
        SECONDS,
        SECONDS - np.where(SUMMER, 7200, 3600),
        Kind.SHIFTED,
        -7200.0,
    ),
    "double, whole days": (
        86400.0 * (18_000 + CODE),
        86400.0 * (18_000 + CODE) + 900,
        Kind.SHIFTED,
        900.0,
    ),
    "whole minutes": (WHOLE, WHOLE // 60, Kind.SCALED, 1 / 60),
    "whole sevenths": (WHOLE, WHOLE // 7, Kind.SCALED, 1 / 7),
    "mirrored": (f32(TEMP), f32(np.float32(1) - TEMP), Kind.AFFINE, -1.0),
    "rounded up": (TEMP, np.ceil(TEMP), Kind.PRECISION, None),
    "to tens": (TEMP, f32(np.round(TEMP / 10) * 10), Kind.PRECISION, None),
    "to hundreds, whole": (MILES.astype(int), MILES.astype(int) // 100 * 100, Kind.PRECISION, None),
    "local hour to UTC": (HOUR, f32((HOUR + 4) % 24), Kind.CYCLIC_SHIFT, 4.0),
    "UTC to local hour": (HOUR, f32((HOUR - 8) % 24), Kind.CYCLIC_SHIFT, -8.0),
    "daylight saving": (
        HOUR,
        f32((HOUR + np.where(SUMMER, 4, 5)) % 24),
        Kind.CYCLIC_SHIFT,
        4.0,
    ),
    "minute of the day": (HOUR * 60, f32((HOUR * 60 + 240) % 1440), Kind.CYCLIC_SHIFT, 240.0),
    "weekday from Sunday": (WEEKDAY, (WEEKDAY + 1) % 7, Kind.CYCLIC_SHIFT, 1.0),
    "weekday back": (f32(WEEKDAY), f32((WEEKDAY + 6) % 7), Kind.CYCLIC_SHIFT, -1.0),
    "wind turned": (10.0 * CODE, (10.0 * CODE + 350) % 360, Kind.CYCLIC_SHIFT, -10.0),
    "month": (CODE + 5, (CODE + 5) % 12 + 1, Kind.CYCLIC_SHIFT, 1.0),
    "kilometres": (MILES, MILES * np.float32(1.609344), Kind.SCALED, 1.609344),
    "kilometres, whole": (MILES.astype(int), (MILES * 1.609344).astype(int), Kind.SCALED, 1.609344),
    "seconds": (MILES, MILES * 60, Kind.SCALED, 60.0),
    "milliseconds": (EPOCH, EPOCH * 1000, Kind.SCALED, 1000.0),
    "plain factor": (TEMP, f32(TEMP * 1.37), Kind.SCALED, 1.37),
    "to celsius": (TEMP, f32((TEMP - 32) / 1.8), Kind.AFFINE, 5 / 9),
    "to kelvin": (TEMP, f32(TEMP + 273.15), Kind.SHIFTED, 273.15),
    "epoch four hours on": (EPOCH, EPOCH + 14_400, Kind.SHIFTED, 14_400.0),
    "epoch, daylight saving": (
        EPOCH,
        EPOCH + np.where(SUMMER, 14_400, 18_000),
        Kind.SHIFTED,
        14_400.0,
    ),
    "other affine": (TEMP, f32(TEMP * 0.7 + 3), Kind.AFFINE, 0.7),
    "codes reordered": (CODE, ORDER[CODE], Kind.PERMUTED, None),
    "two codes swapped": (CODE, np.choose(CODE, [0, 1, 5, 3, 4, 2, 6, 7]), Kind.PERMUTED, None),
    "flag inverted": (TEMP > 50, TEMP <= 50, Kind.PERMUTED, None),
    "missing to zero": (GAPPY, np.nan_to_num(GAPPY), Kind.FILLED_WITH_ZERO, 0.0),
    "missing to -1": (GAPPY, np.nan_to_num(GAPPY, nan=-1.0), Kind.FILLED_WITH_CONSTANT, -1.0),
    "own fill to zero": (
        np.nan_to_num(GAPPY, nan=54.25),
        np.nan_to_num(GAPPY),
        Kind.FILLED_WITH_ZERO,
        0.0,
    ),
    "always zero": (TEMP, np.zeros(N, np.float32), Kind.FILLED_WITH_ZERO, 0.0),
    "values lost": (TEMP, GAPPY, Kind.MISSING, None),
    "negated": (TEMP, -TEMP, Kind.SIGN, -1.0),
    "clipped": (TEMP, np.minimum(TEMP, 70), Kind.CLIPPED, 70.0),
    "float16": (TEMP, f32(TEMP.astype(np.float16)), Kind.PRECISION, None),
    "whole hours": (HOUR, np.floor(HOUR), Kind.PRECISION, None),
    "unrelated": (TEMP, f32(RNG.normal(60, 18, N)), Kind.OTHER, None),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_planted_relation_is_named_with_its_constant(fault):
    baseline, candidate, kind, value = PLANTED[fault]
    found = name_relation(baseline, candidate)
    assert found.kind == kind
    assert found.value == (value if value is None else pytest.approx(value, rel=1e-5))


@pytest.mark.parametrize(
    "fault",
    ["local hour to UTC", "kilometres", "to celsius", "negated", "clipped", "to kelvin"],
)
def test_noise_at_the_floor_does_not_hide_the_relation(fault):
    baseline, candidate, kind, value = PLANTED[fault]
    noise = np.random.default_rng(3).uniform(-1, 1, N) * 1e-4 * np.abs(candidate).max() / 8
    found = name_relation(baseline.astype(float), candidate + noise, tolerance=1e-4)
    assert found.kind == kind
    assert found.value == pytest.approx(value, rel=1e-3)


def test_daylight_saving_names_both_shifts():
    baseline, candidate, *_ = PLANTED["daylight saving"]
    text = name_relation(baseline, candidate).text
    assert "+ 4" in text
    assert "+ 5" in text
    assert "modulo 24" in text


def test_known_units_are_named():
    baseline, candidate, *_ = PLANTED["kilometres"]
    assert "miles → kilometres" in name_relation(baseline, candidate).text


def test_a_fault_on_part_of_the_traffic_keeps_its_name():
    part = np.random.default_rng(1).random(N) < 0.05
    found = name_relation(MILES, np.where(part, MILES * np.float32(1.609344), MILES))
    assert (found.kind, found.value) == (Kind.SCALED, 1.609344)


def test_two_faults_in_one_column_are_both_named():
    gappy = np.where(np.isnan(GAPPY), np.float32(np.nan), MILES)
    found = name_relation(gappy, np.nan_to_num(gappy * np.float32(1.609344)))
    assert found.kind == Kind.SCALED
    assert "candidate is 0 where the baseline has no value" in found.text


def test_rows_that_do_not_fit_wreck_no_fit():
    candidate = f32((TEMP - 32) / 1.8)
    candidate[:15] = 1e6
    assert name_relation(TEMP, candidate).kind == Kind.AFFINE


def test_too_many_rows_that_do_not_fit_get_no_name():
    candidate = f32((TEMP - 32) / 1.8)
    candidate[: N // 20] = np.random.default_rng(0).normal(0, 50, N // 20)
    assert name_relation(TEMP, candidate).kind == Kind.OTHER


@pytest.mark.parametrize("spread", [0.0, 1e-9])
def test_a_nearly_constant_column_gets_no_factor(spread):
    noise = np.random.default_rng(5).normal(0, spread, N)
    found = name_relation(5 + noise, 7 + noise)
    assert found.kind == Kind.FILLED_WITH_CONSTANT


def test_few_rows_get_no_name():
    candidate = TEMP.copy()
    candidate[:2] *= 2
    assert name_relation(TEMP, candidate).kind == Kind.OTHER


def test_a_moved_threshold_is_no_zero_fill():
    found = name_relation((TEMP > 50).astype(int), (TEMP > 60).astype(int))
    assert found.kind == Kind.OTHER


def test_distinct_identifiers_are_no_permutation():
    ids = np.arange(N) * 7919
    assert name_relation(ids, np.random.default_rng(2).permutation(ids)).kind == Kind.OTHER


def test_merged_codes_are_no_permutation():
    merged = np.choose(CODE, [1, 1, 3, 3, 5, 5, 7, 7])
    assert name_relation(CODE, merged).kind != Kind.PERMUTED


def test_codes_are_told_in_words():
    words = tuple("ABCDEFGH")
    new = tuple(words[i] for i in np.argsort(ORDER))
    text = name_relation(CODE, ORDER[CODE], vocabularies=(words, new)).text
    assert "codes assigned in another order" in text
    assert "A 0 → 3" in text


def test_words_that_stand_for_each_other():
    words = np.array(["EWR", "JFK", "LGA"], dtype=object)
    found = name_relation(words[CODE % 3], words[(CODE + 1) % 3])
    assert found.kind == Kind.PERMUTED
    assert "EWR → JFK" in found.text


def test_a_stale_copy_needs_the_order_of_rows():
    place = np.random.default_rng(4).permutation(N)
    in_time = np.empty(N, np.float32)
    in_time[place] = TEMP
    stale = in_time[place - 1]
    assert name_relation(TEMP, stale, order=place).kind == Kind.STALE
    assert name_relation(TEMP, stale).kind == Kind.OTHER


def test_equal_columns_are_equal():
    assert name_relation(GAPPY, GAPPY.copy()).kind == Kind.EQUAL


@settings(max_examples=60, deadline=None)
@given(
    factor=st.floats(-50, 50).filter(
        lambda f: abs(f) > 0.05 and min(abs(f - 1), abs(f + 1)) > 0.05
    ),
    seed=st.integers(0, 99),
)
def test_any_factor_is_recovered(factor, seed):
    values = np.random.default_rng(seed).normal(3, 10, 300)
    found = name_relation(values, values * factor)
    assert found.kind == Kind.SCALED
    assert found.value == pytest.approx(factor, rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(shift=st.integers(-23, 23).filter(bool), seed=st.integers(0, 99))
def test_any_zone_offset_is_recovered(shift, seed):
    hour = np.random.default_rng(seed).integers(0, 96, 600) / 4
    found = name_relation(hour, (hour + shift) % 24)
    assert found.kind == Kind.CYCLIC_SHIFT
    assert (found.value - shift) % 24 == 0
    assert abs(found.value) <= 12


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 99))
def test_any_reordering_is_explained(order, seed):
    codes = np.random.default_rng(seed).choice(6, 400)
    found = name_relation(codes, np.array(order)[codes])
    moved = any(i != image for i, image in enumerate(order))
    assert (found.kind == Kind.EQUAL) == (not moved)
    assert found.kind != Kind.OTHER


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(0, 40))
def test_a_name_always_explains_or_says_other(seed, rows):
    rng = np.random.default_rng(seed)
    pool = np.array([0.0, 1.0, -1.0, np.nan, np.inf, 3.5])
    found = name_relation(rng.choice(pool, rows), rng.choice(pool, rows))
    assert found.kind in {Kind.OTHER, Kind.EQUAL} or found.share >= 0.99


ENDLESS = np.where(np.arange(N) % 9 == 0, np.float32(np.inf), f32((TEMP - 60) / 18))


@pytest.mark.parametrize(
    ("candidate", "kind"),
    [
        (np.where(np.isinf(ENDLESS), TEMP, ENDLESS), Kind.OTHER),
        (np.where(np.isinf(ENDLESS), -ENDLESS, ENDLESS), Kind.OTHER),
        (-ENDLESS, Kind.SIGN),
        (np.minimum(ENDLESS, 100), Kind.CLIPPED),
        (np.clip(ENDLESS, -1, 1), Kind.CLIPPED),
    ],
    ids=["any number", "the other infinity", "negated", "stopped", "clipped with numbers"],
)
def test_infinity_equals_itself_alone(candidate, kind):
    assert name_relation(ENDLESS, candidate).kind == kind


def test_float64_that_holds_float32_values_has_the_noise_of_float32():
    values = TEMP.astype(float)
    noisy = f32(TEMP * (1 + 2e-7)).astype(float)
    assert (values != noisy).any()
    assert name_relation(values, noisy).kind == Kind.EQUAL


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), step=st.sampled_from([1.0, 10.0, 100.0]))
def test_noise_of_the_size_of_a_step_is_no_rounding(seed, step):
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 500, 300)
    found = name_relation(values, values + rng.uniform(-step / 2, step / 2, 300))
    assert found.kind == Kind.OTHER


def test_a_division_of_whole_numbers_says_that_it_rounds_down():
    text = name_relation(WHOLE, WHOLE // 60).text
    assert "0.01666667" in text
    assert text.endswith("rounded down to whole numbers")


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), most=st.integers(3, 40))
def test_a_few_whole_numbers_near_a_line_have_no_factor(seed, most):
    rng = np.random.default_rng(seed)
    before = rng.integers(0, 3000, 400)
    after = np.rint(before * most / 3000 + rng.uniform(-0.9, 0.9, 400)).astype(int)
    assert name_relation(before, after).kind != Kind.SCALED


@settings(max_examples=30, deadline=None)
@given(lag=st.integers(51, 400), seed=st.integers(0, 99))
def test_a_long_lag_is_a_stale_copy_and_a_shuffle_is_none(lag, seed):
    rng = np.random.default_rng(seed)
    values, place = rng.normal(0, 1, 1500), np.arange(1500)
    late = np.concatenate([values[:lag], values[:-lag]])
    found = name_relation(values, late, order=place)
    assert (found.kind, found.value) == (Kind.STALE, lag)
    assert name_relation(values, rng.permutation(values), order=place).kind == Kind.OTHER


@pytest.mark.parametrize(
    ("shift", "text"),
    [(1.0, "candidate = baseline + 1"), (-0.5, "candidate = baseline − 0.5")],
)
def test_a_second_of_a_time_since_1970_is_a_shift_and_no_rounding(shift, text):
    times = 1.6e9 + np.random.default_rng(8).uniform(0, 1e7, 500)
    found = name_relation(times, times + shift)
    assert (found.kind, found.text) == (Kind.SHIFTED, text)


def test_a_second_in_nanoseconds_is_a_shift_and_no_rounding():
    times = (1_600_000_000_000_000_000 + np.arange(500) * 7_777_777_777).astype(np.int64)
    found = name_relation(times, times + 1_000_000_000)
    assert (found.kind, found.value) == (Kind.SHIFTED, 1e9)


def test_rounding_in_the_last_digits_of_float64_is_none():
    values = np.random.default_rng(8).uniform(1, 2, 500)
    assert name_relation(values, values * (1 + 3e-16)).kind == Kind.EQUAL


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_small_factor_is_no_offset_and_a_small_offset_no_factor(dtype):
    values = np.random.default_rng(9).uniform(9e5, 1.1e6, 500).astype(dtype)
    scaled = name_relation(values, (values * dtype(1.000003)).astype(dtype))
    assert scaled.kind == Kind.SCALED
    assert scaled.value == pytest.approx(1.000003, rel=1e-7)
    shifted = name_relation(values, (values + dtype(3.0)).astype(dtype))
    assert (shifted.kind, shifted.text) == (Kind.SHIFTED, "candidate = baseline + 3")


def test_an_offset_that_a_factor_explains_as_well_says_so():
    values = np.random.default_rng(0).uniform(40, 41, 500).astype(np.float32)
    found = name_relation(values, values * np.float32(1.000003))
    assert found.text.endswith("these values do not tell which")
    assert "or × 1.000003" in found.text or "or × 1.00000" in found.text


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (60.0, "minutes → seconds, or hours → minutes"),
        (1 / 60, "seconds → minutes, or minutes → hours"),
        (1000.0, "seconds → milliseconds, or kilometres → metres, or tonnes → kilograms"),
        (0.001, "milliseconds → seconds, or metres → kilometres, or kilograms → tonnes"),
    ],
)
def test_a_unit_reads_in_its_direction(factor, words):
    values = np.random.default_rng(9).uniform(1, 900, 500)
    assert f"({words}?)" in name_relation(values, values * factor).text


@pytest.mark.parametrize("sigma", [3, 4, 6, 8])
def test_small_values_of_a_heavy_tail_that_become_zero_are_told_as_zero(sigma):
    before = np.exp(np.random.default_rng(9).normal(size=3000) * sigma).astype(np.float32)
    after = np.where(before < 0.005, np.float32(0), before)
    assert name_relation(before, after).kind is Kind.FILLED_WITH_ZERO


@pytest.mark.parametrize("dtype", ["i8", "u8"])
@pytest.mark.parametrize("shift", [1, 3, 700])
def test_a_shift_of_integers_beyond_float64_is_no_rounding(dtype, shift):
    ids = np.arange(2**62 + 1, 2**62 + 401, dtype=dtype)
    found = name_relation(ids, ids + np.array(shift, dtype))
    assert (found.kind, found.value) == (Kind.SHIFTED, shift)
    assert found.text == f"candidate = baseline + {shift}"


def test_integers_beyond_float64_that_follow_no_shift_have_no_relation():
    ids = np.arange(2**60, 2**60 + 400, dtype=np.int64)
    other = ids + np.random.default_rng(1).integers(1, 9, 400)
    assert name_relation(ids, other).kind is Kind.OTHER


def test_times_in_nanoseconds_keep_their_shift_of_an_hour():
    ns = 1_700_000_000_000_000_000 + np.arange(400, dtype=np.int64) * 977
    found = name_relation(ns, ns + 3_600_000_000_000)
    assert (found.kind, found.value) == (Kind.SHIFTED, 3.6e12)


_RNG = np.random.default_rng(11)
CHANCE = f32(1 / (1 + np.exp(-_RNG.uniform(-3, 3, N))))
RULED = {
    name: PLANTED[name][:2]
    for name in (
        "local hour to UTC",
        "kilometres",
        "seconds",
        "plain factor",
        "to celsius",
        "to kelvin",
        "other affine",
        "mirrored",
        "negated",
        "clipped",
        "float16",
        "always zero",
        "unrelated",
    )
} | {
    "one less the chance": (CHANCE, np.float32(1) - CHANCE),
    "chance and a bit": (CHANCE, CHANCE + np.float32(0.4)),
    "small, negated": (f32(TEMP / 1e5), -f32(TEMP / 1e5)),
    "rounded": (CHANCE, np.round(CHANCE, 1)),
    "shuffled": (CHANCE, _RNG.permutation(CHANCE)),
}


STOOD_IN = list(product(RULED, (0.005, 0.03, 0.2), ("both", "baseline", "candidate")))
CORNERS = {
    ("local hour to UTC", share, sides)
    for share in (0.005, 0.2)
    for sides in ("both", "baseline", "candidate")
}
DRAWN = {
    STOOD_IN[9 * fault + case]
    for fault in range(len(RULED))
    for case in np.random.default_rng([12, fault]).permutation(9)[:2]
}
"""Two of each fault's nine, so that every fault, share and side is met every time."""


@pytest.mark.parametrize(
    ("fault", "share", "sides"),
    [
        pytest.param(*case, marks=[] if case in CORNERS | DRAWN else pytest.mark.long)
        for case in STOOD_IN
    ],
)
def test_stand_ins_for_no_value_do_not_change_the_name_of_the_other_rows(fault, share, sides):
    plain = name_relation(*RULED[fault])
    rows = np.random.default_rng(5).random(N) < share
    for stand_in in (1e9, -1e9, 999_999.0, -999.0, 3.4e38):
        before, after = (values.copy() for values in RULED[fault])
        for values, own in ((before, "baseline"), (after, "candidate")):
            if sides in ("both", own):
                values[rows] = stand_in
        found = name_relation(before, after)
        assert found.kind == plain.kind, (stand_in, found.text)
        if plain.value is not None:
            assert found.value == pytest.approx(plain.value, rel=1e-4), (stand_in, found.text)


@pytest.mark.parametrize("stand_in", [1e9, 999_999.0, -999.0])
def test_what_became_of_stand_ins_is_said_beside_the_name(stand_in):
    rows = np.random.default_rng(5).random(N) < 0.03
    shifted = f32((HOUR + 4) % 24)
    given = name_relation(HOUR, np.where(rows, f32(stand_in), shifted)).text
    assert given.endswith(f"candidate is {stand_in:.7g} where the baseline has other values")
    gone = name_relation(np.where(rows, f32(stand_in), HOUR), shifted).text
    assert gone.endswith(f"candidate has other values wherever the baseline is {stand_in:.7g}")


@pytest.mark.parametrize("stand_in", [9_999.0, 1e6, 1e9])
def test_stand_ins_in_place_of_any_value_are_told_as_such(stand_in):
    rows = np.random.default_rng(5).random(N) < 0.03
    text = name_relation(HOUR, np.where(rows, f32(stand_in), HOUR)).text
    assert text == f"candidate is {stand_in:.7g} where the baseline has other values"


def test_the_turned_chance_has_no_digits_of_noise():
    rows = np.random.default_rng(5).random(N) < 0.03
    before = np.where(rows, f32(999_999), CHANCE)
    after = np.where(rows, f32(999_999), np.float32(1) - CHANCE)
    assert name_relation(before, after).text == "candidate = baseline × -1 + 1"


@pytest.mark.parametrize("noise", [6e-8, 3e-7])
def test_a_line_within_noise_of_whole_numbers_is_told_in_them(noise):
    rng = np.random.default_rng(0)
    before = f32(0.5 + 0.01 * rng.random(700))
    after = f32(np.float32(1) - before + rng.normal(0, noise, 700))
    assert name_relation(before, after).text == "candidate = baseline × -1 + 1"


def test_a_slope_beyond_noise_of_a_whole_number_stays():
    before = f32(np.exp(-np.random.default_rng(0).uniform(3, 15, 700)))
    text = name_relation(before, f32(before * 1.0001 + 0.25)).text
    assert text == "candidate = baseline × 1.0001 + 0.25"


@pytest.mark.parametrize("shift", [1.0, -3.0])
def test_whole_numbers_in_float64_that_float32_holds_are_compared_exactly(shift):
    ids = np.random.default_rng(0).integers(2_000_000, 8_000_000, 500).astype(float)
    found = name_relation(ids, ids + shift)
    assert (found.kind, found.value) == (Kind.SHIFTED, shift)


def test_values_beyond_2_to_23_keep_the_noise_of_float32_that_is_before_them():
    values = np.random.default_rng(0).integers(9_000_000, 16_000_000, 500).astype(float)
    assert name_relation(values, values + 1, tolerance=FLOAT_TOLERANCE).kind == Kind.EQUAL
    assert name_relation(values, values + 1).text == "candidate = baseline + 1"


def test_a_stale_copy_of_values_of_which_some_are_missing_is_named():
    gappy = np.where(np.arange(N) % 9 == 0, np.float32(np.nan), TEMP)
    found = name_relation(gappy, np.roll(gappy, 1), order=np.arange(N))
    assert (found.kind, found.value) == (Kind.STALE, 1.0)


def split_sums(rows=3000):
    """One unit that seldom fires, summed at once and in two parts."""
    rng = np.random.default_rng(31)
    x = rng.random((rows, 256)).astype(np.float32)
    weights = (rng.normal(size=(256, 64)) / 16).astype(np.float32)
    parts = [x[:, at : at + 128] @ weights[at : at + 128] for at in (0, 128)]
    once, twice = x @ weights, parts[0] + parts[1]
    bias = np.quantile(once, 0.98, axis=0).astype(np.float32)
    return np.maximum(once - bias, 0), np.maximum(twice - bias, 0)


def test_sums_in_another_order_are_not_called_a_smaller_number_type():
    before, after = split_sums()
    found = [name_relation(before[:, i], after[:, i]) for i in range(64)]
    kinds = {r.kind.value for r in found}
    assert "rounding" in kinds
    assert not any("lower precision" in r.text for r in found)


@pytest.mark.parametrize("way", ["weight", "cast before the sum"])
def test_a_weight_that_moved_a_little_is_no_lower_precision(way):
    """Nor is a cast before a sum, which one column does not tell from it."""
    rng = np.random.default_rng(32)
    x = rng.normal(size=(3000, 16)).astype(np.float32)
    weights = rng.normal(size=16).astype(np.float32)
    moved = weights.copy()
    moved[3] += np.float32(1e-3)
    after = x @ moved if way == "weight" else x.astype(np.float16).astype(np.float32) @ weights
    found = name_relation(np.abs(x @ weights) + np.float32(10), np.abs(after) + np.float32(10))
    assert found.kind is Kind.OTHER


def test_a_sum_in_float16_on_either_side_is_another_precision():
    rng = np.random.default_rng(32)
    x, weights = rng.normal(size=(3000, 16)), rng.normal(size=16)
    once = (np.abs(x @ weights) + 10).astype(np.float32)
    half = (np.abs(x.astype(np.float16) @ weights.astype(np.float16)) + 10).astype(np.float32)
    assert "(lower precision?)" in name_relation(once, half).text
    assert "(higher precision?)" in name_relation(half, once).text


def test_what_no_side_has_as_a_number_is_told_as_such():
    before = np.random.default_rng(3).normal(size=400).astype(np.float32)
    before[:90] = np.nan
    after = np.where(np.isnan(before), np.float32(-np.inf), before)
    after[90:100] = np.inf
    text = name_relation(before, after).text
    assert "10 sampled rows are NaN or infinite on one side only" in text
    assert "90 sampled rows are NaN or infinite on both sides, and not the same" in text

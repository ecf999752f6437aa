"""Drawings say what the numbers say, and stay inside their frame."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.report.charts import Judged, PathStep, bar, curve, shared_reach, time_line
from harness.report.tones import Tone
from harness.report.words import DAY_NS, METRICS

DIRECTIONS = ("increase", "decrease", "both")
ALPHA = (0.05, 0.05)


def judged(lower, upper, margin=0.05, direction="both", verdict="PASS", metric="score_shift"):
    return Judged(
        metric=METRICS[metric],
        margin=margin,
        direction=direction,
        verdict=verdict,
        lower=lower,
        upper=upper,
        tone=Tone.GOOD,
    )


def step(n, lower, upper, promote=0.0, rollback=0.0):
    return PathStep(n=n, lower=lower, upper=upper, log_e_promote=promote, log_e_rollback=rollback)


def points(text):
    return [tuple(map(float, point.split(","))) for point in text.split()]


def test_an_interval_within_the_margins_is_drawn_between_them():
    drawn = bar(judged(-0.01, 0.02), 1.6)
    assert drawn.margin_low < drawn.left
    assert drawn.left + drawn.width < drawn.margin_high
    assert drawn.left < drawn.zero < drawn.left + drawn.width


def test_an_interval_beyond_the_margin_is_drawn_beyond_it():
    drawn = bar(judged(0.06, 0.07), 1.6)
    assert drawn.left > drawn.margin_high


def test_rows_of_one_table_share_the_place_of_their_margins():
    rows = (judged(-0.01, 0.01), judged(0.0, 0.0019, margin=0.002))
    reach = shared_reach(rows)
    assert bar(rows[0], reach).margin_high == bar(rows[1], reach).margin_high


def test_an_interval_that_leaves_the_bar_says_on_which_side():
    drawn = bar(judged(0.01, 5.0), 1.6)
    assert (drawn.clipped_left, drawn.clipped_right) == (False, True)


@pytest.mark.parametrize(
    ("direction", "sides"), [("increase", (False, True)), ("decrease", (True, False))]
)
def test_harm_is_only_on_the_side_of_the_direction(direction, sides):
    drawn = bar(judged(0, 0.01, direction=direction), 1.6)
    assert (drawn.margin_low is not None, drawn.margin_high is not None) == sides


def test_a_curve_marks_the_first_look_that_proved_its_verdict():
    path = (step(100, -0.5, 0.5), step(200, -0.02, 0.03, promote=3.1), step(300, 0, 0.01, 9.0))
    drawn = curve(judged(0, 0.01), path, ALPHA)
    assert drawn.proven == 50.0
    assert drawn.proven_label == "proven by 200 requests"


def test_a_curve_of_an_open_guardrail_marks_no_proof():
    path = (step(100, -0.5, 0.5, promote=99.0), step(200, -0.2, 0.3, promote=99.0))
    assert curve(judged(-0.2, 0.3, verdict="INCONCLUSIVE"), path, ALPHA).proven is None


def test_one_look_is_no_curve():
    assert curve(judged(0, 0.01), (step(100, 0, 0.01),), ALPHA) is None


def test_a_long_path_is_drawn_over_log_n_and_says_so():
    path = tuple(step(2**k, -1 / 2**k, 1 / 2**k) for k in range(1, 16))
    drawn = curve(judged(0, 0.01), path, ALPHA)
    assert "log scale" in drawn.x_label
    steps = [x for x, _ in points(drawn.upper)]
    assert steps[1] - steps[0] == pytest.approx(steps[-1] - steps[-2], abs=0.1)


def test_larger_values_are_drawn_higher():
    drawn = curve(judged(-0.01, 0.03), (step(10, -0.04, 0.06), step(20, -0.01, 0.03)), ALPHA)
    heights = {tick.label: tick.at for tick in drawn.y_ticks}
    assert heights["+0.05"] < heights["0"] < heights["−0.05"]
    assert drawn.last[1] > drawn.last[2]


NUMBERS = st.floats(-10, 10) | st.sampled_from([math.inf, -math.inf])


@st.composite
def drawings(draw):
    """A judged guardrail and a path that may go anywhere."""
    ends = draw(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=400))
    first, stride = draw(st.integers(1, 1_000)), draw(st.integers(1, 10_000))
    path = tuple(
        step(first + k * stride, min(pair), max(pair), promote=k, rollback=k)
        for k, pair in enumerate(ends)
    )
    case = judged(
        *ends[-1],
        draw(st.floats(1e-6, 1.0)),
        draw(st.sampled_from(DIRECTIONS)),
        draw(st.sampled_from(["PASS", "FAIL", "INCONCLUSIVE"])),
        draw(st.sampled_from(sorted(METRICS))),
    )
    return case, path


@given(drawings())
def test_no_path_is_drawn_outside_its_frame(drawing):
    drawn = curve(*drawing, ALPHA)
    if drawn is None:
        return
    places = [v for point in points(drawn.band) for v in point] + list(drawn.last)
    places += [tick.at for tick in (*drawn.x_ticks, *drawn.y_ticks)]
    places += [level.at for level in drawn.margins] + [zone.top for zone in drawn.harm]
    places += [v for v in (drawn.zero, drawn.proven) if v is not None]
    assert all(-0.01 <= place <= 100.01 for place in places)


def test_windows_and_training_data_stand_in_order_on_the_time_line():
    spans = (
        ("trained", 0, 100 * DAY_NS, Tone.MUTED, ""),
        ("window", 120 * DAY_NS, 180 * DAY_NS, Tone.INFO, ""),
    )
    trained, window = time_line(spans).spans
    assert trained.left == 0
    assert trained.left + trained.width < window.left
    assert window.left + window.width == pytest.approx(100)

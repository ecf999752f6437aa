"""Figures of the judge: efficiency near the bound, errors at the margin, and a defect that is caught."""

from __future__ import annotations

from xml.parsers import expat

import pytest

from harness.bench import errors
from harness.bench.bars import bars_svg
from harness.bench.efficiency import efficiency, naive
from harness.bench.figures import Figure, Figures
from harness.bench.judge import speed


def test_the_judge_decides_near_the_bound_and_before_a_fixed_test_of_high_power():
    figures = {f.name: f for f in efficiency(80, 7)}
    for case in ("(a) flips .001, margin .005", "(b) score: sd .05, mean .01, margin .005"):
        planned = figures[f"{case}: judge, planned"]
        assert planned.kept
        assert figures[f"{case}: judge, unplanned"].kept
        assert planned.value < figures[f"{case}: fixed z-test, 90% power"].value
        # Nothing beats the test that knows the truth; its own excess over the bound is small.
        assert 0.85 < figures[f"{case}: SPRT that knows the truth"].value < planned.value
    assert figures["(a) flips .001, margin .005: bound"].value == pytest.approx(1249, abs=0.5)
    assert figures["(c) unpaired .10 v .11, both arms: bound"].value == pytest.approx(
        22_514, rel=0.002
    )


def test_a_watched_z_test_raises_the_published_share_of_false_alarms():
    assert naive().value == pytest.approx(0.374, abs=6e-4)


def test_errors_about_traffic_at_the_margin_stay_below_their_level():
    figures = errors.process_errors(100, 4000, 100, 8)
    assert [f.name for f in figures if not f.kept] == []
    assert any("clipped mean" in f.note for f in figures)
    assert any(f.note == "p = .0005" for f in figures)


def test_errors_about_a_window_at_its_margin_stay_below_their_level():
    assert [f.name for f in errors.window_errors(40, 1200, 100, 9) if not f.kept] == []


def test_the_simulation_catches_gains_that_are_counted_too_often(monkeypatch):
    first = errors.conditions()[:1]
    monkeypatch.setattr(errors, "conditions", lambda: first)
    true = errors.Joint.growth
    monkeypatch.setattr(errors.Joint, "growth", lambda self, x: [3.0 * g for g in true(self, x)])
    assert not all(f.kept for f in errors.process_errors(150, 6000, 100, 8))


@pytest.mark.slow
def test_more_errors_at_the_margin_stay_below_their_level():
    figures = errors.process_errors(300, 10_000, 200, 10) + errors.window_errors(80, 2000, 100, 11)
    assert [f.name for f in figures if not f.kept] == []


@pytest.mark.slow
def test_speed_is_far_from_its_limits():
    figures = {f.name: f for f in speed()}
    # A shared machine may be several times slower than an idle one: the ratio to cumsum is what lasts.
    plain = figures["numpy.cumsum of the same batches"].value
    assert figures["one guardrail, a look every 10,000"].value > 0.05 * plain
    assert figures["one guardrail, every request a look"].value > 0.01 * plain
    assert figures["memory at 1,000,000 over 200,000"].kept


def test_the_figure_is_a_well_formed_drawing_of_one_unit():
    good = Figure(name="a <b>", value=1.1, unit="× bound", limit=1.2, note="x & y")
    other = Figure(name="c", value=5.0, unit="s")
    text = bars_svg(Figures(title="t", figures=(good, other)), "× bound")
    parser = expat.ParserCreate()
    found: list[str] = []
    parser.CharacterDataHandler = found.append
    parser.Parse(text, True)
    assert "".join(found).split("\n")[1:-1] == [
        "t (× bound)", "a <b>", "x & y", "1.1", "limit 1.2",
    ]  # fmt: skip

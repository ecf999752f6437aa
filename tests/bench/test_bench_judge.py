"""Figures of the judge: efficiency near the bound, speed, and the figure."""

from __future__ import annotations

from functools import partial
from xml.parsers import expat

import pytest

from harness.bench import judge
from harness.bench.bars import bars_svg
from harness.bench.efficiency import efficiency, naive
from harness.bench.figures import Figure, Figures
from harness.bench.live_form import live_form


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


@pytest.mark.usefixtures("few_points")
def test_the_live_judge_answers_about_where_the_bound_lies():
    found = live_form(16, 7)
    assert found.limit == pytest.approx(1.2)
    # The mean of sixteen runs varies by a fifth.
    assert 0.5 < found.value < 1.7


def test_a_watched_z_test_raises_the_published_share_of_false_alarms():
    assert naive().value == pytest.approx(0.374, abs=6e-4)


@pytest.mark.slow
def test_speed_is_far_from_its_limits(monkeypatch):
    # The least of three times, where the command takes that of 25.
    monkeypatch.setattr(judge, "_least_s", partial(judge._least_s, repeats=3))
    figures = {f.name: f for f in judge.speed()}
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

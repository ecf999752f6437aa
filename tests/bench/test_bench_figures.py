import json
import os

import pytest

from harness.bench.figures import Figure, Figures, load_figure
from harness.bench.start import bench_start


@pytest.mark.parametrize(
    ("value", "at_most", "kept"),
    [(1.0, True, True), (1.1, True, False), (1.0, False, True), (0.9, False, False)],
)
def test_a_limit_is_kept_on_its_own_side(value, at_most, kept):
    figure = Figure(name="x", value=value, unit="s", limit=1.0, at_most=at_most)

    assert figure.kept is kept


def test_a_figure_without_a_limit_never_fails():
    assert Figures(title="t", figures=(Figure(name="x", value=1e9, unit="s"),)).within_limits


def test_one_broken_limit_breaks_the_benchmark():
    good = Figure(name="x", value=1.0, unit="s", limit=2.0)
    bad = Figure(name="y", value=3.0, unit="s", limit=2.0)

    figures = Figures(title="t", figures=(good, bad))

    assert not figures.within_limits
    assert "NOT KEPT" in figures.to_text()
    assert [row["kept"] for row in json.loads(figures.to_json())["figures"]] == [True, False]


@pytest.mark.long
def test_starting_costs_are_measured_against_their_limits():
    figures = bench_start().figures

    assert [f.limit for f in figures] == [None, 0.15, 5.0, None]
    assert all(f.value > 0 for f in figures[:3])


def test_a_spoiled_figure_keeps_no_limit_and_says_why():
    value = Figure(name="ratio", value=2.063, unit="×", limit=0.6, at_most=False, spoiled="odd")
    figures = Figures(title="t", figures=(value,))

    assert not figures.within_limits
    assert "≥ 0.6 not measurable beside other work  (odd)" in figures.to_text()


@pytest.mark.parametrize(("load", "word"), [(0.1, "calm"), (50.0, "busy")])
def test_a_benchmark_says_whether_the_machine_was_busy(load, word, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    figure = load_figure()

    assert (figure.value, figure.limit) == (load, None)
    assert word in figure.note

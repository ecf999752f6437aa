"""The drawing of a graph: which boxes it has, where they stand, what they say."""

import json
import re
from itertools import pairwise

import pytest
from graph_examples import graph_of, residual_graph, small_graph, state
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from report_examples import EXAMPLES, FILES
from report_pages import Page

from harness.report import render_comparison, render_html, view_from_comparison, view_from_run
from harness.report.graph import graph_section
from harness.report.graph_boxes import boxes
from harness.report.graph_layout import HEIGHT, WIDTH, laid_out
from harness.report.read import Doc


def nodes_of(graph):
    report = Doc(graph).at("report")
    firsts = [d.at("divergence", "baseline").text() for d in report.at("divergences").items()]
    return boxes(report.at("states").items(), firsts)


def test_every_kind_of_tensor_has_a_box_of_its_own_near_the_divergence():
    kinds = {node.name: node.kind for node in nodes_of(small_graph())}
    assert kinds == {
        "x": "input", "scaled": "equal", "unused": "unmatched", "odd": "not_compared",
        "moved": "first", "bent": "differs", "other": "equal", "y": "differs",
    }  # fmt: skip


def test_long_stretches_are_one_box_each():
    nodes = nodes_of(residual_graph(1000, 500))
    assert len(nodes) < 40
    stretches = {node.kind: len(node.members) for node in nodes if not node.alone}
    assert stretches["equal"] > 450
    assert stretches["differs"] > 450
    assert sum(len(node.members) for node in nodes) == 1000


@st.composite
def graphs(draw):
    """Graphs of up to 40 tensors, each reading earlier ones, with any verdicts."""
    states = []
    for i in range(draw(st.integers(1, 40))):
        before = [f"t{j}" for j in range(i)] or ["x"]
        reads = draw(st.lists(st.sampled_from(before), min_size=1, max_size=3, unique=True))
        verdict = draw(st.sampled_from(["equal", "differs", "not_compared"]))
        states.append(state(f"t{i}", reads, verdict))
    return graph_of(states, f"t{draw(st.integers(0, len(states) - 1))}")


@given(graphs())
@settings(max_examples=40, deadline=None, phases=(Phase.explicit, Phase.generate))
def test_every_tensor_is_in_one_box_and_boxes_read_earlier_ones(graph):
    nodes = nodes_of(graph)
    names = [m.at("baseline").text() for node in nodes for m in node.members]
    assert sorted(names) == sorted(s["baseline"] for s in graph["report"]["states"])
    seen = set()
    for node in nodes:
        assert set(node.reads) <= seen
        seen.add(node.name)
        assert len({m.at("verdict").text() for m in node.members}) <= 1


@given(graphs())
@settings(max_examples=40, deadline=None, phases=(Phase.explicit, Phase.generate))
def test_boxes_do_not_overlap_and_wires_lead_down(graph):
    layout = laid_out({node.name: node.reads for node in nodes_of(graph)})
    places = sorted(layout.corners.values(), key=lambda p: (p[1], p[0]))
    for (x, y), (next_x, next_y) in pairwise(places):
        assert next_y >= y + HEIGHT or next_x >= x + WIDTH
    for source, box, points in layout.wires:
        assert [y for _, y in points] == sorted(y for _, y in points)
        assert layout.corners[source][1] < layout.corners[box][1]
    assert all(-1e-6 <= x <= layout.width - WIDTH + 1e-6 for x, _ in places)


def test_a_run_without_a_look_says_why():
    section = graph_section(Doc({"report": None, "why": "no row was compared"}))
    assert section.lead == "Not looked into: no row was compared."


def test_a_run_that_knows_nothing_of_graphs_has_no_such_section():
    assert graph_section(Doc(None)) is None
    run = EXAMPLES["promote"]()
    del run["intermediates"]["graph"]
    view = view_from_run(**{name: run.get(name) for name in FILES})
    assert "#graph" not in Page(render_html(view)).attributes("href")


def test_tables_name_the_change_the_proof_and_the_worst_row():
    firsts, changes, worst, unseen = graph_section(Doc(small_graph())).tables
    assert firsts.rows[0][4].text == "y: 256 rows differed, 0 with the baseline's values fed in"
    assert [cell.text for cell in changes.rows[0]][1:] == [
        "operator", "Mul → moved", "Mul", "Add"
    ]  # fmt: skip
    assert [cell.text for cell in worst.rows[0]] == ["r-7", "moved", "3", "15.5", "x 1.5"]
    assert [row[1].text for row in unseen.rows] == ["unused", "odd", "extra"]


def test_the_table_of_changes_says_where_numbers_only_stand_elsewhere():
    graph = small_graph()
    assert graph_section(Doc(graph)).tables[1].note == ""
    graph["report"]["rearranged"] = True
    graph["report"]["divergences"][0]["divergence"]["farther"] = True
    note = graph_section(Doc(graph)).tables[1].note
    assert "hold the same numbers" in note
    assert "before tensors that are still equal" in note


def test_the_table_of_first_ones_counts_places_where_a_difference_rises_again():
    graph = small_graph()
    assert graph_section(Doc(graph)).tables[0].note == ""
    graph["report"]["risen"] = ["bent", "y"]
    assert graph_section(Doc(graph)).tables[0].note == (
        "At 2 further tensors a difference that sank under the tolerance rises above it again: bent, y."
    )


def test_what_was_not_looked_into_is_said_under_the_drawing():
    assert graph_section(Doc(small_graph())).notes == (
        "baseline Loop → z: its body was not looked into, only its outputs",
    )


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_page_of_a_comparison_is_whole_and_escaped(code):
    graph = json.loads(json.dumps(small_graph()).replace("moved", "<img src=x onerror=alert(1)>"))
    page = Page(
        render_comparison(
            view_from_comparison({"exit_code": code, "graph": graph, "not_compared": ["a <b>"]})
        )
    )
    assert page.unclosed == []
    assert "img" not in {tag for tag, _ in page.tags}
    assert ("EQUAL", "DIVERGED", "NOT COMPARABLE")[code] in page.text
    assert "a <b>" in page.text
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))


def test_signs_and_words_tell_kinds_apart_without_colour():
    page = render_comparison(view_from_comparison({"exit_code": 1, "graph": small_graph()}))
    signs = re.findall(r'<text class="sign"[^>]*>([^<]+)</text>', page)
    assert set(signs) == {"in", "=", "?", "–", "1≠", "≠"}
    for word in ("first to differ", "without a partner", "not compared"):
        assert word in Page(page).text

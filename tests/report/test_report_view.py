"""What a release manager reads, from whole runs and from runs with parts missing."""

import copy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_examples import EXAMPLES, FILES
from report_pages import Page, xml_root

from harness.core.verdicts import Decision
from harness.report import (
    render_html,
    render_junit,
    render_markdown,
    render_terminal,
    view_from_run,
)
from harness.report.markdown import MOST_BYTES
from harness.report.terminal import MOST_LINES, WIDTH


def view_of(run):
    return view_from_run(**{name: run.get(name) for name in FILES})


@pytest.fixture(params=sorted(EXAMPLES))
def run(request):
    return EXAMPLES[request.param]()


@pytest.mark.parametrize(
    ("example", "decision"),
    [
        ("promote", Decision.PROMOTE),
        ("rollback", Decision.ROLLBACK),
        ("hold", Decision.HOLD),
        ("does_not_load", Decision.ROLLBACK),
    ],
)
def test_the_answer_is_the_decision(example, decision):
    assert view_of(EXAMPLES[example]()).headline.state == decision.value


def test_the_binding_guardrail_is_named_with_its_numbers():
    binding = view_of(EXAMPLES["rollback"]()).headline.binding
    assert binding.startswith("same – values that differ: found 99.9")
    assert binding.endswith("tolerated at most 0.1 %")


def test_failing_guardrails_come_first_and_reported_ones_last():
    names = [card.whole.name for card in view_of(EXAMPLES["rollback"]()).guardrails]
    assert names[0] == "same"
    assert names[-1] == "flips"


def test_slices_stand_with_their_guardrail():
    cards = {card.whole.name: card for card in view_of(EXAMPLES["promote"]()).guardrails}
    assert len(cards["score"].slices.rows) == 9
    assert cards["score"].slice_tally == "slices: 9 of 9 pass"
    assert cards["loss"].slices is None


def test_a_reported_guardrail_beyond_its_margin_is_not_marked_as_harm():
    views = {row.name: row for row in view_of(EXAMPLES["rollback"]()).evidence}
    assert views["flips"].verdict == "FAIL"
    assert views["flips"].badge.tone.value != "bad"


def test_the_confidence_level_is_that_of_both_ends_together():
    card = view_of(EXAMPLES["promote"]()).guardrails[0]
    assert card.reading.startswith("With 90 % confidence at every look")


def test_harm_is_the_first_finding():
    assert [f.badge.word for f in view_of(EXAMPLES["rollback"]()).findings] == [
        "harm",
        "warning",
        "info",
    ]


def test_equal_features_are_folded_and_the_shifted_hour_comes_first():
    tables = view_of(EXAMPLES["rollback"]()).parity.tables
    assert tables[0].rows[0][0].text == "hour"
    assert "4 modulo 24" in tables[0].rows[0][5].text
    assert [t.title for t in tables if t.folded] == ["Features: 7 equal"]


def test_a_row_that_stands_for_many_columns_counts_as_many():
    run = EXAMPLES["rollback"]()
    before = view_of(run).parity.facts[0].value
    equal = next(f for f in run["intermediates"]["features"] if f["verdict"] == "equal")
    equal["columns"] = 1_119
    assert "7 equal" in before
    assert "1,125 equal" in view_of(run).parity.facts[0].value


def test_answers_of_a_retrained_model_may_differ_without_alarm():
    run = EXAMPLES["promote"]()
    tones = {}
    for preset in ("retrain", "refactor"):
        run["manifest"]["policy"]["preset"] = preset
        outputs = view_of(run).parity.tables[-1]
        tones[preset] = outputs.rows[0][1].badge.value
    assert tones == {"retrain": "info", "refactor": "bad"}


def test_values_that_were_never_judged_are_open_and_the_others_folded():
    titles = {t.title: t for t in view_of(EXAMPLES["promote"]()).traffic.tables}
    unseen = titles["Values in the traffic that were never judged"]
    assert [row[0].text for row in unseen.rows] == ["carrier = OO"]
    assert titles["Coverage: 9 values judged"].folded


def test_exchanges_left_out_of_a_window_are_counted_with_their_reason():
    run = EXAMPLES["promote"]()
    run["decision"]["windows"]["newest"]["left_out"] = [["older than 61 days", 29_364]]
    table = next(t for t in view_of(run).traffic.tables if t.title == "Recorded but left out")
    assert ("not in the newest window", "older than 61 days", "29,364") in [
        tuple(cell.text for cell in row) for row in table.rows
    ]


def banner_titles(run):
    return [banner.title for banner in view_of(run).banners]


def test_a_sound_run_has_no_banner():
    assert banner_titles(EXAMPLES["promote"]()) == []


def test_every_limit_of_a_run_is_a_banner():
    assert banner_titles(EXAMPLES["hold"]()) == [
        "Advise mode",
        "Isolation S0, below the required S2",
        "The replay is not faithful",
    ]


def test_what_the_locked_process_tried_is_listed():
    table = next(
        t for t in view_of(EXAMPLES["promote"]()).isolation.tables if t.title == "Tried from inside"
    )
    assert [tuple(cell.text for cell in row) for row in table.rows] == [
        ("UDP socket", "refused", "EPERM"),
        ("create a file", "not refused", "allowed"),
    ]


def test_isolation_below_the_policy_is_a_banner_even_without_a_flag():
    run = EXAMPLES["promote"]()
    run["manifest"]["isolation"] |= {"tier": "S1", "allowed_below": False}
    assert banner_titles(run) == ["Isolation S1, below the required S2"]


def test_leave_to_go_below_that_was_not_used_is_no_banner():
    run = EXAMPLES["promote"]()
    run["manifest"]["isolation"]["allowed_below"] = True
    assert banner_titles(run) == []


def test_answers_recorded_from_another_version_are_not_called_unfaithful():
    run = EXAMPLES["promote"]()
    run["intermediates"]["faithful"] |= {"mismatched": 54_790, "note": "recorded from version 1"}
    run["findings"]["findings"].append({"kind": "recorded_by_another_version", "severity": "info"})
    assert banner_titles(run) == []
    assert view_of(run).fidelity.facts[0].note.startswith("recorded from version 1")


def test_which_session_was_judged_is_a_fact_where_it_is_known():
    run = EXAMPLES["promote"]()
    assert len(view_of(run).fidelity.facts) == 2
    run["intermediates"]["observer"]["answering"] = "7 answers came from the one, 1 from both."
    judged = view_of(run).fidelity.facts[2]
    assert judged.label == "Which session was judged"
    assert judged.value == "7 answers came from the one, 1 from both."


def test_banners_are_in_every_format(run):
    view = view_of(run)
    pages = [render_html(view), render_markdown(view), render_junit(view), render_terminal(view)]
    for banner in view.banners:
        assert [banner.title in page for page in pages] == [True] * 4


def test_a_candidate_that_does_not_load_says_what_is_missing():
    view = view_of(EXAMPLES["does_not_load"]())
    text = Page(render_html(view)).text
    for said in (
        "No guardrail was judged in this run.",
        "None were compared in this run.",
        "No request was replayed.",
        "Latency was not measured in this run.",
        "The noise floor was not measured in this run.",
    ):
        assert said in text


def test_what_no_replay_shows_is_in_every_page(run):
    text = Page(render_html(view_of(run))).text
    for word in ("upstream", "feedback", "concurrency", "Absent days", "concept drift"):
        assert word.lower() in text.lower()


def test_without_any_file_the_page_says_that_there_is_no_decision():
    view = view_from_run(None, None, None, None, None, None)
    assert view.headline.word == "NO DECISION"
    assert "The run folder holds no decision." in Page(render_html(view)).text


def test_a_gate_that_failed_says_where_and_what():
    told = {
        "where": "pairs/00001.parquet",
        "what": "the disk is full",
        "remedy": "Free some space.",
    }
    head = view_from_run({}, {"error": told}, {}, {}, {}, {}).headline
    assert head.state == "ERROR"
    assert head.explanation == "pairs/00001.parquet. the disk is full. Free some space."


JUNK = st.sampled_from([
    None, "", [], {}, 0, 3, -1, "x", True, float("nan"), float("inf"), 10**400, 1e300, "Infinity",
    [[]], [None], {"a": None}, "\ud800\x00\u202e", [["a", "b", "c"]],
])  # fmt: skip


def _spoil(data, run):
    """Replaces or removes one random place of the run."""
    here, key = run, data.draw(st.sampled_from(FILES))
    for _ in range(data.draw(st.integers(0, 6))):
        inner = here[key]
        if isinstance(inner, dict) and inner:
            here, key = inner, data.draw(st.sampled_from(sorted(inner)))
        elif isinstance(inner, list) and inner:
            here, key = inner, data.draw(st.integers(0, len(inner) - 1))
    if isinstance(here, dict) and data.draw(st.booleans()):
        del here[key]
        if here is run:
            run[key] = None
    else:
        # A copy: what is drawn once more must be as it was, whatever was spoiled inside it since.
        here[key] = copy.deepcopy(data.draw(JUNK))


@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data(), example=st.sampled_from(sorted(EXAMPLES)))
def test_no_missing_or_wrong_part_breaks_any_format(data, example):
    run = copy.deepcopy(EXAMPLES[example]())
    for _ in range(data.draw(st.integers(1, 8))):
        _spoil(data, run)
    view = view_of(run)
    page = render_html(view)
    page.encode()
    assert Page(page).unclosed == []
    assert len(render_markdown(view).encode()) <= MOST_BYTES
    xml_root(render_junit(view))
    lines = render_terminal(view).split("\n")
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= WIDTH


def test_what_a_version_ran_in_is_told_with_its_reason():
    run = EXAMPLES["promote"]()
    run["decision"]["candidate"]["runtime"] = {
        "packages": {"onnxruntime": "1.26.0", "numpy": "2.4.6"},
        "because_of": ["onnxruntime==1.26.0"],
        "left_out": ["scikit-learn"],
        "notes": [],
    }
    page = render_html(view_of(run))
    assert (
        "numpy 2.4.6, onnxruntime 1.26.0; an environment of its own, because it pins "
        "onnxruntime==1.26.0" in page
    )
    assert "scikit-learn" in page
    assert page.count("Ran in") == 1

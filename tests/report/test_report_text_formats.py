"""summary.md, junit.xml and the terminal screen."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_examples import EXAMPLES, FILES
from report_pages import xml_root

from harness.report import render_junit, render_markdown, render_terminal, view_from_run
from harness.report.markdown import MOST_BYTES, capped, code, escaped, paragraph
from harness.report.terminal import MOST_LINES, WIDTH


def view_of(run):
    return view_from_run(**{name: run.get(name) for name in FILES})


def suite_of(run):
    return xml_root(render_junit(view_of(run)))


def kinds(root):
    return {case.get("name"): [child.tag for child in case] for case in root.iter("testcase")}


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        ("promote", {"failures": "0", "errors": "0", "skipped": "0"}),
        ("rollback", {"failures": "4", "errors": "0"}),
        ("hold", {"failures": "0", "errors": "0", "skipped": "3"}),
        ("does_not_load", {"failures": "1", "errors": "0", "skipped": "0", "tests": "1"}),
    ],
)
def test_junit_counts_follow_the_decision(example, expected):
    root = suite_of(EXAMPLES[example]())
    assert {key: root.get(key) for key in expected} == expected


def test_junit_has_one_case_for_the_decision_and_one_for_each_guardrail():
    run = EXAMPLES["promote"]()
    names = [row["name"] for row in run["evidence"]["evidence"]]
    assert list(kinds(suite_of(run)))[1:] == names


def test_a_run_without_a_decision_is_a_junit_error():
    root = xml_root(render_junit(view_from_run({}, {}, {}, {}, {}, {})))
    assert root.get("errors") == "1"


def test_a_guardrail_that_only_reports_never_fails_in_junit():
    assert kinds(suite_of(EXAMPLES["rollback"]()))["flips"] == ["system-out"]


def test_in_advise_mode_nothing_fails_in_junit_and_the_message_says_so():
    run = EXAMPLES["rollback"]()
    run["manifest"]["policy"]["mode"] = "advise"
    root = suite_of(run)
    assert root.get("failures") == "0"
    message = next(root.iter("testcase")).find("skipped").get("message")
    assert message.startswith("advise mode, would fail: ROLLBACK")


def test_junit_takes_characters_that_xml_refuses():
    run = EXAMPLES["rollback"]()
    run["decision"]["explanation"] = "a\x00b\x1b[31m\ud800 ]]> <&>"
    failure = next(suite_of(run).iter("failure"))
    assert "a\\u0000b\\u001b[31m\\ud800 ]]> <&>" in failure.text


@pytest.mark.parametrize("example", sorted(EXAMPLES))
def test_the_terminal_screen_fits_and_starts_with_the_answer(example):
    run = EXAMPLES[example]()
    lines = render_terminal(view_of(run)).split("\n")
    assert lines[0].startswith(run["decision"]["decision"])
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= WIDTH


def test_the_fullest_terminal_screen_still_ends_with_the_facts():
    run = EXAMPLES["rollback"]()
    limits = EXAMPLES["hold"]()
    run["manifest"] = limits["manifest"]
    run["intermediates"] = limits["intermediates"]
    run["decision"]["explanation"] = run["decision"]["next"] = "A long sentence about it. " * 40
    run["findings"]["findings"] *= 4
    lines = render_terminal(view_of(run)).split("\n")
    assert len(lines) <= MOST_LINES
    assert lines[-2].startswith("Requests judged")


def test_no_control_sequence_reaches_the_terminal():
    run = EXAMPLES["rollback"]()
    run["findings"]["findings"][1]["what"] = "\x1b]0;owned\x07\x1b[2J\rgone"
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", render_terminal(view_of(run)))


@pytest.mark.parametrize("example", sorted(EXAMPLES))
def test_the_summary_is_one_page_with_the_decision_first(example):
    run = EXAMPLES[example]()
    text = render_markdown(view_of(run))
    assert run["decision"]["decision"] in text.split("\n", 1)[0]
    assert len(text.encode()) < 12_000


def test_a_summary_is_cut_at_a_line_and_says_so():
    text = capped("# head\n" + "\n".join(f"| {k} | ü |" for k in range(100_000)))
    assert len(text.encode()) <= MOST_BYTES
    body, tail = text.rsplit("\n\n", 1)
    assert tail == "_Shortened; the whole is in report.html._\n"
    assert re.fullmatch(r"\| \d+ \| ü \|", body.rsplit("\n", 1)[1])


def test_a_hostile_value_makes_no_link_html_mention_or_table_cell():
    bad = "<img src=x> [a](https://evil.example) @team | `x` # *y* www.evil.example"
    run = EXAMPLES["rollback"]()
    run["evidence"]["evidence"][0] |= {"name": f"a|b {bad}", "guardrail": bad}
    run["findings"]["findings"][1] |= {"where": bad, "what": bad, "remedy": bad}
    run["decision"]["explanation"] = bad
    text = render_markdown(view_of(run))
    outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", text)
    for open_form in (r"(?<!\\)<img", r"(?<!\\)\[a(?<!\\)\]", "://", r"www\.", r"@team"):
        assert not re.search(open_form, outside), open_form
    rows = [line for line in text.split("\n") if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}


@given(st.text())
def test_escaping_only_adds_characters(text):
    shown = escaped(text)
    assert shown.replace("\\", "").replace("\u200b", "") == text.replace("\\", "").replace(
        "\u200b", ""
    )


@pytest.mark.parametrize("text", ["- a", "+ a", "1. a", "12) a", "= a"])
def test_a_paragraph_does_not_begin_a_list(text):
    assert re.match(r"\\[-+=]|\d+\\[.)]", paragraph(text))


@given(st.text(alphabet="`ab| ", min_size=1))
def test_a_code_span_ends_where_it_should(text):
    span = code(text)
    fence = re.match(r"`+", span)[0]
    assert span.endswith(fence)
    assert fence not in re.findall(r"`+", span[len(fence) : -len(fence)])

"""A canary's and a shadow's folder as a page: what it says, and how a browser shows it."""

import json
import sys
from pathlib import Path

import pytest
from canaries import POLICY, Traffic, live

from harness.core.clock import now_ns
from harness.core.errors import UsageError
from harness.live.folder import CanaryFolder
from harness.live.identity import Identity
from harness.pipeline.publish import write_reports

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "report"))

from report_pages import Page
from test_report_browser import CHROMIUM, DARK, LIGHT, measure


def played(tmp_path, harm, most=6_000, kind="canary"):
    """A folder whose canary has been judged for a while."""
    found = live()
    asked = Identity.of(found, seed="s", baseline="old:1", candidate="new:1 <b>", kind=kind)
    folder, watched = CanaryFolder.start(tmp_path / "c", found, asked, POLICY)
    traffic, step = Traffic(1, harm=harm, start_ns=now_ns()), 0
    while traffic.sent < most and not watched.ended:
        standing = traffic.turn(watched)
        if standing.step != step or standing.final:
            folder.tell("decision" if standing.final else "step", standing)
        step = standing.step
    folder.publish(watched.standing(), watched.evidence(), ("3 <i>requests</i> named no unit",))
    folder.close()
    return tmp_path / "c"


def page_of(path):
    written = write_reports(path, "all")
    assert written == str(path / "report.html")
    return Path(written).read_text()


@pytest.mark.parametrize(
    ("harm", "most", "word"),
    [(0.4, 6_000, "ROLLBACK"), (0.0, 6_000, "PROMOTE"), (0.0, 150, "UNDECIDED")],
)
def test_the_page_says_where_it_stands_and_what_each_guardrail_showed(tmp_path, harm, most, word):
    page = Page(page_of(played(tmp_path, harm, most)))
    assert page.unclosed == []
    assert f"{word} " in page.text
    for said in ("old:1 → new:1 <b>", "score", "Ratio of errors", "10 % to the candidate", "Both arms",
                 "3 <i>requests</i> named no unit"):  # fmt: skip
        assert said in page.text, said
    assert not [a for a in page.attributes("src") + page.attributes("href") if "//" in a]


def test_before_anything_was_judged_there_is_a_page_too(tmp_path):
    asked = Identity.of(live(), seed="s", baseline="b", candidate="c")
    folder, _ = CanaryFolder.start(tmp_path / "c", live(), asked, POLICY)
    page = Page(page_of(tmp_path / "c"))  # while somebody serves with it
    assert "No guardrail has been judged yet." in page.text
    folder.close()


def test_a_verdict_beside_other_evidence_is_not_shown(tmp_path):
    path = played(tmp_path, 0.4)
    evidence = path / "evidence.json"
    evidence.write_text(evidence.read_text().replace("NO_DATA", "PASS"))
    with pytest.raises(UsageError, match="do not belong together"):
        write_reports(path, "html")


def test_there_is_no_other_form(tmp_path):
    with pytest.raises(UsageError, match="no report as junit"):
        write_reports(played(tmp_path, 0.4), "junit")


SHADOW = {
    "mirrored": 40, "not_mirrored": {"sampled_out": 7, "queue_full": 0}, "lost": 0, "killed": False,
    "compared": 39, "differ": 4, "candidate_failed": 1, "baseline_failed": 0, "standing": None,
    "disagreements_kept": 5, "disagreements_not_kept": 0, "not_compared": ["output z has no partner"],
    "outputs": [{"name": "probability", "mismatched_requests": 4, "text": "scaled by 2"}],
    "exit_code": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, "DIFFERENT"),
        ({"exit_code": 0}, "EQUAL"),
        ({"exit_code": 4}, "BROKEN"),
        ({"standing": {"decision": "HOLD"}, "exit_code": 3}, "UNDECIDED"),
    ],
)
def test_a_shadow_s_page_shows_its_disagreements(tmp_path, changes, word):
    path = played(tmp_path, 0.0, 150, kind="shadow")
    (path / "shadow.json").write_text(json.dumps(SHADOW | changes))
    page = Page(page_of(path))
    assert f"{word} " in page.text
    for said in (
        "Disagreements",
        "scaled by 2",
        "sampled out",
        "5 requests that the versions answer",
    ):
        assert said in page.text, said


def test_a_shadow_that_goes_on_shows_what_its_mirror_wrote(tmp_path):
    path = played(tmp_path, 0.0, 150, kind="shadow")
    running = {
        k: v for k, v in SHADOW.items() if k not in {"exit_code", "mirrored", "not_mirrored"}
    }
    (path / "mirror.json").write_text(json.dumps(running))
    assert "COMPARING" in Page(page_of(path)).text


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize(("width", "scheme"), [(390, LIGHT), (1280, DARK)])
def test_in_a_browser_nothing_is_wider_than_the_screen(tmp_path, width, scheme):
    found = measure(tmp_path, page_of(played(tmp_path, 0.4)), width, scheme)
    assert (found["wide"], found["word"], found["curves"] > 0) == ([], "ROLLBACK", True)
    assert found["scroll"] <= width

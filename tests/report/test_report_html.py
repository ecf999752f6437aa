"""The page: complete in itself, escaped, accessible."""

import base64
import hashlib
import itertools
import json
import re

import pytest
from report_examples import EXAMPLES, FILES
from report_pages import Page

from harness.report import render_html, view_from_run

HOSTILE = (
    "\"'><script>alert(1)</script><img src=https://evil.example/x onerror=alert(1)>"
    "</style></title><!-- {{ 7*7 }} {% raw %} &lt;b&gt; `x` ]]>"
)
STABLE = {"decision", "verdict", "tier", "required", "mode", "severity", "direction", "metric"}
TAGS = {
    "html", "head", "meta", "title", "style", "body", "svg", "symbol", "path", "circle", "rect",
    "use", "polygon", "polyline", "a", "div", "main", "header", "p", "span", "b", "h1", "h2", "h3",
    "dl", "dt", "dd", "nav", "ul", "li", "button", "section", "article", "table", "caption",
    "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "i", "details", "summary", "pre",
    "code", "strong", "footer", "script", "g", "text", "label", "input",
}  # fmt: skip


def page_of(run):
    return render_html(view_from_run(**{name: run.get(name) for name in FILES}))


def hostile(value, key=""):
    """The same run with every free text, and every key of a free mapping, made hostile."""
    if isinstance(value, dict):
        free = key in ("windows", "outcomes", "context", "environment", "decision_rate")
        return {(k + HOSTILE if free else k): hostile(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [hostile(item, key) for item in value]
    return value + HOSTILE if isinstance(value, str) and key not in STABLE else value


@pytest.fixture(scope="module", params=sorted(EXAMPLES))
def source(request):
    return page_of(EXAMPLES[request.param]())


def test_every_tag_is_closed_in_order(source):
    assert Page(source).unclosed == []


def test_ids_are_unique_and_every_link_leads_to_one(source):
    page = Page(source)
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    targets = page.attributes("href") + [f"#{i}" for i in page.attributes("aria-labelledby")]
    assert {t for t in targets if t.removeprefix("#") not in ids} == set()


def test_nothing_is_loaded_from_anywhere(source):
    page = Page(source)
    assert [t for t, _ in page.tags if t in ("link", "img", "iframe", "object", "embed")] == []
    assert page.attributes("src") == []
    assert all(href.startswith("#") for href in page.attributes("href"))
    assert not re.search(r"url\(|@import|@font-face", "".join(page.styles))


def test_the_content_policy_names_the_pages_own_script(source):
    page = Page(source)
    policy = next(a["content"] for _, a in page.tags if "http-equiv" in a)
    (script,) = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_the_decision_is_a_word_and_a_sign_not_only_a_colour(source):
    page = Page(source)
    word = re.search(r"<h1>(.*?)</h1>", source)[1]
    assert word in ("PROMOTE", "ROLLBACK", "HOLD")
    assert source.index('class="icon"') < source.index("<h1>")
    assert page.text.startswith(tuple(page.text.split()[:1]))


def test_headings_go_down_one_level_at_a_time(source):
    levels = [int(tag[1]) for tag, _ in Page(source).tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_every_drawing_has_words_or_is_marked_as_decoration(source):
    drawings = [attrs for tag, attrs in Page(source).tags if tag == "svg"]
    inside_hidden = re.findall(r'<p class="key" aria-hidden="true">.*?</p>', source, re.DOTALL)
    decorative = sum(part.count("<svg") for part in inside_hidden)
    unnamed = [a for a in drawings if "aria-hidden" not in a and not a.get("aria-label")]
    assert len(unnamed) == decorative


def test_every_cell_carries_its_heading_for_narrow_screens(source):
    cells = [attrs for tag, attrs in Page(source).tags if tag == "td"]
    assert cells
    assert all("data-label" in attrs for attrs in cells)


@pytest.mark.parametrize("example", sorted(EXAMPLES))
def test_hostile_values_stay_text(example):
    source = page_of(hostile(EXAMPLES[example]()))
    page = Page(source)
    assert page.unclosed == []
    assert {tag for tag, _ in page.tags} <= TAGS
    assert len(page.scripts) == 1
    assert [name for _, attrs in page.tags for name in attrs if name.startswith("on")] == []
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7*7 }}" in page.text


def test_a_hostile_value_that_is_not_escaped_would_be_seen():
    page = Page(f"<div>{HOSTILE}</div>")
    assert "img" in {tag for tag, _ in page.tags} - TAGS
    assert page.scripts == ["alert(1)"]


def test_a_banner_cannot_leave_the_printed_pages_style():
    run = EXAMPLES["hold"]()
    run["manifest"]["isolation"]["required"] = '"; } * { display: none } /*\\'
    styles = "".join(Page(page_of(run)).styles)
    content = re.search(r"@top-left \{ content: \"([^\"]*)\"", styles)[1]
    assert "below the required" in content
    assert not set(content) & set("\\{}*;")


def _colours(block):
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block))


def _luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_every_pair_of_text_and_ground_has_enough_contrast(mode):
    style = "".join(Page(page_of(EXAMPLES["promote"]())).styles)
    light, _, rest = style.partition("@media screen and (prefers-color-scheme: dark)")
    colours = _colours(light if mode == "light" else rest[: rest.index("}\n}")])
    tones = ("good", "bad", "wait", "info", "muted")
    pairs = [("ink", "paper"), ("soft", "paper"), ("ink", "raised"), ("soft", "raised")]
    pairs += [(t, f"{t}-bg") for t in tones] + [(t, "paper") for t in tones]
    pairs += [("ink", f"{t}-bg") for t in tones]
    for front, back in pairs:
        a, b = sorted((_luminance(colours[front]), _luminance(colours[back])))
        assert (b + 0.05) / (a + 0.05) >= 4.5, (mode, front, back)


def test_a_run_with_many_guardrails_slices_and_features_stays_readable_in_size():
    run = json.loads(json.dumps(EXAMPLES["promote"]()))
    row = run["evidence"]["evidence"][1]
    run["evidence"]["evidence"] = [
        row | {"name": f"g{k}[c={j}]", "guardrail": f"g{k}", "slice": f"c={j}" if j else ""}
        for k in range(100)
        for j in range(100)
    ]
    run["intermediates"]["features"] = [
        run["intermediates"]["features"][0] | {"name": f"f{k}", "verdict": "differs"}
        for k in range(5_000)
    ]
    source = page_of(run)
    assert len(source.encode()) < 8_000_000
    assert "40 more guardrails are in evidence.json." in source
    assert "4800 more are in intermediates.json." in source


def test_refitted_constants_are_a_table_old_and_new():
    from harness.report.parity import parity
    from harness.report.read import Doc

    refit = {"tensor": "imputed[3]", "feature": "seats", "role": "fill", "baseline": 137.0,
             "candidate": 140.5, "suspicious": ""}  # fmt: skip
    section = parity(Doc({"refits": [refit], "features": [], "outputs": []}), Doc({}))
    (table,) = [t for t in section.tables if t.title.startswith("Refitted")]
    assert table.title == "Refitted: 1 constant"
    assert [c.text for c in table.rows[0]] == ["seats", "fill", "137", "140", "refitted"]

"""The page in a real browser: width, colours, network, print."""

import html
import json
import re
import shutil
import subprocess

import pytest
from graph_examples import residual_graph, small_graph
from report_examples import EXAMPLES, FILES
from test_report_html import hostile

from harness.report import render_comparison, render_html, view_from_comparison, view_from_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine: the page is not seen in a browser"
)
LIGHT, DARK = 1, 0
NARROWEST_WINDOW = 500
"""Pixels; a headless window is never narrower."""

MEASURE = """<script>
addEventListener("load", () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
  const wide = [...document.querySelectorAll("body *")].filter((e) => !e.closest("svg, .skip, thead")
    && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.className || e.tagName);
  const style = getComputedStyle(document.body);
  const out = { inner: innerWidth, scroll: document.documentElement.scrollWidth, wide,
    ink: style.color, paper: style.backgroundColor,
    word: document.querySelector("h1").innerText,
    wordHeight: document.querySelector("h1").getBoundingClientRect().height,
    curves: document.querySelectorAll(".plot svg").length,
    shown: [...document.querySelectorAll("main *")].filter((e) => e.checkVisibility()).length };
  const said = parent.document.body.appendChild(parent.document.createElement("pre"));
  said.id = "measured";
  said.textContent = JSON.stringify(out);
});
</script>"""


def page_of(run):
    return render_html(view_from_run(**{name: run.get(name) for name in FILES}))


def browse(tmp_path, page, *options, scheme=LIGHT):
    """Opens a page and returns the DOM that the browser made of it."""
    file = tmp_path / "page.html"
    file.write_text(page, encoding="utf-8")
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1280,1600",
            f"--blink-settings=preferredColorScheme={scheme}",
            *(options or ("--dump-dom",)),
            file.as_uri(),
        ],
        capture_output=True,
        timeout=60,
        check=True,
    )
    return done.stdout.decode()


def measure(tmp_path, page, width=1280, scheme=LIGHT):
    """What a script finds on the page at a width."""
    # The page's own policy would refuse a script that measures it.
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    page = page.replace("</body>", MEASURE + "</body>")
    if width < NARROWEST_WINDOW:
        # A frame has its own width for media queries, a window cannot be this narrow.
        page = (
            "<!DOCTYPE html><body>"
            f'<iframe width="{width}" height="1600" style="border:0" srcdoc="{html.escape(page)}">'
        )
    dom = browse(tmp_path, page, scheme=scheme)
    return json.loads(html.unescape(re.search(r'<pre id="measured">(.*?)</pre>', dom)[1]))


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("example", ["rollback", "hold"])
def test_nothing_is_wider_than_the_screen(tmp_path, example, width):
    found = measure(tmp_path, page_of(EXAMPLES[example]()), width)
    assert found["inner"] == width
    assert found["wide"] == []
    assert found["scroll"] <= width


def test_long_unbroken_values_do_not_widen_a_phone(tmp_path):
    run = EXAMPLES["rollback"]()
    run["findings"]["findings"][1]["what"] = "x" * 3_000
    run["intermediates"]["features"][0]["name"] = "y" * 300
    run["evidence"]["evidence"][0]["name"] = "z" * 300
    run["summary"]["changed"][0]["request_id"] = "w" * 300
    found = measure(tmp_path, page_of(run), 390)
    assert found["wide"] == []
    assert found["scroll"] <= 390


def test_something_too_wide_would_be_seen(tmp_path):
    page = page_of(EXAMPLES["does_not_load"]())
    found = measure(tmp_path, page.replace("<main>", '<main><div style="width:400px">.</div>'), 390)
    assert found["wide"] == ["DIV"]
    assert found["scroll"] > 390


def test_light_and_dark_show_the_same_things_in_other_colours(tmp_path):
    light = measure(tmp_path, page_of(EXAMPLES["rollback"]()), scheme=LIGHT)
    dark = measure(tmp_path, page_of(EXAMPLES["rollback"]()), scheme=DARK)
    assert (light["word"], light["shown"]) == (dark["word"], dark["shown"])
    assert light["word"] == "ROLLBACK"
    assert light["wordHeight"] > 30
    assert light["curves"] == 5
    assert (light["ink"], light["paper"]) == ("rgb(23, 27, 33)", "rgb(255, 255, 255)")
    assert (dark["ink"], dark["paper"]) == ("rgb(231, 235, 240)", "rgb(16, 20, 26)")


def requested(tmp_path, page):
    """Hosts that the browser asked for while it showed the page."""
    log = tmp_path / "net.json"
    browse(tmp_path, page, "--dump-dom", f"--log-net-log={log}")
    return set(re.findall(r"https?://([a-z.]*evil\.example)", log.read_text(errors="replace")))


def test_hostile_values_make_no_request(tmp_path):
    assert requested(tmp_path, page_of(hostile(EXAMPLES["rollback"]()))) == set()


def test_a_request_would_be_seen(tmp_path):
    page = '<!DOCTYPE html><img src="https://evil.example/x">'
    assert requested(tmp_path, page) == {"evil.example"}


def test_the_content_policy_stops_what_escaping_would_let_through(tmp_path):
    page = page_of(EXAMPLES["rollback"]()).replace(
        "<main>", '<main><img src="https://evil.example/x"><script>document.title="owned"</script>'
    )
    assert requested(tmp_path, page) == set()
    assert "<title>owned" not in browse(tmp_path, page)


def test_the_pages_own_script_runs_under_its_policy(tmp_path):
    dom = browse(tmp_path, page_of(EXAMPLES["promote"]()))
    assert re.search(r'<button type="button" id="open-all">', dom)


def test_the_page_prints(tmp_path):
    target = tmp_path / "report.pdf"
    browse(tmp_path, page_of(EXAMPLES["hold"]()), f"--print-to-pdf={target}")
    assert target.read_bytes().startswith(b"%PDF")


GRAPH = """<script>
addEventListener("load", () => {
  const rgb = (c) => c.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = (c) => rgb(c).map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const contrast = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
  const pane = document.querySelector(".drawn-graph .scroll"), first = pane.querySelector(".box.first rect");
  const view = pane.getBoundingClientRect(), box = first.getBoundingClientRect();
  const out = { boxes: pane.querySelectorAll("g.box").length,
    seen: box.left >= view.left && box.right <= view.right && box.top >= view.top && box.bottom <= view.bottom,
    spilling: [...pane.querySelectorAll("g.box")].filter((g) => [...g.querySelectorAll("text")].some((t) =>
      t.getBoundingClientRect().right > g.lastElementChild.parentNode.querySelector("rect:not(.behind)").getBoundingClientRect().right)).length,
    contrast: Math.min(...[...pane.querySelectorAll("g.box text")].map((t) => contrast(getComputedStyle(t).fill,
      getComputedStyle(t.parentNode.querySelector("rect:not(.behind)")).fill))) };
  const said = document.body.appendChild(document.createElement("pre"));
  said.id = "graph-measured";
  said.textContent = JSON.stringify(out);
});
</script>"""


@pytest.mark.parametrize(
    ("graph", "scheme"),
    [
        pytest.param(small_graph(), LIGHT, id="small-light"),
        pytest.param(residual_graph(1000, 500), DARK, id="1000-dark"),
        # Colours follow from the scheme, places from the size.
        pytest.param(small_graph(), DARK, id="small-dark", marks=pytest.mark.long),
        pytest.param(residual_graph(1000, 500), LIGHT, id="1000-light", marks=pytest.mark.long),
    ],
)
def test_the_divergence_is_on_screen_and_readable(tmp_path, graph, scheme):
    page = render_comparison(view_from_comparison({"exit_code": 1, "graph": graph}))
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    dom = browse(tmp_path, page.replace("</body>", GRAPH + "</body>"), scheme=scheme)
    found = json.loads(html.unescape(re.search(r'<pre id="graph-measured">(.*?)</pre>', dom)[1]))
    assert found["seen"]
    assert 8 <= found["boxes"] <= 40
    assert found["spilling"] == 0
    assert found["contrast"] >= 4.5


@pytest.mark.parametrize("width", [390, 1280])
def test_a_comparison_is_no_wider_than_the_screen(tmp_path, width):
    page = render_comparison(
        view_from_comparison({"exit_code": 1, "graph": residual_graph(60, 30)})
    )
    found = measure(tmp_path, page, width)
    assert found["wide"] == []
    assert found["scroll"] <= width

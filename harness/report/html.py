"""The report page: one file that needs no network, no script and no other file.

Values come from recorded traffic and from models. Three walls stand between them and the reader's
browser: `read` makes every character visible, the template engine escapes every value, and a
content security policy in the page allows no network and no script but the page's own, by hash.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from harness.core.plain_text import printable
from harness.report.compare_page import ComparisonView
from harness.report.live_page import LiveView
from harness.report.views import ReportView, Section

if TYPE_CHECKING:
    from jinja2 import Template


def render_html(view: ReportView) -> str:
    """The whole page as text; save it as UTF-8."""
    from markupsafe import Markup

    return _rendered(
        "report.html.j2",
        view=view,
        sections=sections(view),
        page_style=Markup(_page_style(view)),  # noqa: S704 - made of safe characters only
    )


def render_comparison(view: ComparisonView) -> str:
    """The page of a comparison without a gate; save it as UTF-8."""
    return _rendered("compare.html.j2", view=view)


def render_live(view: LiveView) -> str:
    """The page of a canary or a shadow; save it as UTF-8."""
    return _rendered("live.html.j2", view=view)


def _rendered(name: str, **values: object) -> str:
    from markupsafe import Markup

    style, script = _part("report.css"), _part("report.js")
    return _template(name).render(
        # The page's own style and script, not values: they must not be escaped.
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        script_hash=Markup(_script_hash(script)),  # noqa: S704
        **values,
    )


def sections(view: ReportView) -> tuple[Section, ...]:
    """The sections made of facts and tables, in reading order."""
    if not view.replayed:
        return (view.method,)
    return (
        view.traffic,
        view.parity,
        *((view.graph,) if view.graph else ()),
        view.fidelity,
        view.behaviour,
        view.latency,
        view.isolation,
        view.method,
    )


@cache
def _template(name: str) -> Template:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(_part),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Names in it are whatever a model's author chose; what is markup already is ours.
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    return environment.get_template(name)


@cache
def _part(name: str) -> str:
    return files("harness.report").joinpath("templates", name).read_text(encoding="utf-8")


def _script_hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _page_style(view: ReportView) -> str:
    """Repeats the banners' titles and the answer at the top of every printed page.

    CSS strings cannot be escaped by the template engine, so only characters that need no
    escaping are let through.
    """
    said = " · ".join([view.headline.word, *(banner.title for banner in view.banners)])
    safe = "".join(c if c.isalnum() or c in " ·,.-" else " " for c in said)
    return f'@page {{ @top-left {{ content: "{safe}"; font: 600 9pt system-ui, sans-serif; color: #525b67; }} }}'

"""A run folder's JSON files → report.html, summary.md, junit.xml and the command's last screen."""

from harness.report.compare_page import view_from_comparison
from harness.report.from_run import view_from_run
from harness.report.html import render_comparison, render_html, render_live
from harness.report.junit import render_junit
from harness.report.live_page import view_from_live
from harness.report.markdown import render_markdown
from harness.report.terminal import render_terminal
from harness.report.views import ReportView

__all__ = [
    "ReportView",
    "render_comparison",
    "render_html",
    "render_junit",
    "render_live",
    "render_markdown",
    "render_terminal",
    "view_from_comparison",
    "view_from_live",
    "view_from_run",
]

"""harness report."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.options import existing


@click.command(
    "report",
    short_help="Write a run's report again, or print its summary.",
    epilog="Example: harness report runs/demo/utc --format terminal",
)
@click.argument("run", type=click.Path(path_type=Path), callback=existing)
@click.option("--format", "form", type=click.Choice(["html", "markdown", "junit", "terminal", "all"]),
              default="all", show_default=True, help="What to write; terminal prints.")  # fmt: skip
def command(run: Path, form: str) -> int:
    """Make report.html, summary.md and junit.xml of the run folder RUN from its recorded evidence.

    RUN may be the folder of a canary or a shadow, also while it runs: then it is report.html alone.
    """
    from harness.pipeline.publish import write_reports

    click.echo(write_reports(run, form))
    return 0

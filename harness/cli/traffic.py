"""harness traffic show | seal."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.options import as_json_option, creatable, existing, quiet_option


@click.group("traffic", short_help="Look at recorded traffic; seal it into a window.")
def command() -> None:
    """Look at recorded traffic, or seal it into a window that gates can share."""


@command.command(
    "show",
    short_help="What a traffic folder or file holds.",
    epilog="Example: harness traffic show scenarios/traffic/flights",
)
@click.argument(
    "traffic", nargs=-1, required=True, type=click.Path(path_type=Path), callback=existing
)
@as_json_option
def show(traffic: tuple[Path, ...], as_json: bool) -> int:
    """Count, span, models, versions, codes, context values and labels of TRAFFIC."""
    from harness.pipeline.traffic import show_traffic

    shown = show_traffic(traffic)
    click.echo(shown.to_json() if as_json else shown.to_text())
    return 0


@command.command(
    "seal",
    short_help="Decode traffic once into a shuffled, hashed window.",
    epilog="Example: harness traffic seal scenarios/traffic/flights --out windows/flights",
)
@click.argument(
    "traffic", nargs=-1, required=True, type=click.Path(path_type=Path), callback=existing
)
@click.option(
    "--out",
    "-o",
    required=True,
    type=click.Path(path_type=Path),
    callback=creatable,
    help="Window folder to create.",
)
@as_json_option
@quiet_option
def seal(traffic: tuple[Path, ...], out: Path, as_json: bool, quiet: bool) -> int:
    """Seal TRAFFIC into the window folder OUT; prints its hash and what could not be sealed."""
    from harness.cli.terminal import ProgressBar
    from harness.pipeline.traffic import seal_traffic

    with ProgressBar(quiet=quiet or as_json) as progress:
        sealed = seal_traffic(traffic, out, listener=progress)
    click.echo(sealed.to_json() if as_json else sealed.to_text())
    return 0

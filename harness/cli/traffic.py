"""harness traffic show | seal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import PLACE, as_json_option, creatable, existing, quiet_option
from harness.core.places import Place

if TYPE_CHECKING:
    from harness.store.partitions import TrafficSelection

_TRAFFIC = click.argument(
    "traffic", nargs=-1, required=True, type=PLACE, callback=existing, metavar="TRAFFIC..."
)


def _selected(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--until", metavar="TIME", help="Only requests before (ISO 8601)."),
        click.option("--since", metavar="TIME", help="Only requests from then on (ISO 8601)."),
        click.option("--model", metavar="NAME", help="Only requests to this model."),
    ):
        function = option(function)
    return function


def _selection(model: str | None, since: str | None, until: str | None) -> TrafficSelection | None:
    if model is None and since is None and until is None:
        return None
    from harness.core.clock import ts_ns_from_iso
    from harness.store.partitions import TrafficSelection

    return TrafficSelection(
        model=model,
        since_ns=None if since is None else ts_ns_from_iso(since, "--since"),
        until_ns=None if until is None else ts_ns_from_iso(until, "--until"),
    )


@click.group("traffic", short_help="Look at recorded traffic; seal it into a window.")
def command() -> None:
    """Look at recorded traffic, or seal it into a window that gates can share.

    TRAFFIC is a folder or file here, or a prefix of an S3-compatible object store:
    s3://bucket/prefix?endpoint=https://host:9000&region=NAME, with credentials from the usual
    environment variables (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE, AWS_CA_BUNDLE).
    """


@command.command(
    "show",
    short_help="What a traffic folder or file holds.",
    epilog="Example: harness traffic show scenarios/traffic/flights",
)
@_TRAFFIC
@_selected
@as_json_option
def show(
    traffic: tuple[Place, ...],
    model: str | None,
    since: str | None,
    until: str | None,
    as_json: bool,
) -> int:
    """Count, span, models, versions, codes, context values and labels of TRAFFIC."""
    from harness.pipeline.traffic import show_traffic

    shown = show_traffic(traffic, _selection(model, since, until))
    click.echo(shown.to_json() if as_json else shown.to_text())
    return 0


@command.command(
    "seal",
    short_help="Decode traffic once into a shuffled, hashed window.",
    epilog="Example: harness traffic seal scenarios/traffic/flights --out windows/flights",
)
@_TRAFFIC
@click.option(
    "--out",
    "-o",
    required=True,
    type=click.Path(path_type=Path),
    callback=creatable,
    help="Window folder to create.",
)
@_selected
@as_json_option
@quiet_option
def seal(
    traffic: tuple[Place, ...],
    out: Path,
    model: str | None,
    since: str | None,
    until: str | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Seal TRAFFIC into the window folder OUT; prints its hash and what could not be sealed."""
    from harness.cli.terminal import ProgressBar
    from harness.pipeline.traffic import seal_traffic

    selection = _selection(model, since, until)
    with ProgressBar(quiet=quiet or as_json) as progress:
        sealed = seal_traffic(traffic, out, selection=selection, listener=progress)
    click.echo(sealed.to_json() if as_json else sealed.to_text())
    return 0

"""harness golden make."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.options import (
    PLACE,
    allow_lower_isolation_option,
    cache_option,
    existing,
    quiet_option,
    registry_option,
)
from harness.cli.terminal import ProgressBar
from harness.core.places import Place


@click.group("golden", short_help="Log a version's golden rows, which gates check first.")
def command() -> None:
    """Golden rows: inputs, features and outputs of a version, logged when it is trained."""


@command.command(
    "make",
    short_help="Run a version over some rows and log what it computes with it.",
    epilog="Example: harness golden make models/flights/v2.onnx --inputs scenarios/traffic/flights "
    "--out v2.golden.npz",
)
@click.argument("model")
@click.option(
    "--inputs", "-i", multiple=True, required=True, type=PLACE, callback=existing,
    help="Traffic folder, sealed window, .npz, .parquet or .jsonl; repeatable.",
)  # fmt: skip
@click.option("--out", "-o", type=click.Path(path_type=Path),
              help="File to write (default: NAME.golden.npz beside NAME.onnx, golden.npz in a model folder).")  # fmt: skip
@click.option("--log-to", metavar="VERSION",
              help="Log them as an artefact of this registered version (models:/NAME/VERSION), in place of a file.")  # fmt: skip
@click.option("--rows", type=click.IntRange(min=1), default=64, show_default=True,
              help="Most requests to log.")  # fmt: skip
@allow_lower_isolation_option
@registry_option
@cache_option
@quiet_option
def make(
    model: str,
    inputs: tuple[Place, ...],
    out: Path | None,
    log_to: str | None,
    rows: int,
    allow_lower_isolation: bool,
    registry: str | None,
    cache: Path | None,
    quiet: bool,
) -> int:
    """Run MODEL over the inputs and log what it takes, computes and answers."""
    from harness.pipeline.golden import make_golden

    with ProgressBar(quiet=quiet) as progress:
        place = make_golden(
            model, inputs=inputs, out=out, log_to=log_to, rows=rows, registry_uri=registry,
            cache_dir=cache, allow_lower_isolation=allow_lower_isolation, listener=progress,
        )  # fmt: skip
    click.echo(f"{place}: golden rows of {model}")
    return 0

"""harness compare."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.options import (
    allow_lower_isolation_option,
    as_json_option,
    cache_option,
    existing,
    quiet_option,
    registry_option,
)


@click.command(
    "compare",
    short_help="Parity of two model files on given inputs; no registry, no policy.",
    epilog="Example: harness compare models/flights/v2.onnx models/flights/utc_hour.onnx "
    "--inputs scenarios/traffic/flights",
)
@click.argument("old")
@click.argument("new")
@click.option(
    "--inputs", "-i", multiple=True, required=True, type=click.Path(path_type=Path), callback=existing,
    help="Traffic folder, sealed window, .npz, .parquet or .jsonl; repeatable.",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), default=20_000, show_default=True,
              help="Most requests to compare, drawn at random.")  # fmt: skip
@click.option("--map", "mapping", multiple=True, metavar="KIND:OLD=NEW",
              help="Names that differ, e.g. inputs:age=age_years; KIND is inputs, outputs or tensors.")  # fmt: skip
@allow_lower_isolation_option
@registry_option
@cache_option
@as_json_option
@quiet_option
def command(
    old: str,
    new: str,
    inputs: tuple[Path, ...],
    limit: int,
    mapping: tuple[str, ...],
    allow_lower_isolation: bool,
    registry: str | None,
    cache: Path | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Compare the outputs and features of OLD and NEW on the same inputs.

    Exit codes: 0 equal within the floor, 1 diverged (also: one side fails where the other answers),
    2 not comparable or wrong usage, 4 the comparison itself failed.
    """
    from harness.cli.terminal import ProgressBar
    from harness.pipeline.compare import compare_models

    with ProgressBar(quiet=quiet or as_json) as progress:
        result = compare_models(
            old, new, inputs=inputs, limit=limit, mapping=mapping, registry_uri=registry,
            cache_dir=cache, allow_lower_isolation=allow_lower_isolation, listener=progress,
        )  # fmt: skip
    click.echo(result.to_json() if as_json else result.to_text())
    return result.exit_code

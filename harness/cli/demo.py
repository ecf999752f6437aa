"""harness demo."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.options import as_json_option, cache_option, creatable, quiet_option


@click.command(
    "demo",
    short_help="The whole story on real recorded flights: a good retrain and a broken one.",
    epilog="Example: harness demo --out runs/demo",
)
@click.option("--out", "-o", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True, callback=creatable,
              help="Folder for the registry and the two runs; replaced when it is an earlier demo.")  # fmt: skip
@cache_option
@as_json_option
@quiet_option
def command(out: Path, cache: Path | None, as_json: bool, quiet: bool) -> int:
    """Register three versions of a flight-delay model, gate a good retrain and one with a planted
    fault on recorded traffic, then let the delayed labels in and check both verdicts.

    Exit code 0 when the verdicts are the expected PROMOTE and ROLLBACK, 4 otherwise.
    """  # noqa: D205 - help text
    from harness.cli.terminal import ProgressBar
    from harness.pipeline.demo import run_demo

    def say(text: str) -> None:
        if not as_json:
            click.echo(text)

    with ProgressBar(quiet=quiet or as_json) as progress:
        result = run_demo(out, cache_dir=cache, listener=progress, say=say)
    if as_json:
        click.echo(result.to_json())
    return result.exit_code

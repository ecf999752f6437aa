"""harness scenario list | run."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.options import as_json_option, cache_option, creatable, quiet_option


@click.group("scenario", short_help="Planted faults with known answers: list them, run them.")
def command() -> None:
    """Scenarios: two versions, a window, a policy and the decision that must come out."""


@command.command("list", short_help="Every scenario and its expected decision.",
                 epilog="Example: harness scenario list")  # fmt: skip
@as_json_option
def list_(as_json: bool) -> int:
    """Every scenario with the decision and the finding it expects."""
    from harness.pipeline.scenario import list_scenarios

    listed = list_scenarios()
    click.echo(listed.to_json() if as_json else listed.to_text())
    return 0


@command.command("run", short_help="Run scenarios and check what they expect.",
                 epilog="Example: harness scenario run utc-hour-retrain; harness scenario run --all")  # fmt: skip
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Run every scenario.")
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path),
    callback=creatable,
    help="Folder for the run folders (default: runs/scenarios).",
)
@cache_option
@as_json_option
@quiet_option
def run(
    names: tuple[str, ...],
    everything: bool,
    out: Path | None,
    cache: Path | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Run the scenarios NAMES. Exit 0: all as expected; 1: some not; 2: unknown name."""
    from harness.cli.terminal import ProgressBar
    from harness.pipeline.scenario import run_scenarios

    if bool(names) == everything:
        message = "name the scenarios to run, or give --all (see harness scenario list)"
        raise click.UsageError(message)
    with ProgressBar(quiet=quiet or as_json) as progress:
        outcome = run_scenarios(names, out=out, cache_dir=cache, listener=progress)
    click.echo(outcome.to_json() if as_json else outcome.to_text())
    return 0 if outcome.all_as_expected else 1

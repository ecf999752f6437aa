"""harness judge."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.options import as_json_option, creatable, existing


@click.command(
    "judge",
    short_help="A sequential verdict on observations you already have.",
    epilog="Example: harness judge scenarios/tables/score-shift.csv "
    "--policy scenarios/policies/table.yaml",
)
@click.argument("table", type=click.Path(path_type=Path), callback=existing)
@click.option(
    "--policy", "-p", required=True, type=click.Path(path_type=Path), callback=existing,
    help="Policy file (YAML); needs only `version` and `guardrails`.",
)  # fmt: skip
@click.option("--population", type=click.IntRange(min=1), metavar="N",
              help="The rows are a random draw from a window of N requests.")  # fmt: skip
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), callback=creatable,
    help="Folder to create for evidence, report.html and junit.xml (default: none is written).",
)  # fmt: skip
@as_json_option
def command(
    table: Path, policy: Path, population: int | None, out: Path | None, as_json: bool
) -> int:
    """Judge TABLE, a .parquet or .csv file with one row a request in arrival order.

    Each guardrail of the policy reads one column: {name, column, range, margin, direction}.

    Exit codes: 0 PROMOTE, 1 ROLLBACK, 2 usage or configuration, 3 HOLD, 4 the gate itself failed.
    """
    from harness.pipeline.judge_table import judge_table

    result = judge_table(table, policy, population, out=out)
    click.echo(result.to_json() if as_json else result.to_text())
    return result.exit_code

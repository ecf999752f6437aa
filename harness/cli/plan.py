"""harness plan."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.options import PLACE, as_json_option, creatable, existing
from harness.core.places import Place


@click.command(
    "plan",
    short_help="How many requests a verdict needs; the smallest harm that traffic can show.",
    epilog="Example: harness plan --policy scenarios/policies/table.yaml "
    "--traffic scenarios/tables/score-shift.csv",
)
@click.option(
    "--policy", "-p", required=True, type=click.Path(path_type=Path), callback=existing,
    help="Policy file (YAML), of a gate or of harness judge.",
)  # fmt: skip
@click.option(
    "--traffic", "-t", multiple=True, type=PLACE, callback=existing,
    help="Traffic at hand: folders or a sealed window, or a table for a policy over columns.",
)  # fmt: skip
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), callback=creatable,
    help="Folder to create for plan.json, plan.txt and plan.svg, the power against requests.",
)  # fmt: skip
@click.option(
    "--earlier", metavar="RUN", type=click.Path(path_type=Path), callback=existing,
    help="Run folder of an earlier gate: how its values spread is planned with.",
)  # fmt: skip
@as_json_option
def command(
    policy: Path, traffic: tuple[Place, ...], earlier: Path | None, out: Path | None, as_json: bool
) -> int:
    """Say how many requests each guardrail of a policy needs, which one binds, and what is at hand.

    Exit codes: 0 done, 2 usage or configuration, 4 the planning itself failed.
    """
    from harness.pipeline.plan import plan

    given = [t if isinstance(t, Path) else str(t) for t in traffic]
    result = plan(policy, given, earlier=earlier, out=out)
    click.echo(result.to_json() if as_json else result.to_text())
    return 0

"""harness gate."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.options import (
    PLACE,
    allow_lower_isolation_option,
    as_json_option,
    cache_option,
    creatable,
    existing,
    quiet_option,
    registry_option,
)
from harness.core.places import Place


@click.command(
    "gate",
    short_help="Replay traffic through two versions and decide: PROMOTE, ROLLBACK or HOLD.",
    epilog="Example: harness gate models:/flights@champion models:/flights@challenger "
    "--traffic scenarios/traffic/flights --policy scenarios/policies/flights-retrain.yaml "
    "--as-of 2013-11-01T00:00:00Z",
)
@click.argument("baseline", required=False)
@click.argument("candidate", required=False)
@click.option(
    "--traffic", "-t", multiple=True, type=PLACE, callback=existing,
    help="Traffic folder (here or s3://bucket/prefix), sealed window, .npz, .parquet or .jsonl; repeatable.",
)  # fmt: skip
@click.option(
    "--labels", "-l", multiple=True, type=PLACE, callback=existing,
    help="Label files or folders besides the traffic folder's own labels/; repeatable.",
)  # fmt: skip
@click.option(
    "--as-of", metavar="TIME", help="Decide with what was known then (ISO 8601; default: now)."
)
@click.option(
    "--policy", "-p", type=click.Path(path_type=Path), callback=existing, help="Policy file (YAML)."
)
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path),
    callback=creatable,
    help="Run folder to create (default: runs/<time>-<name>).",
)
@click.option("--resume", metavar="RUN", type=click.Path(path_type=Path), callback=existing,
              help="Go on with an interrupted run; its own settings hold.")  # fmt: skip
@allow_lower_isolation_option
@registry_option
@cache_option
@as_json_option
@quiet_option
def command(
    baseline: str | None,
    candidate: str | None,
    traffic: tuple[Place, ...],
    labels: tuple[Place, ...],
    as_of: str | None,
    policy: Path | None,
    out: Path | None,
    resume: Path | None,
    allow_lower_isolation: bool,
    registry: str | None,
    cache: Path | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Replay recorded traffic through BASELINE and CANDIDATE and decide.

    BASELINE and CANDIDATE: models:/name@alias, models:/name/3, a .onnx file or an MLflow model folder.

    Exit codes: 0 PROMOTE, 1 ROLLBACK, 2 usage or configuration, 3 HOLD, 4 the gate itself failed.
    """
    from harness.cli.terminal import ProgressBar
    from harness.pipeline.gate import resume_gate, run_gate

    with ProgressBar(quiet=quiet or as_json) as progress:
        if resume is not None:
            given = [n for n, v in (("BASELINE", baseline), ("--traffic", traffic), ("--labels", labels),
                                    ("--policy", policy), ("--out", out), ("--as-of", as_of)) if v]  # fmt: skip
            if given:
                message = (
                    f"--resume goes on with the run's own settings: leave out {', '.join(given)}"
                )
                raise click.UsageError(message)
            result = resume_gate(resume, listener=progress)
        else:
            missing = [n for n, v in (("BASELINE", baseline), ("CANDIDATE", candidate),
                                      ("--traffic", traffic), ("--policy", policy)) if not v]  # fmt: skip
            if missing or baseline is None or candidate is None or policy is None:
                message = f"missing {', '.join(missing)} (see harness gate --help)"
                raise click.UsageError(message)
            result = run_gate(
                baseline, candidate, traffic=traffic, policy=policy, labels=labels, as_of=as_of, out=out,
                registry_uri=registry, cache_dir=cache, allow_lower_isolation=allow_lower_isolation,
                listener=progress,
            )  # fmt: skip
    click.echo(result.to_json() if as_json else result.to_text())
    return result.exit_code

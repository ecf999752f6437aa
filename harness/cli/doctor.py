"""harness doctor."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.options import as_json_option, cache_option, registry_option


@click.command(
    "doctor",
    short_help="What this machine has and allows, and how to get more.",
    epilog="Example: harness doctor --registry sqlite:///mlflow.db",
)
@registry_option
@cache_option
@as_json_option
def command(registry: str | None, cache: Path | None, as_json: bool) -> int:
    """Check Python, packages, onnxruntime, the sandbox, the registry and the disk.

    Exit codes: 0 nothing stands in the way, 3 something needs attention before a gate can pass.
    """
    from harness.pipeline.doctor import doctor

    report = doctor(registry_uri=registry, cache_dir=cache)
    click.echo(report.to_json() if as_json else report.to_text())
    return report.exit_code

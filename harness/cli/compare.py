"""harness compare."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.options import (
    PLACE,
    allow_lower_isolation_option,
    as_json_option,
    cache_option,
    existing,
    quiet_option,
    registry_option,
    size,
    writable,
)
from harness.core.places import Place


@click.command(
    "compare",
    short_help="Parity of two model files on given inputs; no registry, no policy.",
    epilog="Example: harness compare models/flights/v2.onnx models/flights/utc_hour.onnx "
    """--inputs scenarios/traffic/flights

\b
More:
  harness compare old.onnx new.onnx -i inputs.npz --html differences.html
  harness compare old.onnx new.onnx -i inputs.parquet --map inputs:age=age_years --map tensors:km=distance_km
  harness compare old.onnx new.onnx -i inputs.npz --sandbox memory=8GiB --sandbox batch_deadline=60s
  harness compare old.onnx new.onnx -i inputs.npz --graph-requests 0 --json
""",
)
@click.argument("old")
@click.argument("new")
@click.option(
    "--inputs", "-i", multiple=True, required=True, type=PLACE, callback=existing,
    help="Traffic folder, sealed window, .npz, .parquet or .jsonl; repeatable.",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), default=20_000, show_default=True,
              help="Most requests to compare, drawn at random.")  # fmt: skip
@click.option("--map", "mapping", multiple=True, metavar="KIND:OLD=NEW|FILE",
              help="Names that differ, e.g. inputs:age=age_years; KIND is inputs, outputs or tensors; narrower:INPUT accepts that the new version takes fewer lengths of an input (a batch of 1, say); or a YAML file of a `mapping:`, as in a policy.")  # fmt: skip
@click.option("--sandbox", multiple=True, metavar="KEY=VALUE|FILE",
              help="What the versions' processes may take, e.g. memory=4GiB or batch_deadline=30s; or a YAML file with a `sandbox:`, such as a policy.")  # fmt: skip
@click.option("--graph-requests", type=click.IntRange(min=0), default=256, show_default=True,
              help="Requests on which every tensor of both graphs is compared, those that differ first; 0 = none.")  # fmt: skip
@click.option("--memory", default="256MiB", show_default=True, metavar="SIZE", callback=size,
              help="What the tensors of 64 of them may take; larger nets are compared by sketches first.")  # fmt: skip
@click.option("--graph-deadline", type=click.FloatRange(min=1), default=300, show_default=True, metavar="SECONDS",
              help="Time that comparing them may take; after it the graphs are said not to be compared.")  # fmt: skip
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), callback=writable,
              help="Write a page that draws the graph about the divergence.")  # fmt: skip
@allow_lower_isolation_option
@registry_option
@cache_option
@as_json_option
@quiet_option
def command(
    old: str,
    new: str,
    inputs: tuple[Place, ...],
    limit: int,
    mapping: tuple[str, ...],
    sandbox: tuple[str, ...],
    graph_requests: int,
    memory: int,
    graph_deadline: float,
    html: Path | None,
    allow_lower_isolation: bool,
    registry: str | None,
    cache: Path | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Compare the outputs and features of OLD and NEW on the same inputs, and show where the graphs part.

    Exit codes: 0 equal within the floor, 1 diverged (also: one side fails where the other answers),
    2 not comparable or wrong usage, 4 the comparison itself failed.
    """
    from harness.cli.terminal import ProgressBar
    from harness.core.interruption import stop_if_interrupted
    from harness.core.policies import GraphPolicy
    from harness.pipeline.compare import compare_models

    with ProgressBar(quiet=quiet or as_json) as progress:
        result = compare_models(
            old, new, inputs=inputs, limit=limit, mapping=mapping, sandbox=sandbox,
            looked_into=GraphPolicy(
                requests=graph_requests, memory_bytes=memory, deadline_s=graph_deadline
            ),
            registry_uri=registry,
            cache_dir=cache, allow_lower_isolation=allow_lower_isolation, listener=progress,
        )  # fmt: skip
    stop_if_interrupted()
    if html is not None:
        html.write_text(result.to_html(), encoding="utf-8")
    click.echo(result.to_json() if as_json else result.to_text())
    return result.exit_code

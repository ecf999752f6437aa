"""harness labels import | delay."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.options import PLACE, as_json_option, existing, writable
from harness.core.places import Place


@click.group("labels", short_help="Delayed labels: import them, see how long they take.")
def command() -> None:
    """Delayed labels beside recorded traffic.

    A label has three times: the request's, the labelled event's, and when it arrived. A gate uses only
    what had arrived by --as-of, and within the policy's maturity.
    """


_IMPORT_EXAMPLE = """Example: harness labels import outcomes.csv --to traffic --mapping labels.yaml

\b
A mapping:
  version: 1
  request_id: id
  label: {column: outcome, values: {late: 1, punctual: 0}}   # values: only for words; quote 'yes', 'no', numbers
  event_time: {column: asked, unit: ms}          # optional: else as the traffic says
  label_time: {column: landed, unit: iso}        # optional: else the arrival
  ingestion_time: {column: loaded, unit: iso}    # optional: else the file's time of change
"""


@command.command("import", short_help="Labels of other systems → traffic.", epilog=_IMPORT_EXAMPLE)
@click.argument("source", type=PLACE)
@click.option("--to", required=True, type=PLACE, help="The traffic's folder or s3://bucket/prefix.")
@click.option("--format", "kind", default="table", show_default=True, help="table or sagemaker.")
@click.option(
    "--mapping", type=click.Path(path_type=Path), callback=existing,
    help="A YAML file that says what the columns are (default: request_id, label, event_ts_ns, "
    "label_event_ts_ns, ingestion_ts_ns).",
)  # fmt: skip
@click.option(
    "--as-of", metavar="TIME", help="Count what lies later as in the future (default: now)."
)
@click.option(
    "--whole", is_flag=True,
    help="The last line of a CSV file counts also where it has no end of line. Else it may be cut off: it is counted "
    "as undecodable, and read again once the file has changed.",
)  # fmt: skip
@as_json_option
def import_command(
    source: Place,
    to: Place,
    kind: str,
    mapping: Path | None,
    as_of: str | None,
    whole: bool,
    as_json: bool,
) -> int:
    """Import the labels in SOURCE beside the traffic, and report how they join it.

    SOURCE: Parquet, CSV or JSON lines; or SageMaker's ground truth. Matched, unmatched, duplicate and
    conflicting labels are counted, and those in the future or before their event. Give the command
    again when there are new labels: none is taken twice.
    """
    from harness.pipeline.labels import import_labels

    report = import_labels(source, to, kind=kind, mapping=mapping, as_of=as_of, whole=whole)
    click.echo(report.to_json() if as_json else report.to_text())
    return 0


@command.command(
    "delay",
    short_help="How long labels take, and whether that changed.",
    epilog="Example: harness labels delay scenarios/traffic/flights --as-of 2013-11-01T00:00:00Z --by origin",
)
@click.argument(
    "traffic", nargs=-1, required=True, type=PLACE, callback=existing, metavar="TRAFFIC..."
)
@click.option(
    "--labels",
    "-l",
    multiple=True,
    type=PLACE,
    callback=existing,
    help="Label files besides the traffic's own; repeatable.",
)
@click.option("--as-of", metavar="TIME", help="With what was known then (ISO 8601; default: now).")
@click.option("--by", metavar="COLUMN", help="Compare version, model or a context column's values.")
@click.option(
    "--split", metavar="TIME", help="Compare the requests before with those from then on."
)
@click.option(
    "--svg",
    type=click.Path(path_type=Path),
    callback=writable,
    help="Draw the curves into this file.",
)
@as_json_option
def delay(
    traffic: tuple[Place, ...],
    labels: tuple[Place, ...],
    as_of: str | None,
    by: str | None,
    split: str | None,
    svg: Path | None,
    as_json: bool,
) -> int:
    """Show how many of TRAFFIC's requests have a label how long after they were made.

    Requests without a label yet are censored at --as-of (Kaplan and Meier's estimate); groups are
    compared by the log-rank test, and their ways from a label's event to its arrival by the
    Kolmogorov-Smirnov test.
    """
    from harness.pipeline.labels import label_delays

    found = label_delays(traffic, labels=labels, as_of=as_of, by=by, split=split, svg=svg)
    click.echo(found.to_json() if as_json else found.to_text())
    return 0

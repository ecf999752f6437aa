"""harness traffic show | seal | import | sink."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import (
    PLACE,
    address,
    allow_lower_isolation_option,
    as_json_option,
    checked_text,
    creatable,
    existing,
    quiet_option,
    registry_option,
    size,
)
from harness.core.places import Place

if TYPE_CHECKING:
    from harness.store.partitions import TrafficSelection

_TRAFFIC = click.argument(
    "traffic", nargs=-1, required=True, type=PLACE, callback=existing, metavar="TRAFFIC..."
)


def _selected(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--until", metavar="TIME", help="Only requests before (ISO 8601)."),
        click.option("--since", metavar="TIME", help="Only requests from then on (ISO 8601)."),
        click.option("--model", metavar="NAME", help="Only requests to this model."),
    ):
        function = option(function)
    return function


def _selection(model: str | None, since: str | None, until: str | None) -> TrafficSelection | None:
    if model is None and since is None and until is None:
        return None
    from harness.core.clock import ts_ns_from_iso
    from harness.store.partitions import TrafficSelection

    return TrafficSelection(
        model=None if model is None else checked_text("--model", model),
        since_ns=None if since is None else ts_ns_from_iso(since, "--since"),
        until_ns=None if until is None else ts_ns_from_iso(until, "--until"),
    )


@click.group(
    "traffic",
    short_help="Look at recorded traffic; seal it into a window; import logs of other systems.",
)
def command() -> None:
    """Look at recorded traffic, seal it into a window that gates can share, or make it from logs.

    TRAFFIC is a folder or file here, or a prefix of an S3-compatible object store:
    s3://bucket/prefix?endpoint=https://host:9000&region=NAME, with credentials from the usual
    environment variables (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE, AWS_CA_BUNDLE).
    """


@command.command(
    "show",
    short_help="What a traffic folder or file holds.",
    epilog="Example: harness traffic show scenarios/traffic/flights",
)
@_TRAFFIC
@_selected
@as_json_option
def show(
    traffic: tuple[Place, ...],
    model: str | None,
    since: str | None,
    until: str | None,
    as_json: bool,
) -> int:
    """Count, span, models, versions, codes, context values and labels of TRAFFIC."""
    from harness.pipeline.traffic import show_traffic

    shown = show_traffic(traffic, _selection(model, since, until))
    click.echo(shown.to_json() if as_json else shown.to_text())
    return 0


@command.command(
    "seal",
    short_help="Decode traffic once into a shuffled, hashed window.",
    epilog="Example: harness traffic seal scenarios/traffic/flights --out windows/flights",
)
@_TRAFFIC
@click.option(
    "--out",
    "-o",
    required=True,
    type=click.Path(path_type=Path),
    callback=creatable,
    help="Window folder to create.",
)
@_selected
@as_json_option
@quiet_option
def seal(
    traffic: tuple[Place, ...],
    out: Path,
    model: str | None,
    since: str | None,
    until: str | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Seal TRAFFIC into the window folder OUT; prints its hash and what could not be sealed."""
    from harness.cli.terminal import ProgressBar
    from harness.pipeline.traffic import seal_traffic

    selection = _selection(model, since, until)
    with ProgressBar(quiet=quiet or as_json) as progress:
        sealed = seal_traffic(traffic, out, selection=selection, listener=progress)
    click.echo(sealed.to_json() if as_json else sealed.to_text())
    return 0


def _known_format(_: click.Context, __: click.Parameter, value: str) -> str:
    """Says what a format is before a missing SOURCE is: most often the format was left out."""
    from harness.core.errors import UsageError, nearest
    from harness.pipeline.imports import FORMATS

    if value not in FORMATS:
        raise UsageError(
            value, f"is no format ({nearest(value, FORMATS)})",
            "Write harness traffic import FORMAT SOURCE --to TRAFFIC.",
        )  # fmt: skip
    return value


_IMPORT_EXAMPLES = """Example: harness traffic import table requests.csv --to traffic --mapping mapping.yaml

\b
More:
  harness traffic import kserve s3://logs/default/flights --to traffic --model models:/flights@champion
  harness traffic import sagemaker captures/ --to traffic --model models/flights/v1.onnx
  harness traffic import databricks payload_table/ --to traffic --model-name flights
  harness traffic import seldon topics/ --to s3://bucket/traffic

\b
A mapping for table:
  version: 1
  request_id: id
  time: {column: ts, unit: ms}              # s, ms, us, ns or iso
  model: flights                            # or {column: m}
  inputs: [{name: carrier, datatype: BYTES}, {name: distance, column: dist, datatype: FP32}]
  outputs: [{name: p, datatype: FP32}]      # optional
  latency: {column: took, unit: ms}         # optional, as are model_version: {column: v},
  status: {column: http, kind: http}        # (http, grpc, ok) and context: {origin: airport};
                                            # request: COLUMN, response: COLUMN for whole bodies
For other formats it has version, inputs and outputs only: `column` is the body's name for a value
(default: the tensor's), and values without names come in this order; `shape: [3]` of one row.
"""


@command.command(
    "import",
    short_help="Logs of KServe, SageMaker, Databricks/MLflow, Seldon or plain tables → traffic.",
    epilog=_IMPORT_EXAMPLES,
)
@click.argument("kind", metavar="FORMAT", callback=_known_format)
@click.argument("source", type=PLACE)
@click.option(
    "--to",
    required=True,
    type=PLACE,
    help="Traffic folder or s3://bucket/prefix; made when missing.",
)
@click.option(
    "--mapping", type=click.Path(path_type=Path), callback=existing,
    help="A YAML file: for table what its columns are, else names and types of the values in JSON and CSV "
    "bodies, where there is no --model.",
)  # fmt: skip
@click.option(
    "--model",
    metavar="MODEL",
    help="Reference whose signature says names and types of the values in JSON and CSV bodies.",
)
@click.option("--model-name", default="", help="Model name, for logs that have none.")
@click.option(
    "--wait", metavar="DURATION",
    help="Keep requests without an answer this long (by the logs' own time) before writing them as unanswered.  "
    "[default: 5m for kserve and seldon, else 0s]",
)  # fmt: skip
@click.option(
    "--max-record", default="64MiB", show_default=True, callback=size,
    help="Longer records are counted as oversized.",
)  # fmt: skip
@click.option(
    "--whole", is_flag=True,
    help="The last line of a CSV file counts also where it has no end of line. Else it may be cut off: it is counted "
    "as undecodable, and read again once the file has changed.",
)  # fmt: skip
@registry_option
@allow_lower_isolation_option
@as_json_option
@quiet_option
def import_command(
    kind: str,
    source: Place,
    to: Place,
    mapping: Path | None,
    model: str | None,
    model_name: str,
    wait: str | None,
    max_record: int,
    whole: bool,
    registry: str | None,
    allow_lower_isolation: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Make traffic of another system's logs.

    FORMAT: kserve (logger files: Parquet, CSV), sagemaker (data capture), databricks or mlflow
    (inference tables: Delta folder, Parquet, CSV, JSON lines), seldon (Kafka records as Parquet with
    key, value, topic, timestamp, or as .kcat files), table (JSON lines, CSV, Parquet with --mapping).

    Every record is counted: joined, one-sided, duplicate, late, oversized, undecodable, errors. What
    cannot be used goes to a quarantine file beside the traffic. Give the command again after an
    interruption, or when there are new logs: nothing is taken twice.
    """
    from harness.cli.terminal import ProgressBar
    from harness.core.clock import seconds_from_duration
    from harness.pipeline.imports import import_traffic

    with ProgressBar(quiet=quiet or as_json) as progress:
        report = import_traffic(
            kind, source, to, mapping=mapping, model=model,
            model_name=model_name, registry_uri=registry, whole=whole,
            wait_s=None if wait is None else seconds_from_duration(wait, "--wait"), most_record_bytes=max_record, allow_lower_isolation=allow_lower_isolation, listener=progress,
        )  # fmt: skip
    click.echo(report.to_json() if as_json else report.to_text())
    return 0


@command.command(
    "sink",
    short_help="Take KServe's logged requests and answers live, over HTTP.",
    epilog="Example: harness traffic sink --listen 0.0.0.0:8080 --to traffic --model models:/flights@champion",
)
@click.option(
    "--listen",
    required=True,
    metavar="HOST:PORT",
    callback=address,
    help="Where KServe's logger url points; port 0 = any.",
)
@click.option(
    "--to",
    required=True,
    type=PLACE,
    help="Traffic folder or s3://bucket/prefix; made when missing.",
)
@click.option(
    "--model",
    metavar="MODEL",
    help="Reference whose signature says names and types of the values in JSON bodies.",
)
@click.option(
    "--mapping", type=click.Path(path_type=Path), callback=existing,
    help="A YAML file that says them, where there is no --model; see harness traffic import --help.",
)  # fmt: skip
@click.option(
    "--wait",
    default="5m",
    show_default=True,
    metavar="DURATION",
    help="How long a request waits here for its answer, whatever its own time is; time in which the sink "
    "does not run is no waiting.",
)
@click.option(
    "--flush",
    default="1m",
    show_default=True,
    metavar="DURATION",
    help="How often what is whole is written.",
)
@click.option(
    "--max-record",
    default="64MiB",
    show_default=True,
    callback=size,
    help="Larger events are refused.",
)
@click.option(
    "--tls-cert",
    type=click.Path(),
    callback=existing,
    help="Certificate (PEM); without one plain HTTP.",
)
@click.option("--tls-key", type=click.Path(), callback=existing, help="Its key (PEM).")
@registry_option
@allow_lower_isolation_option
@as_json_option
def sink(
    listen: str,
    to: Place,
    model: str | None,
    mapping: Path | None,
    wait: str,
    flush: str,
    max_record: int,
    tls_cert: str | None,
    tls_key: str | None,
    registry: str | None,
    allow_lower_isolation: bool,
    as_json: bool,
) -> int:
    """Take CloudEvents of KServe's inference logger and write them as traffic, until SIGTERM or Ctrl-C.

    Each event is answered 200 when it is safely stored, 400 when it is none, 413 when it is too large,
    503 when too many wait or it cannot be stored: then the sender still has it. Health: GET /healthz,
    503 with the reason while events or traffic cannot be written.
    """
    from harness.core.clock import seconds_from_duration
    from harness.pipeline.imports import open_sink
    from harness.record.importers.sink import SinkOptions

    host, _, port = listen.rpartition(":")
    options = SinkOptions(
        host=host.strip("[]"), port=int(port), most_record_bytes=max_record, certificate=tls_cert or "",
        key=tls_key or "", wait_s=seconds_from_duration(wait, "--wait"),
        flush_s=seconds_from_duration(flush, "--flush"),
    )  # fmt: skip
    taker = open_sink(to, options, mapping=mapping, model=model, registry_uri=registry, allow_lower_isolation=allow_lower_isolation)  # fmt: skip
    click.echo(f"listening at {taker.address[0]}:{taker.address[1]}", err=True)
    with contextlib.suppress(KeyboardInterrupt):  # SIGTERM comes as one, too
        taker.wait()
    report = taker.close()
    if report is not None:
        click.echo(report.to_json() if as_json else report.to_text())
    return 0

"""harness record."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.entry import EXIT_FAILED
from harness.cli.options import PLACE, address, as_json_option, existing, size
from harness.cli.tls import client_tls, server_tls, tls_options
from harness.core.clock import seconds_from_duration
from harness.core.errors import UsageError
from harness.core.places import Place

if TYPE_CHECKING:
    from harness.record.session import RecordOptions

_LEAST_S, _MOST_S = 0.1, 366 * 86_400


def _duration(_: click.Context, parameter: click.Parameter, value: str) -> float:
    """Reads 5m in seconds."""
    found = seconds_from_duration(value, parameter.opts[-1])
    if found <= 0:
        raise UsageError(
            f"{parameter.opts[-1]} {value}", "needs to be above 0", "Write it like 5m."
        )
    return found


def _seconds(_: click.Context, parameter: click.Parameter, value: float) -> float:
    """Reads a number of seconds, from a tenth of one to a year."""
    if not _LEAST_S <= value <= _MOST_S:  # also what is no number
        raise UsageError(
            f"{parameter.opts[-1]} {value:g}",
            f"is not between {_LEAST_S:g} and {_MOST_S:,}",
            "Write it like 300.",
        )
    return value


@click.command(
    "record",
    short_help="A proxy before a model server that records what passes.",
    epilog="Example: harness record --listen 0.0.0.0:8081 --upstream 127.0.0.1:8001 --out traffic",
)
@click.option("--listen", required=True, metavar="HOST:PORT", callback=address,
              help="Serve clients there; port 0 = any free one, which is printed.")  # fmt: skip
@click.option("--upstream", required=True, metavar="HOST:PORT", callback=address,
              help="The model server (Open Inference protocol over gRPC).")  # fmt: skip
@click.option("--out", "-o", required=True, type=PLACE,
              help="Traffic folder, here or s3://bucket/prefix; made when missing, added to when there.")  # fmt: skip
@click.option("--name", default="rec", show_default=True,
              help="Prefix of the files; one for each recorder that writes to the same place.")  # fmt: skip
@click.option("--spool", type=click.Path(path_type=Path), default=None,
              help="Folder of this machine for what is not published yet (default: .recorder in --out).")  # fmt: skip
@click.option("--sample", type=float, default=1.0, show_default=True,
              help="Share of requests to keep, by a hash of their ids; failures are kept always.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sample.")
@click.option("--context", default="", metavar="NAMES",
              help="Columns to slice by, separated by commas: metadata, parameters or inputs of one value.")  # fmt: skip
@click.option("--redact", type=click.Path(path_type=Path), callback=existing,
              help="Rules (YAML): what is dropped, hashed or rounded before anything is written.")  # fmt: skip
@tls_options
@click.option("--upstream-authority", default="", metavar="NAME",
              help="Name that calls to the upstream carry, where an ingress routes by it (default: the client's).")  # fmt: skip
@click.option(
    "--metrics", metavar="HOST:PORT", callback=address, help="Serve Prometheus metrics there."
)
@click.option("--rotate-seconds", type=float, default=300.0, show_default=True, callback=_seconds,
              help="Publish a file at that age at the latest.")  # fmt: skip
@click.option("--rotate-bytes", default="128MiB", show_default=True, callback=size,
              help="Or at about that size.")  # fmt: skip
@click.option("--queue-bytes", default="64MiB", show_default=True, callback=size,
              help="What may wait to be written; more is dropped and counted.")  # fmt: skip
@click.option("--max-message", default="16MiB", show_default=True, callback=size,
              help="Larger requests and answers pass, and are counted, not recorded.")  # fmt: skip
@click.option("--grace", default="30s", show_default=True, callback=_duration,
              help="At the end: for calls under way, and then for writing.")  # fmt: skip
@as_json_option
def command(listen: str, out: Place, redact: Path | None, as_json: bool, **more: Any) -> int:  # noqa: ANN401 - read by name in _options
    """Serve the clients of a model server, pass every byte, and record requests with their answers.

    Clients connect to --listen instead of the server and notice nothing. SIGTERM or Ctrl-C ends it:
    calls under way finish, everything is written, the totals are printed."""  # noqa: D209 - help text
    from harness.pipeline.recording import record_traffic
    from harness.record.session import Passes, Started

    options = _options(listen, out, more)

    def started(found: Started) -> None:
        click.echo(f"listening on {listen.rpartition(':')[0]}:{found.port}", err=True)
        if found.passes is Passes.MESSAGES:
            click.echo(
                "passing messages, not bytes: the sides differ in TLS or in the name", err=True
            )
        if found.recovered.recovered or found.recovered.lost:
            click.echo(
                f"of the last recorder here: {found.recovered.recovered:,} exchanges recovered, "
                f"{found.recovered.lost:,} lost",
                err=True,
            )

    recorded = record_traffic(options, redact=redact, started=started)
    click.echo(recorded.to_json() if as_json else recorded.to_text())
    return 0 if recorded.totals.closed else EXIT_FAILED


def _options(listen: str, out: Place, given: dict[str, Any]) -> RecordOptions:
    from harness.record.recorder import QueueLimits
    from harness.record.session import RecordOptions

    if not re.fullmatch(r"[\w.-]+", given["name"]):
        raise UsageError(
            f"--name {given['name']}", "is no plain word", "Use letters, digits, dots and dashes."
        )
    return RecordOptions(
        listen=listen, upstream=given["upstream"], out=out, name=given["name"],
        spool=given["spool"], sample=given["sample"], seed=given["seed"],
        context=tuple(c.strip() for c in given["context"].split(",") if c.strip()),
        tls=server_tls(given), upstream_tls=client_tls(given),
        upstream_authority=given["upstream_authority"], metrics=given["metrics"] or "",
        rotate_s=given["rotate_seconds"], rotate_bytes=given["rotate_bytes"],
        limits=QueueLimits(bytes=given["queue_bytes"], message_bytes=given["max_message"]),
        grace_s=given["grace"],
    )  # fmt: skip

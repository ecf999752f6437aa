"""harness shadow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harness.cli.options import address, as_json_option, creatable, existing, finite, size
from harness.cli.tls import client_tls, server_tls, tls_options


@click.command("shadow", short_help="Serve the baseline, show copies to the candidate, compare.",
               epilog="Example: harness shadow --listen 0.0.0.0:8001 --baseline old:8001 "
                      "--candidate new:8001 --sample 0.1 --out shadow")  # fmt: skip
@click.option(
    "--listen",
    metavar="HOST:PORT",
    required=True,
    callback=address,
    help="Serve Open Inference clients here.",
)
@click.option(
    "--baseline",
    metavar="HOST:PORT",
    required=True,
    callback=address,
    help="Answers every request.",
)
@click.option(
    "--candidate",
    metavar="HOST:PORT",
    required=True,
    callback=address,
    help="Is asked the same, out of band.",
)
@click.option("--candidate-id", metavar="TEXT", default="",
              help="Its version or digest: a restart with another one is refused.")  # fmt: skip
@click.option(
    "--model",
    metavar="NAME",
    default="",
    help="Mirror only requests for this model (default: all).",
)
@click.option("--policy", "-p", type=click.Path(path_type=Path), callback=existing,
              help="Policy with a `live` section without steps (default: compare, decide nothing).")  # fmt: skip
@click.option("--out", "-o", type=click.Path(path_type=Path), callback=creatable, required=True,
              help="Folder for evidence and disagreements; given again, the shadow in it goes on.")  # fmt: skip
@click.option(
    "--sample",
    type=float,
    callback=finite,
    default=1.0,
    show_default=True,
    help="Share of the requests that is mirrored.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sample.")
@click.option("--concurrency", type=click.IntRange(1, 1024), default=8, show_default=True,
              help="Requests that the candidate works on at once.")  # fmt: skip
@click.option("--deadline", type=click.FloatRange(min=0.001), default=2.0, show_default=True,
              metavar="SECONDS", callback=finite, help="The candidate has so long for each.")  # fmt: skip
@click.option("--queue-bytes", default="64MiB", show_default=True, callback=size,
              help="What may wait for the candidate; the rest is dropped and counted.")  # fmt: skip
@click.option("--max-message", default="16MiB", show_default=True, callback=size,
              help="Larger requests are not mirrored; a larger answer of the candidate is a failure.")  # fmt: skip
@click.option("--keep", default="1GiB", show_default=True, callback=size,
              help="Room for disagreements, each with both answers; further ones are counted.")  # fmt: skip
@click.option("--redact", type=click.Path(path_type=Path), callback=existing,
              help="Rules (YAML): what is dropped, hashed or rounded before a disagreement is written.")  # fmt: skip
@click.option("--metrics", metavar="HOST:PORT", default="", callback=address,
              help="Serve Prometheus metrics there.")  # fmt: skip
@tls_options
@as_json_option
def command(
    listen: str, baseline: str, candidate: str, candidate_id: str, model: str, policy: Path | None, out: Path,
    sample: float, seed: int, concurrency: int, deadline: float, queue_bytes: int,
    max_message: int, keep: int, redact: Path | None, metrics: str, as_json: bool,
    **tls: Any,  # noqa: ANN401 - read by name in cli.tls
) -> int:  # fmt: skip
    """Serve the baseline to production and show a share of its requests to the candidate.

    Both answers are compared as `harness compare` compares outputs. Production waits for nothing of
    it: copies go through a bounded queue to a process of its own. Every disagreement is kept with both
    answers, as two traffic folders below OUT/disagreements. With a policy the paired guardrails of its
    `live` section are judged, too.

    Ends on SIGTERM or Ctrl-C. Exit codes: without a policy 0 equal, 1 different, 2 nothing compared or
    usage; with one 0 PROMOTE, 1 ROLLBACK, 2 usage, 3 HOLD or no verdict yet; 4 the shadow itself failed.
    A start on the folder of an earlier one goes on from its counts.
    """
    from harness.live.shadow import ShadowOptions, serve_shadow
    from harness.pipeline.redaction import read_redaction

    found = None if redact is None else read_redaction(redact)
    options = ShadowOptions(
        listen=listen, baseline=baseline, candidate=candidate, candidate_id=candidate_id,
        policy=policy, out=out, sample=sample, seed=seed, concurrency=concurrency,
        deadline_s=deadline, queue_bytes=queue_bytes, message_bytes=max_message, keep_bytes=keep,
        model=model, metrics=metrics, rules=found.rules if found else (), key=found.key if found else b"",
        tls=server_tls(tls), upstream_tls=client_tls(tls),
    )  # fmt: skip
    result = serve_shadow(options, lambda line: click.echo(line, err=True))
    click.echo(result.to_json() if as_json else result.to_text())
    return result.exit_code

"""harness canary."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import address, as_json_option, creatable, existing
from harness.cli.printing import Printer
from harness.cli.tls import client_tls, server_tls, tls_options

if TYPE_CHECKING:
    from harness.core.live import Standing

_HERE = "-"
"""`--follow` without a folder."""
_EPILOG = """Example: harness canary --listen 0.0.0.0:8001 --baseline old:8001 --candidate new:8001
--policy policy.yaml --out canary

Follow it: harness canary --follow canary

Somebody else splits: harness canary --judge-listen 0.0.0.0:9001 --policy policy.yaml --out canary
"""


def _finite(_: click.Context, __: click.Parameter, value: float) -> float:
    # NaN is in no range, and click lets it through.
    if not math.isfinite(value):
        raise click.BadParameter(f"{value} is no number of seconds.")
    return value


@click.command("canary", short_help="Split live traffic, judge as it goes, roll back by itself.",
               epilog=_EPILOG)  # fmt: skip
@click.option("--listen", metavar="HOST:PORT", default="", callback=address,
              help="Serve Open Inference clients here, from either version.")  # fmt: skip
@click.option(
    "--baseline",
    metavar="HOST:PORT",
    default="",
    callback=address,
    help="The version in production.",
)
@click.option(
    "--candidate", metavar="HOST:PORT", default="", callback=address, help="The new version."
)
@click.option("--candidate-id", metavar="TEXT", default="",
              help="Its version or digest: a restart with another one is refused.")  # fmt: skip
@click.option("--model", metavar="NAME", default="",
              help="Split only requests for this model (default: all); others go to the baseline.")  # fmt: skip
@click.option("--policy", "-p", type=click.Path(path_type=Path), callback=existing,
              help="Policy with a `live` section that has `steps`.")  # fmt: skip
@click.option("--out", "-o", type=click.Path(path_type=Path), callback=creatable,
              help="Folder for evidence and state; given again, the canary in it goes on.")  # fmt: skip
@click.option(
    "--seed",
    metavar="TEXT",
    default="",
    help="Of the split (default: a new secret one, kept in the folder).",
)
@click.option("--labels", type=click.Path(path_type=Path),
              help='JSON lines that are appended to: {"unit": "u17", "label": 1}; there at the first start.')  # fmt: skip
@click.option("--judge-listen", metavar="HOST:PORT", default="", callback=address,
              help="Serve harness.v1.CanaryJudge (protos/canary_judge.proto): Watch, and without --listen Observe.")  # fmt: skip
@click.option("--metrics", metavar="HOST:PORT", default="", callback=address,
              help="Serve Prometheus metrics there.")  # fmt: skip
@click.option("--look-every", type=click.FloatRange(min=0.01, max=60.0), callback=_finite, default=0.5, show_default=True,
              metavar="SECONDS", help="Between two looks at the evidence.")  # fmt: skip
@click.option("--exit-when-decided", is_flag=True,
              help="End with the verdict (default: serve on, from the version that it chose).")  # fmt: skip
@click.option("--follow", is_flag=False, flag_value=_HERE, default=None, metavar="[DIR]",
              help="Print what is said, as it comes: of the canary that is served, or with DIR and "
                   "nothing else of the one in that folder, until its verdict.")  # fmt: skip
@tls_options
@as_json_option
def command(
    listen: str, baseline: str, candidate: str, candidate_id: str, model: str, policy: Path | None,
    out: Path | None, seed: str, labels: Path | None, judge_listen: str, metrics: str, look_every: float,
    exit_when_decided: bool, follow: str | None, as_json: bool,
    **tls: Any,  # noqa: ANN401 - read by name in cli.tls
) -> int:  # fmt: skip
    """Split live traffic between two versions by unit, judge it as it goes, and act on the verdict.

    A ROLLBACK, or a HOLD that is final, sends the very next request to the baseline; a PROMOTE
    sends all to the candidate. A request that names no unit is answered by the baseline. What the
    candidate fails goes to the client as it is, unless the policy says `on_failure: baseline`.

    Exit codes when it ends: 0 PROMOTE, 1 ROLLBACK, 2 usage or configuration, 3 HOLD or no verdict
    yet, 4 the canary itself failed.
    """
    if follow not in {None, _HERE}:
        return _follow(Path(str(follow)), as_json=as_json)
    _check(policy, out, listen, judge_listen, (baseline, candidate))
    from harness.live.serving import EXIT_CODES, CanaryOptions, serve_canary, serve_judge

    options = CanaryOptions(
        policy=policy or Path(), out=out or Path(), seed=seed, listen=listen, baseline=baseline,
        candidate=candidate, candidate_id=candidate_id, labels=labels, judge_listen=judge_listen, metrics=metrics,
        batch_s=look_every, exit_when_decided=exit_when_decided, model=model, tls=server_tls(tls),
        upstream_tls=client_tls(tls),
    )  # fmt: skip

    def told(line: str) -> None:
        click.echo(line, err=True)

    printer = Printer(lambda n: _dropped(n, as_json=as_json))

    def heard(event: dict[str, Any]) -> None:
        if follow is not None:
            printer.line(_shown(event, as_json=as_json))

    standing = (
        serve_canary(options, told, heard=heard) if listen else serve_judge(options, told, heard)
    )
    # Who follows in JSON has it in the last event.
    if not (follow and as_json):
        printer.line(_said(standing, as_json=as_json))
    if unread := printer.close():
        told(f"canary: {unread:,} lines were not printed: nobody reads them")
    return EXIT_CODES[standing.decision]


def _check(
    policy: Path | None, out: Path | None, listen: str, judge_listen: str, versions: tuple[str, str]
) -> None:
    """Refuses a command that serves nothing, or lacks what it needs."""
    for option, value in (("--policy", policy), ("--out", out)):
        if value is None:
            raise click.UsageError(f"Missing option '{option}', or --follow DIR.")
    if not listen and not judge_listen:
        raise click.UsageError("Give --listen to serve clients, or --judge-listen to judge only.")
    if listen and not all(versions):
        raise click.UsageError("--listen needs --baseline and --candidate.")
    if listen and versions[0] == versions[1]:
        click.echo(
            f"canary: --baseline and --candidate are the same address ({versions[0]}): one version is "
            "compared with itself",
            err=True,
        )


def _said(standing: Standing, *, as_json: bool) -> str:
    from harness.core.jsonable import jsonable

    if as_json:
        return json.dumps(jsonable(standing), indent=2)
    lines = [f"{standing.decision.value}: {standing.explanation}"]
    return "\n".join([*lines, *(f"  not measured: {note}" for note in standing.notes)])


def _shown(event: dict[str, Any], *, as_json: bool) -> str:
    from harness.live.follow import text_of

    return json.dumps(event, ensure_ascii=False) if as_json else text_of(event)


def _dropped(lines: int, *, as_json: bool) -> str:
    if as_json:
        return json.dumps({"event": "dropped", "lines": lines})
    return f"… {lines:,} lines were dropped here: they were not read in time"


def _follow(path: Path, *, as_json: bool) -> int:
    import time

    from harness.core.verdicts import Decision
    from harness.live.follow import follow
    from harness.live.serving import EXIT_CODES

    def wait() -> bool:
        time.sleep(0.2)
        return True

    def said(line: str) -> None:
        click.echo(f"canary: {line}", err=True)

    last: dict[str, Any] = {}
    for last in follow(path, wait, said):
        click.echo(_shown(last, as_json=as_json))
    return EXIT_CODES[Decision(str(last["decision"]))]

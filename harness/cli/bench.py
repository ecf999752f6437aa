"""harness bench."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.options import as_json_option, cache_option


@click.group("bench", short_help="Figures with their limits, measured here and now.")
def command() -> None:
    """Benchmarks: each prints a figure beside the limit it must keep, from the same run."""


@command.command("gate", short_help="Gate throughput against bare onnxruntime; memory; profile.",
                 epilog="Example: harness bench gate --model logistic --requests 200000")  # fmt: skip
@click.option("--model", "models", type=click.Choice(["logistic", "boosted", "heavy"]), multiple=True,
              help="What is replayed against itself: about 1.3 µs, 5 µs and 5 ms a row; may be repeated; all by default.")  # fmt: skip
@click.option("--requests", type=click.IntRange(min=2048), default=None,
              help="Requests in the window, in place of a million (heavy: 2,048).")  # fmt: skip
@click.option("--pairs", type=click.IntRange(min=1), default=6, show_default=True,
              help="Gates with bare runs beside them, of each model; the median ratio is judged, and six are the "
                   "fewest that give a 95 % interval.")  # fmt: skip
@click.option("--memory", is_flag=True,
              help="Compare the parent's peak memory at 100,000 and a million requests: alone, or with --model "
                   "after these. A call without any option does all.")  # fmt: skip
@click.option("--long", is_flag=True, help="With --memory: ten million, too.")
@cache_option
@as_json_option
def gate(models: tuple[str, ...], requests: int | None, pairs: int, memory: bool, long: bool,
         cache: Path | None, as_json: bool) -> int:  # fmt: skip
    """Throughput of a whole gate as a ratio to bare InferenceSession.run of the same batches."""
    from harness.bench.gate import bench_gate
    from harness.bench.gate_models import WEIGHTS

    chosen = models or (() if memory else tuple(WEIGHTS))
    everything = not models and requests is None
    figures = bench_gate(chosen, requests=requests, pairs=pairs, memory=memory or everything,
                         long=long, cache_dir=cache)  # fmt: skip
    click.echo(figures.to_json() if as_json else figures.to_text())
    return 0 if figures.within_limits else 1


@command.command("start", short_help="CPU time of harness --help above bare Python.",
                 epilog="Example: harness bench start")  # fmt: skip
@as_json_option
def start(as_json: bool) -> int:
    """CPU seconds of `harness --help` and of one gate's fixed cost, beside their limits."""
    from harness.bench.start import bench_start

    figures = bench_start()
    click.echo(figures.to_json() if as_json else figures.to_text())
    return 0 if figures.within_limits else 1


@command.command("judge", short_help="Requests to decide beside other tests; speed; errors.",
                 epilog="Example: harness bench judge --figure judge.svg")  # fmt: skip
@click.option(
    "--long",
    is_flag=True,
    help="Also every test under every condition at the margin (half an hour of CPU time).",
)
@click.option("--figure", type=click.Path(path_type=Path, dir_okay=False), default=None,
              help="Write the efficiency table as an SVG figure.")  # fmt: skip
@as_json_option
def judge(long: bool, figure: Path | None, as_json: bool) -> int:
    """Mean requests to a decision as multiples of the information bound, and speed beside cumsum."""
    from harness.bench.bars import bars_svg
    from harness.bench.judge import bench_judge

    figures = bench_judge(long=long, told=lambda line: click.echo(line, err=True))
    if figure is not None:
        figure.write_text(bars_svg(figures, "× bound"), encoding="utf-8")
    click.echo(figures.to_json() if as_json else figures.to_text())
    return 0 if figures.within_limits else 1


@command.command("sandbox", short_help="Sandboxed throughput to in-process; echoes; starts.",
                 epilog="Example: harness bench sandbox")  # fmt: skip
@as_json_option
def sandbox(as_json: bool) -> int:
    """Throughput of a sandboxed session as a ratio to the same one in-process, in the same run."""
    from harness.bench.sandbox import bench_sandbox

    figures = bench_sandbox()
    click.echo(figures.to_json() if as_json else figures.to_text())
    return 0 if figures.within_limits else 1


@command.command("poison", short_help="Time until poison requests are found, and a hang is ended.",
                 epilog="Example: harness bench poison")  # fmt: skip
@as_json_option
def poison(as_json: bool) -> int:
    """Seconds to find one poison request in 65,536 and three in 1,024, and to end a hang."""
    from harness.bench.poison import bench_poison

    figures = bench_poison()
    click.echo(figures.to_json() if as_json else figures.to_text())
    return 0 if figures.within_limits else 1


@command.command("parity", short_help="Cost of looking into graphs; single operators, located.",
                 epilog="Example: harness bench parity --all")  # fmt: skip
@click.option("--all", "whole", is_flag=True,
              help="All single-operator cases of the installed onnx, not every twentieth (some minutes).")  # fmt: skip
@click.option("--seed", type=int, default=7, show_default=True, help="Of the alterations.")
@as_json_option
def parity(whole: bool, seed: int, as_json: bool) -> int:
    """Matching, probing and memory beside their limits; what single-operator cases show."""
    from harness.bench.parity import EVERY, bench_parity

    figures, counts = bench_parity(every=1 if whole else EVERY, seed=seed)
    click.echo(figures.to_json() if as_json else figures.to_text())
    for wrong in counts.wrong:
        click.echo(f"wrong: {wrong}", err=True)
    return 0 if figures.within_limits else 1


@command.command("canary", short_help="False rollbacks, found harms and what they cost, by simulation.",
                 epilog="Example: harness bench canary --runs 50")  # fmt: skip
@click.option("--runs", type=click.IntRange(min=1), default=200, show_default=True,
              help="Simulated canaries of each kind.")  # fmt: skip
@click.option("--seed", type=int, default=6, show_default=True, help="Of the first one.")
@as_json_option
def canary(runs: int, seed: int, as_json: bool) -> int:
    """Whole canaries in process: harmless ones, and one planted harm of each kind."""
    from harness.bench.canary import bench_canary

    figures = bench_canary(runs, seed, lambda line: click.echo(line, err=True))
    click.echo(figures.to_json() if as_json else figures.to_text())
    return 0 if figures.within_limits else 1


@command.command("record", short_help="Latency, loss and peak rate of the recording proxy.",
                 epilog="Example: harness bench record --only large")  # fmt: skip
@click.option("--only", multiple=True, type=click.Choice(["steady", "added", "small", "large", "stalled"]),
              help="Measure this alone; may be given several times.")  # fmt: skip
@as_json_option
def record(only: tuple[str, ...], as_json: bool) -> int:
    """What the recording proxy adds, loses and passes, with h2load (Debian: nghttp2-client); three minutes."""
    from harness.bench.record import SECTIONS, bench_record

    figures = bench_record(only or SECTIONS)
    click.echo(figures.to_json() if as_json else figures.to_text())
    return 0 if figures.within_limits else 1

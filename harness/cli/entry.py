"""Entry point: finds the command, runs it, turns errors into one message and an exit code.

Exit codes: 0 promote (or equal, or done), 1 rollback (or diverged), 2 usage or configuration,
3 hold, 4 the gate itself failed or was interrupted. An uncaught exception never exits 1, because 1
is a verdict about a model.

Commands live in modules of their own that import nothing heavy, so `harness --help` stays quick.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import tempfile
import traceback
from typing import Any

import click

from harness.core.errors import HarnessError, UsageError, nearest
from harness.core.interruption import stop_at_once
from harness.core.plain_text import printable

EXIT_USAGE = 2
EXIT_FAILED = 4

_COMMANDS = {
    "bench": "harness.cli.bench",
    "canary": "harness.cli.canary",
    "compare": "harness.cli.compare",
    "demo": "harness.cli.demo",
    "doctor": "harness.cli.doctor",
    "gate": "harness.cli.gate",
    "golden": "harness.cli.golden",
    "judge": "harness.cli.judge",
    "labels": "harness.cli.labels",
    "plan": "harness.cli.plan",
    "record": "harness.cli.record",
    "report": "harness.cli.report",
    "scenario": "harness.cli.scenario",
    "shadow": "harness.cli.shadow",
    "traffic": "harness.cli.traffic",
}


_WITHOUT_VERDICT = ("compare", "golden", "labels ", "traffic import", "traffic sink")


class _Commands(click.Group):
    """Loads a command's module when the command is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Every command's name."""
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """The command, or None when there is none of that name."""
        module = _COMMANDS.get(cmd_name)
        return None if module is None else importlib.import_module(module).command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command; an unknown one names the nearest."""
        if args and not args[0].startswith("-") and args[0] not in _COMMANDS:
            message = f"No such command '{args[0]}': {nearest(args[0], _COMMANDS)}"
            raise click.UsageError(message, ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Try it: harness demo. Exit codes of gate: 0 promote, 1 rollback, 2 usage, 3 hold, "
    "4 the gate itself failed.",
)
@click.version_option(package_name="harness")
def cli() -> None:
    """A release gate for models: replay recorded requests through the old and the new version,
    diff outputs and features, and let sequential tests say PROMOTE, ROLLBACK or HOLD."""  # noqa: D209, D205 - help text


_NO_MEMORY = (
    "free some memory, take another machine, or leave out requests with very many rows or values"
)


def _say(text: str) -> None:
    """Writes to stderr; that nobody reads it must not change the exit code."""
    with contextlib.suppress(OSError):
        click.echo(printable(text), err=True)


def _internal(error: BaseException, arguments: list[str]) -> int:
    """Keeps the traceback in a file, where one can be made, and says where; the command failed, no model did."""
    if os.environ.get("HARNESS_DEBUG"):
        traceback.print_exception(error)
    try:
        handle, name = tempfile.mkstemp(prefix="harness-failure-", suffix=".txt")
        with os.fdopen(handle, "w") as file:
            traceback.print_exception(error, file=file)
        kept = f"in {name}"
    except OSError:  # a full disk may be what made it fail
        _say("".join(traceback.format_exception(error)))
        kept = "above"
    what, so = "the gate itself", "No verdict was reached. "
    words = arguments[:1] if arguments[:1] == ["compare"] else arguments[:2]
    command = " ".join(words)
    if command.startswith(_WITHOUT_VERDICT):
        what, so = f"harness {command}", ""
    remedy = _NO_MEMORY if isinstance(error, MemoryError) else "please report it"
    _say(
        f"harness: {what} failed: {type(error).__name__}: {error}\n"
        f"{so}The traceback is {kept}; {remedy}."
    )
    return EXIT_FAILED


def _reader_gone() -> int:
    """Ends quietly when head or less has ended: not a failure of the gate's, not a pass."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_FAILED


def run(arguments: list[str] | None = None) -> int:
    """Runs one command line and returns its exit code.

    Args:
      arguments: words after the program's name; None = sys.argv.
    """
    stdout = sys.stdout
    try:
        result: Any = cli.main(args=arguments, prog_name="harness", standalone_mode=False)
    except click.ClickException as error:
        with contextlib.suppress(OSError):
            error.show()
        return EXIT_USAGE
    except HarnessError as error:
        # What ends in a line of a file is there to be copied: a full stop would be copied, too.
        end = "" if error.remedy.endswith((".", "?", "!", "}")) else "."
        _say(f"harness: {error.where}: {error.what}.\n  {error.remedy}{end}")
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED
    except (click.Abort, KeyboardInterrupt) as error:
        # click puts an Abort in place of the KeyboardInterrupt, whose notes say how to go on.
        notes = getattr(error.__cause__ or error, "__notes__", [])
        _say("\n  ".join(["harness: interrupted; nothing already recorded is lost.", *notes]))
        return EXIT_FAILED
    # The last line of defence: never exit 1 by accident, not even when a library calls sys.exit.
    except (Exception, SystemExit, GeneratorExit) as error:  # noqa: BLE001 - as said
        # When the reader of our output goes away, click calls sys.exit(1), which would be a verdict
        # here; that it also puts something in place of sys.stdout tells this exit from others.
        if sys.stdout is not stdout:
            return _reader_gone()
        return _internal(error, sys.argv[1:] if arguments is None else arguments)
    return result if isinstance(result, int) else 0


def main() -> None:
    """The `harness` program."""
    # SIGTERM as Ctrl-C: what is open is closed, and the exit code is 4.
    signal.signal(signal.SIGTERM, stop_at_once)
    # A shell sets SIG_IGN for what runs in its background.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, stop_at_once)
    # Arrow's own allocator keeps what it was given: 14 MB more for a gate, and more with each million
    # requests. Read when pyarrow is imported, so it is a matter of the program and not of the library.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    sys.exit(run())

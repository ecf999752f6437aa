"""How progress looks on a terminal and in a log."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from harness.pipeline.progress import Progress

if TYPE_CHECKING:
    from tqdm import tqdm

_LOG_EVERY_S = 5.0


def _tell(stage: str, note: str) -> None:
    with contextlib.suppress(OSError):
        click.echo(f"{stage}: {note}", err=True)


class ProgressBar:
    """Draws progress on stderr: a bar on a terminal, a line every few seconds in a log."""

    def __init__(self, *, quiet: bool) -> None:
        """Args: quiet: draw nothing."""
        self._quiet = quiet
        self._stage = ""
        self._bar: tqdm[Any] | None = None
        self._said = 0.0
        self._since = 0.0
        self._later = threading.Timer(0.0, _tell)

    def __enter__(self) -> Self:
        """Starts drawing."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Ends the last bar."""
        self._close()

    def _close(self) -> None:
        self._later.cancel()
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __call__(self, event: Progress) -> None:
        """Draws one event."""
        if self._quiet:
            return
        if sys.stderr.isatty():
            self._draw(event)
        else:
            self._log(event)

    def _draw(self, event: Progress) -> None:
        from tqdm import tqdm

        if event.stage != self._stage:
            self._close()
            self._stage = event.stage
            self._bar = tqdm(
                total=event.total or None,
                desc=event.stage,
                unit=" req",
                leave=False,
                file=sys.stderr,
            )
        if self._bar is not None:
            self._bar.set_postfix_str(event.note, refresh=False)
            self._bar.update(event.done - self._bar.n)

    def _log(self, event: Progress) -> None:
        now = time.perf_counter()
        self._later.cancel()
        if event.stage != self._stage:
            self._stage, self._since, self._said = event.stage, now, now
            if event.note:
                # Told only where it takes long: a stage that begins may have nothing to say for minutes.
                self._later = threading.Timer(_LOG_EVERY_S, _tell, (event.stage, event.note))
                self._later.daemon = True
                self._later.start()
            return
        if now - self._said >= _LOG_EVERY_S and event.done:
            self._said = now
            rate = event.done / (now - self._since)
            left = f", {(event.total - event.done) / rate:.0f} s left" if event.total else ""
            click.echo(
                f"{event.stage}: {event.done:,} of {event.total:,} requests, {rate:,.0f}/s{left} {event.note}",
                err=True,
            )

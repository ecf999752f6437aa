"""The real worker, taken over once its model is loaded: what a hijacked child could send or leave.

Everything up to the first answer is the product's own worker, so that these children keep pace with
its protocol; then a few lines of a test run in place of the answer.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

_TAKEN_OVER = """\
#!{python}
import os, sys, time
sys.path.insert(0, sys.argv[3])
before = {before!r}
exec(before)
from harness.sandbox.child import frames, worker
ring = os.dup(int(sys.argv[7]))
honest, answered = worker._Server._send, []
def send(self, header, buffers, asked):
    answered.append(asked)
    if len(answered) > {after}:
        given = dict(self=self, fd=self._answers, header=header, buffers=buffers, asked=asked)
        exec({lines!r}, {{**globals(), **given}})
    honest(self, header, buffers, asked)
worker._Server._send = send
worker.main(sys.argv[5:])
"""


def hostile_worker(folder: Path, lines: str, *, before: str = "", after: int = 0) -> Path:
    """Writes an interpreter whose worker is taken over.

    Args:
      folder: where to.
      lines: run in place of an answer, with `fd` (the answer pipe), `ring`, and what `honest`
        takes; when they end, the answer is sent after all.
      before: run before the worker is imported.
      after: answers that are given first.
    """
    script = folder / "hostile-python"
    script.write_text(
        _TAKEN_OVER.format(
            python=sys.executable, before=textwrap.dedent(before), after=after,
            lines=textwrap.dedent(lines),
        )
    )  # fmt: skip
    script.chmod(0o755)
    return script

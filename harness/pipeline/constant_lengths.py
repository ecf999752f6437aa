"""Whether an output that may be as long as its batch by chance is about the batch, or about its rows.

A table of three values and a value for each of three rows look alike. The baseline is asked once, before
anything is compared, what it returns for another number of rows, and every version is read as it shows:
two readings of the same answer would differ where the answers do not, and a candidate that could choose
its own might hide a difference. What the baseline does not show (it takes no other number of rows, fails, or
is not done in time) is read as a row for each row, in all of them. Either way every value is compared.

It is asked in a process of its own with a deadline of its own, so that no request is blamed for it. Tried and
left was asking in each version's process beside the first such batch: versions of which one cannot be
asked were read unlike each other, and a slow version ran out of that request's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.core.tensors import Signature
from harness.core.traffic import RequestBatch
from harness.pipeline.opening import LegRecipe, open_versions
from harness.replay.composition import rows_of
from harness.replay.inputs import inputs_for_version
from harness.sandbox.answers import BatchAnswer
from harness.sandbox.hello import LoadFailure
from harness.sandbox.process import Sandbox
from harness.store.runs import RunFolder
from harness.store.windows import SealedWindow

TABLES_FILE = "tables.json"
_TRIES = 4
"""Requests that may fail before nothing is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """What the baseline shows of outputs that may be about a batch as a whole; its own names."""

    names: tuple[str, ...] = ()
    """About the batch: as long for another number of rows."""
    unshown: tuple[str, ...] = ()
    """It does not show what they are."""

    def read_by(
        self, recipes: tuple[LegRecipe, LegRecipe], outputs: Sequence[tuple[str, str]]
    ) -> tuple[LegRecipe, LegRecipe]:
        """Baseline's and candidate's legs, which read their answers alike.

        Args:
          recipes: of both.
          outputs: (baseline's name, candidate's name), as they are compared.
        """
        theirs = tuple(new for old, new in outputs if old in self.names)
        untraced = (*recipes[0].untraced, *self._told())
        baseline = replace(recipes[0], tables=self.names, untraced=untraced)
        return baseline, replace(recipes[1], tables=theirs)

    def _told(self) -> tuple[str, ...]:
        return tuple(
            f"output {name}: whether it is about a whole batch that has as many rows as it is long, as the "
            "baseline does not show it; every version is read as having a row for each row there"
            for name in self.unshown
        )


def tables_of_run(
    run: RunFolder, recipe: LegRecipe, signature: Signature, window: SealedWindow
) -> Tables:
    """`tables_of`, asked once a run: a resumed run reads answers as the interrupted one did.

    Args:
      run: keeps the answer.
      recipe: as for `tables_of`.
      signature: as for `tables_of`.
      window: as for `tables_of`.
    """
    if run.has(TABLES_FILE):
        saved = run.read_json(TABLES_FILE)
        return Tables(names=tuple(saved["names"]), unshown=tuple(saved["unshown"]))
    found = tables_of(recipe, signature, window)
    run.write_json(TABLES_FILE, found)
    return found


def tables_of(recipe: LegRecipe, signature: Signature, window: SealedWindow) -> Tables:
    """Asks the baseline, where an output may be about the batch.

    Args:
      recipe: the baseline's leg.
      signature: the baseline's.
      window: what is replayed; one of its first requests is asked, by itself where that tells.
    """
    lengths: dict[str, set[int]] = {}
    for name, length in (*signature.lengths, *recipe.lengths):
        lengths.setdefault(name, set()).add(length)
    if not lengths:
        return Tables()
    requests = window.read(np.arange(min(_TRIES, window.info.count)))
    with open_versions(recipe) as (started,):
        sandbox = started()
        if isinstance(sandbox, LoadFailure):
            return Tables(unshown=tuple(sorted(lengths)))
        with sandbox:
            answer = _answer(sandbox, requests, frozenset().union(*lengths.values()))
    shown = {} if answer is None else answer.outputs
    return Tables(
        names=() if answer is None else tuple(sorted(lengths.keys() & answer.of_batch)),
        unshown=tuple(sorted(lengths.keys() - shown.keys())),
    )


def _answer(
    sandbox: Sandbox, requests: RequestBatch, lengths: frozenset[int]
) -> BatchAnswer | None:
    """What is answered to a request, over and over where it has as many rows as an output is long."""
    fixed = {count for _, count in sandbox.signature.rows}
    for index in np.flatnonzero(requests.rows).tolist():
        one = rows_of(requests, index, index + 1)
        own = rows = int(one.rows[0])
        while rows in lengths:
            rows += own
        if not sandbox.alive or not fixed <= {rows}:
            continue
        given = inputs_for_version(one, sandbox.signature, {}, "baseline")
        at = np.arange(rows) % own
        sandbox.submit({name: column[at] for name, column in given.items()}, rows, trace=False)
        answer = sandbox.collect(sandbox.batch_deadline_s * (rows // own))
        if isinstance(answer, BatchAnswer):
            return answer
    return None

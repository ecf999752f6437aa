"""A closer look at the first places to part: whole values, their relation, and the proof by patching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.core.tensors import Array
from harness.core.traffic import RequestBatch
from harness.diff.changes import Divergence
from harness.diff.distance import computed_tolerance
from harness.diff.graph_report import FirstDivergence, PatchProof, WorstRow
from harness.diff.handed_on import handed_on_by_both
from harness.diff.pairs import RelationKind
from harness.diff.relations import name_relation
from harness.diff.tensor_trace import TensorTrace
from harness.diff.whole import apart_whole, permuted_columns
from harness.pipeline.graph_answers import Answering, Values, fitting
from harness.pipeline.graph_opening import GraphPassError, Laid, joined
from harness.pipeline.graph_rows import worst_rows
from harness.sandbox.tracing import Edit

MOST_PATCHED = 16
"""Frontier tensors that are looked at closely and fed."""
MOST_ALONE = 4
"""Of so many frontier tensors at most, each is fed alone, too."""
_SHOWN_COLUMNS = 8


class Closer:
    """Whole values of a few tensors of both versions.

    Args:
      laid: both opened versions.
      used: batches that were compared.
      traces: what was seen of each compared tensor of the baseline.
      outputs: (baseline's, candidate's) outputs that differ.
      running: per side a copy that returns every tensor whole; empty when there is none, so that each look
        needs copies and processes of its own.
    """

    def __init__(
        self,
        *,
        laid: tuple[Laid, Laid],
        used: Sequence[RequestBatch],
        traces: Mapping[str, TensorTrace],
        outputs: Sequence[tuple[str, str]],
        running: Sequence[Answering] = (),
    ) -> None:
        self._running = running
        self._laid = laid
        self._used = used
        self._traces = traces
        self._outputs = outputs
        self._ids = [str(i) for b in used for i in np.repeat(b.request_id, b.rows)]
        self.problems: list[str] = []
        """Why a proof could not be made, as sentences."""
        self._found: list[Divergence] = []
        self._fed: list[Divergence] = []
        self._ours: list[Values] = []
        self._theirs: list[Values] = []
        self._classes: tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]] = {}, {}

    def whole(self, pairs: Mapping[str, str], floor: float) -> dict[str, TensorTrace]:
        """Compares tensors by their whole values.

        Args:
          pairs: baseline's tensor → candidate's.
          floor: of tensors that were not compared before.
        """
        found = self.each(list(pairs.items()), floor)
        return {ours: trace for (ours, _), trace in found.items()}

    def each(
        self, pairs: Sequence[tuple[str, str]], floor: float
    ) -> dict[tuple[str, str], TensorTrace]:
        """Compares pairs of tensors, of which one may be in several, by their whole values.

        Args:
          pairs: (baseline's tensor, candidate's).
          floor: of tensors that were not compared before.
        """
        graphs = self._laid[0].graph, self._laid[1].graph
        found = {
            (name, partner): TensorTrace(
                fine=name not in self._laid[0].graph.coarse,
                exact=name in self._laid[0].graph.exact,
                moved=bool(handed_on_by_both(*graphs, [(name, partner)])),
                floor=self._traces[name].floor if name in self._traces else floor,
                ordered=self._traces[name].ordered if name in self._traces else np.zeros(1),
                proven=any(trace.proven for trace in self._traces.values()),
                output=name in dict(self._outputs),
            )
            for name, partner in pairs
        }
        ours = self._run(0, list(dict.fromkeys(name for name, _ in pairs)))
        theirs = self._run(1, list(dict.fromkeys(name for _, name in pairs)))
        for batch, before, after in zip(self._used, ours, theirs, strict=True):
            for (name, other), trace in found.items():
                if name in before and other in after:
                    rows = int(batch.rows.sum())
                    trace.update(before[name], after[other], rows=rows)
        return {pair: trace for pair, trace in found.items() if trace.compared}

    def look(self, found: Sequence[Divergence]) -> None:
        """Fetches the values of the frontier, of its first MOST_PATCHED tensors.

        Args:
          found: the frontier, in topological order.

        Raises:
          GraphPassError: a version that ran before fails now.
        """
        self._found = [d for d in found if d.baseline in self._traces][:MOST_PATCHED]
        self._fed = [d for d in self._found if not self._unfed(d)]
        found = self._found
        if found:
            # With the outputs, which the proofs need: each look may cost two processes a side.
            ends = (dict(self._outputs), dict(self._outputs).values())
            self._ours = self._run(0, list(dict.fromkeys([*(d.baseline for d in found), *ends[0]])))
            self._theirs = self._run(
                1, list(dict.fromkeys([*(d.candidate for d in found), *ends[1]]))
            )

    def first(self, divergence: Divergence) -> FirstDivergence:
        """One frontier tensor with its relation and, when there are few, its own proof."""
        looked = divergence in self._found
        alone = divergence in self._fed and 1 < len(self._fed) <= MOST_ALONE
        trace = self._traces[divergence.baseline]
        by_row = trace.rows == len(self._ids)
        ids = dict.fromkeys(self._ids[row] for row in trace.examples) if by_row else {}
        return FirstDivergence(
            divergence=divergence,
            relation=self._relation(divergence) if looked else "",
            requests=tuple(ids),
            worst=self._worst(divergence) if looked else (),
            proofs=self._proofs([divergence]) if alone else (),
            unfed=self._unfed(divergence) if self._outputs else "",
            is_output=divergence.baseline in dict(self._outputs),
            reaches=self._reaches(divergence) if looked else (),
        )

    def _reaches(self, divergence: Divergence) -> tuple[str, ...]:
        """The outputs that feeding it, or computing it otherwise, could change."""
        old, new = (laid.graph for laid in self._laid)
        ours = old.downstream_of(divergence.baseline)
        theirs = new.downstream_of(divergence.candidate)
        return tuple(a for a, b in self._outputs if a in ours or b in theirs)

    def _unfed(self, divergence: Divergence) -> str:
        """Why a tensor is not fed; "" = it is."""
        if divergence not in self._found:
            return f"only the first {len(self._found)} first differences were fed"
        if divergence.baseline in dict(self._outputs):
            return "it is an output itself"
        if divergence.candidate in self._laid[1].conditions():
            return "it chooses which branch runs, and the branch was laid open as it was taken"
        return ""

    def together(self) -> tuple[PatchProof, ...]:
        """The whole frontier fed at once."""
        return self._proofs(self._fed)

    def _by_row(self, divergence: Divergence) -> tuple[Array, Array] | None:
        """Both sides' values, for tensors with a row per request row."""
        ours = _column(self._ours, divergence.baseline)
        theirs = _column(self._theirs, divergence.candidate)
        rows = len(self._ids)
        if ours is None or theirs is None or len(ours) != rows or ours.size != theirs.size:
            return None
        return ours, theirs

    def _worst(self, divergence: Divergence) -> tuple[WorstRow, ...]:
        both = self._by_row(divergence)
        if both is None:
            return ()
        trace = self._traces[divergence.baseline]
        return worst_rows(
            *both,
            self._used,
            tolerance=trace.tolerance,
            fine=trace.fine,
            exact=trace.exact,
            moved=trace.moved,
        )

    def _relation(self, divergence: Divergence) -> str:
        """How the values follow from the baseline's."""
        both = self._by_row(divergence)
        if both is None or self._other_classes(divergence):
            return ""
        ours, theirs = both
        rows = len(self._ids)
        trace = self._traces[divergence.baseline]
        least = computed_tolerance(ours.dtype, theirs.dtype, coarse=not trace.fine)
        tolerance = max(trace.largest_tolerance, least)
        order = permuted_columns(ours, theirs, tolerance=tolerance, fine=trace.fine)
        if order:
            shown = ", ".join(map(str, order[:_SHOWN_COLUMNS]))
            more = ", …" if len(order) > _SHOWN_COLUMNS else ""
            return f"the candidate holds the baseline's columns in another order: {shown}{more}"
        if ours.size != rows:
            return ""
        relation = name_relation(ours.reshape(-1), theirs.reshape(-1), tolerance=tolerance)
        plain = relation.kind not in (RelationKind.EQUAL, RelationKind.OTHER)
        return relation.text if plain else ""

    def _other_classes(self, divergence: Divergence) -> bool:
        """Whether these are scores of other classes: their columns, in the names' order, are not each other's."""
        ours, theirs = self._classes
        return set(ours.get(divergence.baseline, ())) != set(theirs.get(divergence.candidate, ()))

    def _proofs(self, fed: Sequence[Divergence]) -> tuple[PatchProof, ...]:
        """The candidate's outputs with the baseline's values in a few tensors; () when it cannot be done."""
        if not (self._outputs and fed):
            return ()
        theirs = [b for _, b in self._outputs]
        plain, unpatched = self._ours, self._theirs
        try:
            patched = self._run(1, theirs, {d.candidate: d.baseline for d in fed})
        except GraphPassError as error:
            self.problems.append(f"no proof by patching: {error}")
            return ()
        for given, answer in zip(plain, patched, strict=True):
            # What stands for a copy's original and is an output itself is read by clients, too.
            answer |= {d.candidate: given[d.baseline] for d in fed if d.candidate in answer}
        names = tuple(d.baseline for d in fed)
        return tuple(
            self._proof(names, pair, list(zip(plain, unpatched, patched, strict=True)))
            for pair in self._outputs
        )

    def _proof(
        self,
        names: tuple[str, ...],
        pair: tuple[str, str],
        runs: Sequence[tuple[Values, Values, Values]],
    ) -> PatchProof:
        trace = self._traces[pair[0]]
        counts = np.zeros(3, dtype=np.int64)
        for batch, (before, plain, patched) in zip(self._used, runs, strict=True):
            if pair[0] not in before or pair[1] not in plain or pair[1] not in patched:
                continue
            bad = [
                apart_whole(
                    before[pair[0]],
                    found[pair[1]],
                    rows=int(batch.rows.sum()),
                    tolerance=trace.tolerance,
                    fine=trace.fine,
                    exact=trace.exact,
                    moved=trace.moved,
                    output=True,
                ).rows
                for found in (plain, patched)
            ]
            counts += [len(bad[0]), int(bad[0].sum()), int(bad[1].sum())]
        rows, without, still = (int(n) for n in counts)
        return PatchProof(
            tensors=names,
            output=pair[0],
            rows=rows,
            by_batch=trace.by_batch,
            before=without,
            after=still,
        )

    def _run(
        self, side: int, tensors: Sequence[str], fed: Mapping[str, str] | None = None
    ) -> list[Values]:
        """Whole values of a few tensors, per batch.

        Args:
          side: 0 baseline, 1 candidate.
          tensors: to return.
          fed: candidate's tensor → baseline's, whose values it gets, of the frontier.

        Raises:
          GraphPassError: it cannot be done.
        """
        laid, swaps = self._laid[side], fed or {}
        if self._running and not swaps:
            return self._answers(side, self._running[side], tensors, swaps)
        copy = laid.copy(Edit(tensors=tuple(tensors), patched=tuple(swaps)))
        if set(copy.fed) != set(swaps):
            msg = "a tensor of the frontier cannot be fed"
            raise GraphPassError(msg)
        with laid.tracer(copy) as runner:
            answering = Answering(laid=laid, copy=copy, runner=runner)
            return self._answers(side, answering, tensors, swaps)

    def _answers(
        self, side: int, answering: Answering, tensors: Sequence[str], swaps: Mapping[str, str]
    ) -> list[Values]:
        """What a running copy returns for the batches that were compared."""
        found: list[Values] = []
        # The proof may be missing, and nothing else is lost then.
        steps = answering.laid.limit.each(self._used) if swaps else self._used
        for place, batch in enumerate(steps):
            fed = {
                theirs: fitting(self._ours[place][ours], self._theirs[place].get(theirs))
                for theirs, ours in swaps.items()
            }
            found.append(answering.values(batch, tensors, fed))
        self._classes[side].update(answering.classes)
        return found


def _column(values: Sequence[Values], name: str) -> Array | None:
    parts = [a for v in values if isinstance(a := v.get(name), np.ndarray)]
    return joined(parts) if parts else None

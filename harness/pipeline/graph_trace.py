"""Both versions looked into on the same requests: the first place where they part, and the proof.

A few hundred requests go through copies of both versions that return every tensor, with graph optimisation off and in
the same batch composition. Nets whose tensors do not fit into the memory that is allowed return sketches first, and
whole tensors about the suspect region. The proof feeds the baseline's values into the candidate where they part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from harness.core.models import Rearrangement
from harness.core.policies import GraphPolicy
from harness.core.tensors import Array, Tensors
from harness.core.traffic import RequestBatch
from harness.diff.carried import carried_on
from harness.diff.changes import Cause, Change, Divergence
from harness.diff.equal_values import equal_values
from harness.diff.frontier import Regions
from harness.diff.graph_match import GraphMatch, TensorMatch, Tier
from harness.diff.graph_report import GraphReport, TensorVerdict
from harness.diff.handed_on import handed_on_by_both
from harness.diff.matching import match_graphs
from harness.diff.regroup import Regrouping, first_free
from harness.diff.signature import SignatureMatch
from harness.diff.surroundings import Fingerprints
from harness.diff.tensor_trace import TensorTrace
from harness.diff.with_copies import with_its_copies
from harness.pipeline.graph_answers import Answering
from harness.pipeline.graph_choice import LEAST_ABOUT, MOST_ABOUT, MOST_SKETCHED, MOST_WHOLE, evenly
from harness.pipeline.graph_copies import Room, open_copies
from harness.pipeline.graph_later import told_later
from harness.pipeline.graph_noise import Compared, in_order, take_noise
from harness.pipeline.graph_opening import GraphPassError, Laid, RunError, TimeLimit, Version
from harness.pipeline.graph_proof import Closer
from harness.pipeline.graph_states import equal_constants, same_graph, tensor_states
from harness.sandbox.tracing import Traced

_MOST_LOOKS = 4
"""Times that whole values may move a frontier that sketches, or some of the tensors, showed."""
_MOST_BEHIND = 1000
"""Tensors behind the frontier whose own operators are compared."""
_MOST_CHUNKS = 8
"""Times that a look at split or fused constants runs both versions again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPass:
    """What is traced."""

    baseline: Version
    candidate: Version
    match: SignatureMatch
    """How the signatures were paired."""
    mapped: tuple[tuple[str, str], ...] = ()
    """Tensors that the user pairs: baseline's name, candidate's name."""
    declared: tuple[tuple[str, str], ...] = ()
    """Features that both versions declare: baseline's name, candidate's name."""
    rearranged: Rearrangement = Rearrangement.NONE
    """Where the numbers are arranged otherwise, the baseline's own sums in other orders say what rounding may do."""
    memory_bytes: int = GraphPolicy().memory_bytes
    """What the values of one batch of one version may take."""
    deadline_s: float = GraphPolicy().deadline_s
    """Time that it may take in all."""
    most_whole: int = MOST_WHOLE
    """Tensors that a copy returns whole; of larger graphs a choice is looked at."""
    most_sketched: int = MOST_SKETCHED
    """Tensors that a copy returns by sketches."""


def trace_graphs(
    wanted: GraphPass,
    batches: Sequence[RequestBatch],
    scratch: Path,
    heard: Callable[[int, int], None],
    limit: TimeLimit | None = None,
) -> GraphReport:
    """Compares every tensor of two versions and finds the first place where they part.

    Args:
      wanted: the versions.
      batches: requests that both answer, at least one; whole batches are compared.
      scratch: folder for copies.
      heard: progress, in batches.
      limit: of this look and others; None = its own.

    Raises:
      GraphPassError: a version cannot be opened, no batch could be traced on both sides, or the time is over.
    """
    first, limit = batches[0], limit or TimeLimit(wanted.deadline_s)
    old, new = (
        Laid(v, first, scratch, limit=limit, most=wanted.most_whole)
        for v in (wanted.baseline, wanted.candidate)
    )
    tracing = _Tracing(wanted, old, new)
    with ExitStack() as stack:
        tracing.open(stack, first)
        for done, batch in enumerate(limit.each(batches)):
            tracing.batch(batch)
            heard(done + 1, len(batches))
        return tracing.report()


class _Tracing:
    """Two opened versions and what their batches have shown so far."""

    def __init__(self, wanted: GraphPass, old: Laid, new: Laid) -> None:
        self._wanted, self._old, self._new = wanted, old, new
        self._inputs = dict(wanted.match.inputs)
        self._outputs = dict(wanted.match.outputs)
        self._answers = (*self._outputs, *wanted.match.not_compared)
        self._match = self._matched(None)
        self._traces: dict[str, TensorTrace] = {}
        self._why: dict[str, str] = {}
        self._requests = 0
        self._ids: list[str] = []
        self._other_branch = 0
        self._failures: list[str] = []
        self._used: list[RequestBatch] = []

    def _matched(self, values: tuple[Fingerprints, Fingerprints] | None) -> GraphMatch:
        return match_graphs(
            self._old.graph, self._new.graph,
            inputs=self._inputs, outputs=self._outputs,
            mapped=dict(self._wanted.mapped), declared=dict(self._wanted.declared), values=values,
        )  # fmt: skip

    def open(self, stack: ExitStack, first: RequestBatch) -> None:
        """Makes the copies and starts their processes."""
        wanted = self._wanted
        room = Room(
            memory_bytes=wanted.memory_bytes, most_whole=wanted.most_whole, most_sketched=wanted.most_sketched
        )  # fmt: skip
        orders = bool(wanted.rearranged)
        self._open = open_copies(stack, self._laid, self._match, room, first, orders=orders)

    @property
    def _laid(self) -> tuple[Laid, Laid]:
        return self._old, self._new

    def batch(self, batch: RequestBatch) -> None:
        """Runs one batch through both, and through the baseline again, whole and in halves."""
        rows = int(batch.rows.sum())
        feeds = [laid.version.feeds(batch) for laid in self._laid]
        before, after = self._run(0, feeds[0]), self._run(1, feeds[1])
        failed = [t.failure for t in (before, after) if t.failure]
        if failed:
            self._failures.append(failed[0])
            return
        if not (self._old.same_branches(before) and self._new.same_branches(after)):
            self._other_branch += len(batch)
            return
        if not self._requests and set(self._match.tiers()) != {Tier.IDENTICAL}:
            ours, theirs = self._values(0, before), self._values(1, after)
            self._match = self._matched(equal_values(ours, theirs, rows=rows))
        compared = [found for p in self._match.pairs if (found := self._both(p, before, after))]
        take_noise(self._open, feeds[0], rows, compared)
        for one in compared:
            one.trace.update(one.values, one.others, rows=rows)
        self._requests += len(batch)
        self._used.append(batch)

    def _both(self, pair: TensorMatch, before: Traced, after: Traced) -> Compared | None:
        """Both sides' values of a pair; None where there is none of either."""
        ours = self._open.copies[0].returned(pair.baseline)
        theirs = self._open.copies[1].returned(pair.candidate)
        values, others = before.value(ours), in_order(ours, theirs, before, after)
        if values is None or others is None:
            return None
        trace = self._traces.setdefault(pair.baseline, self._trace(pair))
        smooth = pair.baseline in self._old.graph.smooth
        return Compared(trace=trace, name=ours, values=values, others=others, smooth=smooth)

    def _trace(self, pair: TensorMatch) -> TensorTrace:
        """An empty one; sketches are made of float32."""
        name, graphs = pair.baseline, (self._old.graph, self._new.graph)
        whole = not self._open.sketched
        return TensorTrace(
            fine=whole and name not in graphs[0].coarse,
            exact=whole and name in graphs[0].exact,
            moved=whole and bool(handed_on_by_both(*graphs, [(name, pair.candidate)])),
            output=name in self._outputs,
            same=whole,
            proven=self._wanted.rearranged is Rearrangement.FUNCTION,
        )

    def _run(self, which: int, feeds: Tensors) -> Traced:
        tracer = self._open.tracers[which]
        return tracer.run(feeds, tracer.tensors)

    def _values(self, side: int, found: Traced) -> dict[str, Array]:
        """What a batch showed of computed tensors."""
        returned = {
            n: self._open.copies[side].returned(n) for n in self._laid[side].graph.computed()
        }
        return {n: found.tensors[told] for n, told in returned.items() if told in found.tensors}

    def report(self) -> GraphReport:
        """What all batches showed; makes the proofs."""
        if not self._traces:
            why = "every batch took other branches"
            if self._requests:
                why = "; ".join(["no tensor of both can be compared", *self._open.skipped[:1]])
            elif self._failures:
                why = self._failures[0]
            msg = f"no request could be traced in both versions: {why}"
            raise RunError(msg) if self._failures and not self._requests else GraphPassError(msg)
        random = self._random()
        divergent = {
            name for name, trace in self._traces.items() if trace.differs and name not in random
        }
        closer = Closer(
            laid=self._laid, used=self._used, traces=self._traces,
            outputs=[pair for pair in self._wanted.match.outputs if pair[0] in divergent],
            running=self._running(),
        )  # fmt: skip
        found = self._frontier(divergent, closer)
        for _ in range(_MOST_LOOKS):
            if not self._regroup(found, divergent, closer):
                break
            found = self._frontier(divergent, closer)
        steady = [d.baseline for d in found if d.cause is not Cause.NONDETERMINISTIC]
        risen = self._regions().risen(steady, divergent)
        found = [d for d in found if d.baseline not in risen]
        closer.look(found)
        firsts = tuple(closer.first(d) for d in found)
        together = closer.together()
        states = tensor_states(
            self._old.graph,
            self._match,
            self._traces,
            random,
            sampled=self._open.chosen is not None,
        )
        compared = [s for s in states if s.verdict is not TensorVerdict.NOT_COMPARED]
        return GraphReport(
            requests=self._requests,
            coverage=self._match.coverage(),
            compared=len(compared),
            equal=sum(s.verdict is TensorVerdict.EQUAL for s in compared),
            tiers={tier.value: count for tier, count in self._match.tiers().items()},
            sketched=self._open.sketched,
            states=states,
            candidate_only=self._match.candidate_only,
            divergences=firsts,
            proofs=together,
            outputs_differ=not divergent.isdisjoint(self._answers),
            differing_outputs=tuple(n for n in self._answers if n in divergent),
            outputs_compared=all(n in self._traces and n not in random for n in self._answers),
            later=self._later(found, divergent.difference(risen)),
            risen=risen,
            random=tuple(sorted(random.items())),
            not_compared=(*self._not_compared(), *closer.problems),
            same_graph=same_graph(self._laid, self._match),
            rearranged=bool(self._wanted.rearranged),
            constant=equal_constants((self._old.graph, self._new.graph), self._wanted.declared),
        )

    def _frontier(self, divergent: set[str], closer: Closer) -> list[Divergence]:
        """The first places to part; where only sketches or some tensors are known, values about them decide."""
        found: list[Divergence] = []
        asked: set[str] = set()
        for _ in range(_MOST_LOOKS + 1):
            self._settle(divergent)
            regions = self._regions()
            reshaped = {name for name, trace in self._traces.items() if trace.reshaped}
            found = [
                regions.divergence(name, noisy=self._traces[name].noisy, divergent=divergent)
                for name in regions.frontier(divergent, reshaped)
            ]
            about = self._about(found, regions) - asked
            if not about:
                return found
            asked |= about
            partners = {p.baseline: p.candidate for p in self._match.pairs}
            floor = max(self._traces[d.baseline].explained for d in found)
            whole = closer.whole({name: partners[name] for name in about}, floor)
            self._traces |= whole
            divergent |= {n for n, t in whole.items() if t.differs} - self._random().keys()
        return found

    def _settle(self, divergent: set[str]) -> None:
        """Takes as equal what merely carries on the rounding of equal tensors; sketches do not tell."""
        graphs = self._old.graph, self._new.graph
        known = {} if self._open.sketched else self._traces
        carried = carried_on(graphs, self._match, known, divergent, self._inputs)
        for name in divergent & with_its_copies(self._old.graph, carried):
            self._traces[name].differing = 0
            divergent.discard(name)

    def _regions(self) -> Regions:
        return Regions(
            self._old.graph, self._new.graph, self._match,
            inputs=self._inputs, compared=self._traces, chosen_by=self._old.chosen_by(),
            same={name for name, trace in self._traces.items() if trace.same and not trace.empty},
        )  # fmt: skip

    def _later(self, found: Sequence[Divergence], divergent: set[str]) -> tuple[Change, ...]:
        """What differs behind the frontier; not where some tensors alone are known, or other branches ran."""
        branched = divergent.intersection(self._old.conditions())
        if not found or branched or self._open.chosen is not None:
            return ()
        regions, first = self._regions(), {d.baseline for d in found}
        behind = [n for n in self._old.graph.computed() if n in divergent and n not in first]
        return told_later(
            found,
            [regions.divergence(n) for n in behind[:_MOST_BEHIND]],
            partners={p.baseline: p.candidate for p in self._match.pairs},
            running=self._running(), used=self._used, traces=self._traces,
        )  # fmt: skip

    def _running(self) -> list[Answering]:
        """Copies that return every tensor whole; [] where there are none."""
        if self._open.sketched or self._open.chosen is not None:
            return []
        both = zip(self._laid, self._open.copies, self._open.tracers, strict=False)
        return [Answering(laid=laid, copy=copy, runner=runner) for laid, copy, runner in both]

    def _regroup(self, found: Sequence[Divergence], divergent: set[str], closer: Closer) -> bool:
        """Gives frontier tensors whose constants were split or fused the partners of equal values.

        Returns:
          Whether any pair changed; the frontier is another then.
        """
        waiting = [(d.baseline, d.candidate) for d in found]
        before = self._match
        each = max(1.0, self._open.batch_bytes * len(self._used) / max(len(self._traces), 1))
        at_once = max(1, min(MOST_ABOUT, int(self._wanted.memory_bytes / each)))
        floor = max((self._traces[d.baseline].explained for d in found), default=0.0)
        for _ in range(_MOST_LOOKS):
            grouping = Regrouping(self._old.graph, self._new.graph, self._match, self._outputs)
            tried = grouping.instead(waiting, divergent)
            options = list(dict.fromkeys(option for many in tried.values() for option in many))
            equal = {
                pair: trace
                for start in range(0, min(len(options), _MOST_CHUNKS * at_once), at_once)
                for pair, trace in closer.each(options[start : start + at_once], floor).items()
                if not trace.differs
            }
            chosen = first_free(tried, equal)
            if not chosen:
                break
            was = {p.baseline: p.candidate for p in self._match.pairs}
            self._match = grouping.paired(chosen)
            now = {p.baseline: p.candidate for p in self._match.pairs}
            waiting = [(name, theirs) for name, theirs in was.items() if name not in now]
            for name in [n for n, theirs in was.items() if theirs != now.get(n)]:
                self._traces.pop(name, None)
                divergent.discard(name)
            by_partner = {pair[1]: equal[pair] for pair in chosen.values()}
            self._traces |= {n: by_partner[b] for n, b in now.items() if was.get(n) != b}
        return self._match is not before

    def _about(self, found: Sequence[Divergence], regions: Regions) -> set[str]:
        """Matched tensors at and before the first differences that are to be looked at whole."""
        about: set[str] = set()
        if self._open.sketched:
            about = {name for d in found for name in (d.baseline, *d.last_equal)}
        if self._open.chosen is not None and found:
            each = max(1.0, self._open.batch_bytes * len(self._used) / max(len(self._traces), 1))
            most = min(MOST_ABOUT, int(self._wanted.memory_bytes / each)) // len(found)
            for divergence in found:
                unknown = [n for n in regions.inside(divergence.baseline) if n not in self._traces]
                about.update(evenly(unknown, max(most, LEAST_ABOUT)))
        return about & {p.baseline for p in self._match.pairs}

    def _random(self) -> dict[str, str]:
        """Baseline's tensors that either side computes from a random operator → which one."""
        ours, theirs = dict(self._old.graph.random), dict(self._new.graph.random)
        partners = {p.baseline: p.candidate for p in self._match.pairs}
        after = {a: theirs[b] for a, b in partners.items() if b in theirs}
        return after | {name: why for name, why in ours.items() if name in partners}

    def _not_compared(self) -> tuple[str, ...]:
        said = list(self._open.skipped)
        if self._open.chosen is not None:
            left = len(self._match.pairs) - len(self._traces)
            said.append(
                f"{left:,} of {len(self._match.pairs):,} tensors inside the graphs that both versions compute:"
                f" of large graphs {len(self._open.chosen):,} evenly spread ones are looked at, and those about"
                " the first differences"
            )
        for laid in self._laid:
            said += [
                f"{laid.version.role} {op} → {output}: its body was not looked into, only its outputs"
                for op, output in laid.closed
            ]
            said += [
                f"{laid.version.role} If → {output}: its {branch}: no traced request took it"
                for output, branch in laid.left
            ]
        if self._other_branch:
            said.append(f"{self._other_branch:,} requests take other branches: not traced")
        if self._failures:
            n, why = len(self._failures), self._failures[0].rstrip(".")
            said.append(f"{n} batch{'' if n == 1 else 'es'} could not be traced: {why}")
        return tuple(said)

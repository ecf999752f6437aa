"""What became of every tensor of the baseline's graph, as the report keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.core.graphs import Graph, Node
from harness.diff.graph_hashes import without_aliases
from harness.diff.graph_match import GraphMatch, Tier
from harness.diff.graph_report import TensorState, TensorVerdict
from harness.diff.tensor_trace import TensorTrace
from harness.pipeline.graph_opening import Laid


def tensor_states(
    graph: Graph,
    match: GraphMatch,
    traces: Mapping[str, TensorTrace],
    random: Mapping[str, str],
    *,
    sampled: bool,
) -> tuple[TensorState, ...]:
    """States in topological order; mere copies of inputs and constants are left out.

    Args:
      graph: the baseline's.
      match: its tensors' partners.
      traces: baseline's tensor → how its values compare.
      random: baseline's tensor → the random operator that it is computed from.
      sampled: only some tensors were looked at.
    """
    by_name, alone = match.by_baseline(), set(match.baseline_only)
    known = {*graph.inputs, *graph.observable()}
    _, copies = without_aliases(graph)
    unseen = "was not returned by both versions"
    if sampled:
        unseen = "was not looked at: the graph is large"
    states = []
    for name in graph.observable():
        pair, trace = by_name.get(name), traces.get(name)
        if pair is None and name not in alone:
            continue  # a mere copy of an input or a constant
        node = graph.producer(name)
        state = TensorState(
            baseline=name,
            candidate=pair.candidate if pair else "",
            operator=node.op if node else "",
            reads=_reads(node, copies, known) if node else (),
            tier=pair.tier.value if pair else "",
            verdict=TensorVerdict.NOT_COMPARED,
            why="has no partner" if pair is None else unseen,
        )
        if name in random:
            state = replace(
                state,
                why=f"nondeterministic: computed from {random[name]}",
                floor=trace.floor if trace else 0.0,
            )
        elif trace is not None:
            state = replace(
                state,
                verdict=TensorVerdict.DIFFERS if trace.differs else TensorVerdict.EQUAL,
                rows=trace.rows, by_batch=trace.by_batch, differing=trace.differing, relative=trace.relative,
                absolute=trace.absolute, floor=trace.floor, small=trace.small, empty=trace.empty,
                ordered=float(trace.ordered.max(initial=0.0)), by_order=trace.by_order, why=trace.unlike,
            )  # fmt: skip
        states.append(state)
    return tuple(states)


def equal_constants(
    graphs: tuple[Graph, Graph], declared: Sequence[tuple[str, str]]
) -> tuple[str, ...]:
    """Features that are constants of both versions, or copies of some, and hold the same.

    Args:
      graphs: the baseline's and the candidate's.
      declared: (baseline's, candidate's) features.

    Returns:
      The baseline's names.
    """
    held = []
    for graph in graphs:
        values = {c.name: c.exact for c in graph.constants}
        _, copies = without_aliases(graph)
        held.append(values | {n: values[of] for n, of in copies.items() if of in values})
    ours, theirs = held
    return tuple(a for a, b in declared if a in ours and ours[a] == theirs.get(b))


def same_graph(laid: tuple[Laid, Laid], match: GraphMatch) -> bool:
    """Whether names are all that tells two opened versions apart."""
    old, new = (side.graph for side in laid)
    one_sided = match.baseline_only or match.candidate_only
    return (
        set(match.tiers()) == {Tier.IDENTICAL}
        and not one_sided
        and len(old.nodes) == len(new.nodes)
        and bool(old.opsets)
        and old.opsets == new.opsets
        and not any(side.conditions() for side in laid)
    )


def _reads(node: Node, copies: Mapping[str, str], known: set[str]) -> tuple[str, ...]:
    """Inputs and computed tensors that a node reads, copies under the name of what they copy."""
    origins = (copies.get(source, source) for source in node.sources())
    return tuple(dict.fromkeys(origin for origin in origins if origin in known))

"""A comparison's look into both versions: where they part, and what only the graphs can compare."""

from __future__ import annotations

from dataclasses import replace

from harness.pipeline.compare_result import CompareResult
from harness.pipeline.compare_setup import Setup
from harness.pipeline.graph_pass import DifferingFirst, GraphLook, batches_of, look_into
from harness.pipeline.identical import identical
from harness.pipeline.progress import Listener
from harness.pipeline.untraced import untraced, untraced_features


def with_graph(
    setup: Setup,
    result: CompareResult,
    chosen: DifferingFirst,
    listener: Listener,
    *,
    singly: bool,
) -> CompareResult:
    """Looks into both versions after their legs have ended, so that their memory is free.

    Args:
      setup: both versions and the inputs.
      result: of the comparison by traces.
      chosen: the requests to look into.
      listener: hears progress.
      singly: each request ran by itself.
    """
    look = _look(setup, chosen, listener, singly=singly)
    differ = bool(result.intermediates["compared"]["output_mismatches"])
    outputs = setup.match.not_compared
    same = identical(setup.graphs, setup.recipes, setup.mapping, setup.models, look)
    # The graphs alone show outputs then, and no answer was compared to count by.
    by_graphs = not setup.match.outputs
    odd = untraced(outputs, "output", look, result.available, identical=same)
    lost = untraced_features(
        result.intermediates,
        look,
        result.available if by_graphs else result.compared,
        setup.match,
        declared=setup.declared,
        identical=same,
    )
    seen = tuple(
        f"output {n}: " for n in (*odd.equal, *odd.proven, *(s.baseline for s in odd.differing))
    )
    differing = bool(lost.differing or odd.differing)
    unseen = odd.unseen
    if by_graphs and not (odd.differing or unseen) and odd.empty:
        unseen = tuple(f"output {name}: without a single value in any answer" for name in outputs)
    reports = result.intermediates["features"]
    found, left_out = lost.left(reports, result.findings, result.not_compared)
    return replace(
        result,
        graph=look,
        compared=max(result.compared, 0 if unseen else odd.requests)
        if by_graphs
        else result.compared,
        intermediates=lost.intermediates(result.intermediates),
        equal=result.equal and not differing,
        comparable=bool(result.comparable and not (result.equal and (lost.unseen or unseen)))
        or differing,
        findings=(
            *found,
            *lost.findings(),
            *odd.findings(),
            *look.findings(answers_differ=differ, unseen=outputs),
        ),
        not_compared=(
            *(t for t in left_out if not t.startswith(seen)),
            *lost.unseen,
            *unseen,
            *look.not_compared(),
        ),
    )


def _look(setup: Setup, chosen: DifferingFirst, listener: Listener, *, singly: bool) -> GraphLook:
    if not setup.looked_into.requests:
        return GraphLook(why="it was not asked for")
    return look_into(
        setup.recipes, setup.match, setup.mapping,
        batches_of(setup.window, chosen.positions(), singly=singly),
        declared=setup.declared, rearranged=setup.rearranged,
        policy=setup.looked_into, listener=listener,
    )  # fmt: skip

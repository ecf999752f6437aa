"""Declared features that no trace returns, before a gate's replay: are they computed by identical nodes?

A guardrail about features takes a request as compared only where all of them are, so that what a later look at
the graphs shows would come too late. It is asked only where both graphs may be one; what it says is `untraced`'s,
as in a comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.core.counted import counted
from harness.core.findings import Finding
from harness.core.models import ModelGraph
from harness.core.policies import When
from harness.diff.signature import SignatureMatch
from harness.pipeline.graph_pass import batches_of, look_into
from harness.pipeline.identical import identical, perhaps_identical
from harness.pipeline.opening import LegRecipe
from harness.pipeline.prepare import Prepared
from harness.pipeline.progress import Listener
from harness.pipeline.untraced import AN_INPUT, Untraced, untraced
from harness.store.windows import SealedWindow

PROOF_FILE = "proven_features.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """What is equal in every request without a trace."""

    inputs: tuple[tuple[str, str], ...] = ()
    """(baseline's, candidate's) names of those that are inputs."""
    partners: tuple[tuple[str, str], ...] = ()
    """The same of those that identical nodes compute."""
    requests: int = 0
    """Requests that went through the graphs."""

    def words(self) -> dict[str, str]:
        """Baseline's name → why it is equal."""
        nodes = f"computed by identical nodes; equal in {counted(self.requests)} that went through the graphs"
        return dict.fromkeys(self._seen().proven, nodes) | dict(self._seen().given)

    def findings(self) -> list[Finding]:
        """A word about each."""
        return self._seen().findings()

    def left(self, texts: Sequence[str]) -> list[str]:
        """Sentences about what no trace returns, without these."""
        return self._seen().left((), (), texts)[1]

    def _seen(self) -> Untraced:
        return Untraced(
            proven=tuple(ours for ours, _ in self.partners),
            partners=(*self.inputs, *self.partners),
            requests=self.requests,
            given=dict.fromkeys((ours for ours, _ in self.inputs), AN_INPUT),
        )


def proven_features(
    prepared: Prepared,
    window: SealedWindow,
    match: SignatureMatch,
    declared: Sequence[tuple[str, str]],
    *,
    graphs: tuple[ModelGraph, ModelGraph],
    recipes: tuple[LegRecipe, LegRecipe],
    singly: bool,
    listener: Listener,
) -> Proven:
    """Looks at the graphs once a run: a resumed run must not measure otherwise.

    Args:
      prepared: the run; keeps the answer.
      window: what requests are read from.
      match: how the signatures were paired.
      declared: (baseline's, candidate's) features computed from raw fields.
      graphs: what is known of both versions.
      recipes: how they are opened.
      singly: each request runs by itself.
      listener: hears progress.
    """
    run, policy = prepared.run, prepared.policy
    returned = [set(r.trace_tensors) for r in recipes]
    lost = [(a, b) for a, b in declared if a not in returned[0] and b not in returned[1]]
    inputs = tuple(pair for pair in lost if pair in match.inputs)
    lost = [pair for pair in lost if pair not in inputs]
    asked = policy.graph.when is not When.NEVER and policy.graph.requests
    if not (lost and asked and perhaps_identical(graphs, recipes, policy.mapping)):
        return Proven(inputs=inputs)
    if run.has(PROOF_FILE):
        saved = run.read_json(PROOF_FILE)
        pairs = tuple((str(a), str(b)) for a, b in saved["partners"])
        return Proven(inputs=inputs, partners=pairs, requests=int(saved["requests"]))
    look = look_into(
        recipes,
        match,
        policy.mapping,
        batches_of(window, prepared.batches[0].positions[: policy.graph.requests], singly=singly),
        declared=declared,
        policy=policy.graph,
        listener=listener,
    )
    models = (prepared.baseline, prepared.candidate)
    shown = identical(graphs, recipes, policy.mapping, models, look)
    names = [ours for ours, _ in lost]
    # Of all requests that may come, those that went through the graphs are a part.
    seen = untraced(names, "feature", look, len(window) + 1, identical=shown)
    found = Proven(
        inputs=inputs,
        partners=tuple(pair for pair in lost if pair[0] in seen.proven),
        requests=seen.requests,
    )
    run.write_json(PROOF_FILE, found)
    return found

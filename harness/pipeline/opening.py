"""How a run opens its legs: the pinned bytes, a probed copy for the trace, the policy's limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.core.models import ModelGraph
from harness.core.policies import SandboxPolicy
from harness.replay.legs import Leg
from harness.sandbox.answers import LoadFailure
from harness.sandbox.graphs import probe
from harness.sandbox.process import Sandbox


@dataclass(frozen=True, slots=True, kw_only=True)
class LegRecipe:
    """Everything that opening one version's leg takes."""

    role: str
    """baseline or candidate."""
    model: Path
    """The pinned .onnx file."""
    trace_model: Path | None
    """Its probed copy; None when it declares no features or cannot be probed."""
    trace_tensors: tuple[str, ...]
    """What the trace returns."""
    untraced: tuple[str, ...]
    """Why tensors that were declared are not traced, each as a sentence."""
    limits: SandboxPolicy
    allow_weaker: bool
    input_names: tuple[tuple[str, str], ...] = ()
    """(name in the traffic, this version's name)."""

    def open(self) -> Leg:
        """Starts a leg; a version that does not load gives a leg that has ended."""
        return Leg(self.opener(), name=self.role, input_names=self.input_names)

    def opener(self) -> Callable[[], Sandbox | LoadFailure]:
        """What starts one process."""

        def start() -> Sandbox | LoadFailure:
            return Sandbox.start(
                self.model,
                name=self.role,
                limits=self.limits,
                trace_model=self.trace_model,
                trace_tensors=self.trace_tensors,
                allow_weaker=self.allow_weaker,
            )

        return start


def leg_recipe(
    role: str,
    model: Path,
    graph: ModelGraph,
    *,
    limits: SandboxPolicy,
    probes: Path,
    allow_weaker: bool = False,
    input_names: tuple[tuple[str, str], ...] = (),
) -> LegRecipe:
    """Probes a version for the tensors that it declares.

    Args:
      role: baseline or candidate.
      model: the pinned file.
      graph: what is known of it.
      limits: the policy's.
      probes: folder for the probed copy.
      allow_weaker: go on below the required isolation.
      input_names: (name in the traffic, this version's name).
    """
    wanted = (*graph.features, *graph.fitted)
    trace_model: Path | None = None
    traced: tuple[str, ...] = ()
    untraced: tuple[str, ...] = ()
    if wanted:
        probes.mkdir(parents=True, exist_ok=True)
        probed = probe(model, wanted, probes / f"{role}.onnx", limits)
        if isinstance(probed, LoadFailure):
            untraced = (f"no feature of the {role} could be traced: {probed.message}",)
        else:
            trace_model, traced = probed.path, probed.exposed
            untraced = tuple(f"{role} tensor {name}: {why}" for name, why in probed.skipped)
    return LegRecipe(
        role=role, model=model, trace_model=trace_model, trace_tensors=traced, untraced=untraced,
        limits=limits, allow_weaker=allow_weaker, input_names=input_names,
    )  # fmt: skip

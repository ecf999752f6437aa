"""Copies of a model whose sums go in another order, made by a graph child; the parent never parses them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from harness.core.policies import SandboxPolicy
from harness.sandbox.child.frames import FrameError
from harness.sandbox.graphs import asked_graphs, received_graph
from harness.sandbox.hello import LoadFailure
from harness.sandbox.starting import admitted


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Another order of a model's sums."""

    seed: int
    """Of the permutations."""
    halved: bool
    """Products of matrices are cut into two, whose results are added."""


ORDERS = (Order(seed=0, halved=False), Order(seed=1, halved=False), Order(seed=2, halved=True))
"""What rounding may do is seen in several orders: one may happen to give a value its own bits."""


def reordered(
    model: Path,
    folder: Path,
    limits: SandboxPolicy,
    *,
    returned: bool = False,
    allow_weaker: bool = False,
) -> tuple[Path, ...] | LoadFailure:
    """Writes copies of a model that differ from it by rounding alone.

    Args:
      model: the .onnx file; its external data are not needed.
      folder: where the copies go; they refer to the same external data.
      limits: memory, the deadlines and the isolation that is required.
      returned: as for `graph_orders.reordered`: the model returns every tensor.
      allow_weaker: go on when less isolation than required was obtained.

    Returns:
      A copy of each of `ORDERS`; none where the graph shows no sum over constants.

    Raises:
      UsageError: the file cannot be read, or the isolation is weaker than required.
    """
    asked = [asdict(order) | {"returned": returned} for order in ORDERS]
    with asked_graphs(model, (), limits, orders=asked, session=False) as child:
        if failure := admitted(child, limits, allow_weaker=allow_weaker):
            return failure
        answer = received_graph(child, limits)
        copies = []
        for place in range(len(ORDERS)):
            if isinstance(answer, LoadFailure):
                return answer
            answer = received_graph(child, limits)
            if isinstance(answer, LoadFailure):
                return answer
            header, copy = answer
            try:
                if not _sums_from(header.get("sums")):
                    return ()
            except FrameError as error:
                return LoadFailure(kind="invalid", message=f"broke the protocol: {error}")
            folder.mkdir(parents=True, exist_ok=True)
            copies.append(folder / f"{model.stem}.order-{place}.onnx")
            copies[-1].write_bytes(copy)
        return tuple(copies)


def _sums_from(given: object) -> int:
    """How many sums have another order, or FrameError."""
    if type(given) is not int or given < 0:
        msg = "a copy does not say how many sums it changed"
        raise FrameError(msg)
    return given

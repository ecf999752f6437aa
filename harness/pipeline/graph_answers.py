"""Whole values of a few tensors, as a running copy returns them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.core.tensors import Array, Nested
from harness.core.traffic import RequestBatch
from harness.pipeline.graph_opening import GraphPassError, Laid, Runner
from harness.sandbox.graph_edits import PATCH_SUFFIX
from harness.sandbox.tracing import Edited

Values = dict[str, Array | Nested]
"""Tensors, sequences and optionals by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """A copy and the process that runs it."""

    laid: Laid
    """The opened version."""
    copy: Edited
    """Its copy."""
    runner: Runner
    """What runs the copy."""
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Class names of ZipMap tensors that were returned so far."""

    def values(
        self, batch: RequestBatch, tensors: Sequence[str], fed: Mapping[str, Array | Nested]
    ) -> Values:
        """What the copy makes of one batch.

        Args:
          batch: the requests.
          tensors: to return.
          fed: values of tensors that the copy takes.

        Raises:
          GraphPassError: it fails.
        """
        returned = {self.copy.returned(name): name for name in tensors}
        feeds: Values = {**self.laid.version.feeds(batch)}
        feeds |= {f"{name}{PATCH_SUFFIX}": values for name, values in fed.items()}
        answer = self.runner.run(feeds, list(returned))
        if answer.failure:
            raise GraphPassError(answer.failure)
        self.classes.update(
            {returned[name]: keys for name, keys in answer.keys.items() if name in returned}
        )
        made: Values = {**answer.tensors, **answer.nested}
        return {returned[name]: values for name, values in made.items()}


def fitting(values: Array | Nested, own: Array | Nested | None) -> Array | Nested:
    """The baseline's values in the shape and type of the candidate's tensor; a sequence as it is.

    Raises:
      GraphPassError: one is a sequence and the other a tensor.
    """
    if isinstance(values, Nested) and isinstance(own, Nested):
        return values
    if isinstance(values, Nested) or isinstance(own, Nested):
        msg = "a sequence on one side is a tensor on the other"
        raise GraphPassError(msg)
    if own is None or own.size != values.size:
        return values
    return values.reshape(own.shape).astype(own.dtype, copy=False)

"""The traffic's columns as one version takes them."""

from __future__ import annotations

from collections.abc import Mapping

from harness.core.errors import SignatureError, nearest
from harness.core.tensors import NUMPY_DTYPES, Array, CodedText, Feeds, Signature
from harness.core.traffic import RequestBatch


def inputs_for_version(
    batch: RequestBatch, signature: Signature, columns: Mapping[str, str], version: str
) -> Feeds:
    """The inputs of a version under its own names; columns it does not take stay out.

    Args:
      batch: requests.
      signature: the version's.
      columns: this version's name → name in the traffic, where they differ.
      version: for messages: baseline, candidate.

    Raises:
      SignatureError: the traffic lacks an input, or cannot carry one.
    """
    inputs: dict[str, Array | CodedText] = {}
    for spec in signature.inputs:
        column = columns.get(spec.name, spec.name)
        if spec.datatype not in NUMPY_DTYPES:
            raise SignatureError(
                f"{version} input {spec.shown()}",
                "recorded requests cannot carry this type",
                "Export the model with plain tensors as inputs.",
            )
        if column not in batch.inputs:
            raise SignatureError(
                f"{version} input {spec.shown()}",
                f"the traffic has no input '{column}'",
                f"Map it under mapping.inputs in the policy; {nearest(column, batch.inputs)}",
            )
        inputs[spec.name] = batch.coded[column] if column in batch.coded else batch.inputs[column]
    return inputs

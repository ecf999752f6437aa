"""What a child says about a graph, checked and turned into a typed value."""

from __future__ import annotations

import json
from dataclasses import dataclass

from harness.core.clock import ts_ns_from_iso
from harness.core.errors import UsageError
from harness.core.models import ModelGraph
from harness.core.plain_text import printable
from harness.core.tensors import Signature
from harness.sandbox.child.columns import is_unicode
from harness.sandbox.child.frames import FrameError, Header
from harness.sandbox.child_texts import text_from, texts_from
from harness.sandbox.graph_child import FEATURES, FITTED
from harness.sandbox.graph_names import MAX_NAME
from harness.sandbox.graph_values import pairs_from
from harness.sandbox.hello import signature_from_header

TRAINING_CUTOFF = "harness.training_cutoff"
VOCABULARY = "harness.vocabulary."
_MAX_METADATA = 4 << 20
_MAX_DIGEST = 64
_MOST_DECLARED = 10_000
"""Features or fitted constants of one model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """What a version's own runtime says."""

    signature: Signature
    """What it takes and returns there."""
    runtime: str
    """Version of its onnxruntime."""


def graph_from_header(header: Header, own: Own | None) -> ModelGraph:
    """The model, as the child describes it.

    Args:
      header: what the child said.
      own: what the version's own runtime says, where that is not the running one.

    Raises:
      FrameError: a broken answer.
      UsageError: metadata that cannot be read.
    """
    signature = own.signature if own else signature_from_header(header)[0]
    given = header.get("metadata")
    if not isinstance(given, dict):
        msg = "the metadata table is missing"
        raise FrameError(msg)
    metadata = {text_from(k, MAX_NAME): text_from(v, _MAX_METADATA) for k, v in given.items()}
    cutoff = metadata.get(TRAINING_CUTOFF)
    vocabularies = tuple(
        (key.removeprefix(VOCABULARY), _listed(metadata, key))
        for key in sorted(metadata)
        if key.startswith(VOCABULARY)
    )
    return ModelGraph(
        signature=signature,
        features=_listed(metadata, FEATURES),
        fitted=_listed(metadata, FITTED),
        tensors=texts_from(header.get("tensors"), MAX_NAME),
        vocabularies=vocabularies,
        random_operators=texts_from(header.get("random"), MAX_NAME),
        random_tensors=pairs_from(header.get("random_tensors")),
        coarse=frozenset(texts_from(header.get("coarse"), MAX_NAME)),
        exact=frozenset(texts_from(header.get("exact"), MAX_NAME)),
        handed_on=frozenset(texts_from(header.get("handed_on"), MAX_NAME)),
        smooth=frozenset(texts_from(header.get("smooth"), MAX_NAME)),
        numbers=text_from(header.get("numbers", ""), _MAX_DIGEST),
        arrangement=text_from(header.get("arrangement", ""), _MAX_DIGEST),
        function=text_from(header.get("function", ""), _MAX_DIGEST),
        runtime=own.runtime if own else text_from(header.get("runtime"), 100),
        training_cutoff_ns=None
        if cutoff is None
        else ts_ns_from_iso(cutoff, f"metadata {TRAINING_CUTOFF}"),
    )


def _listed(metadata: dict[str, str], key: str) -> tuple[str, ...]:
    """A JSON list of texts under this key; empty when the key is not there."""
    if key not in metadata:
        return ()
    try:
        texts = json.loads(metadata[key])
    except (ValueError, RecursionError):
        texts = None
    if not isinstance(texts, list) or not all(
        isinstance(t, str) and is_unicode(t) and len(t) <= MAX_NAME for t in texts
    ):
        raise UsageError(
            f"metadata {key}",
            f"'{printable(metadata[key][:80])}' is no JSON list of texts",
            'Write it like ["a", "b"].',
        )
    if key in {FEATURES, FITTED} and len(texts) > _MOST_DECLARED:
        raise UsageError(
            f"metadata {key}",
            f"names {len(texts):,} tensors, and at most {_MOST_DECLARED:,} can be compared",
            "Name the features that are worth comparing.",
        )
    return tuple(texts)

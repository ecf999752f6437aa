"""What is inside a model, and a copy of it that returns its intermediate tensors.

The parent never parses model bytes: a short-lived process (`graph_child`) does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.clock import ts_ns_from_iso
from harness.core.errors import UsageError
from harness.core.models import ModelGraph
from harness.core.policies import SandboxPolicy
from harness.sandbox.answers import (
    MAX_NAME,
    LoadFailure,
    expect_kind,
    message_from,
    signature_from_header,
    text_from,
    texts_from,
)
from harness.sandbox.bundle import GRAPHS
from harness.sandbox.channel import ChannelClosed, ChannelTimeout
from harness.sandbox.child.frames import FrameError, Header
from harness.sandbox.child_process import ChildProcess
from harness.sandbox.memory_files import sealed_from_path
from harness.sandbox.process import START_DEADLINE_S, load_failure_from_child

FEATURES = "harness.features"
FITTED = "harness.fitted"
TRAINING_CUTOFF = "harness.training_cutoff"
VOCABULARY = "harness.vocabulary."
_MAX_METADATA = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What a probed copy returns besides the model's outputs."""

    path: Path
    """The copy."""
    exposed: tuple[str, ...]
    """Tensors it returns: what `Sandbox.start` takes as trace_tensors."""
    cast: tuple[str, ...]
    """Of these: cast to float32, because numpy has no type for them."""
    skipped: tuple[tuple[str, str], ...]
    """(tensor, why) of those that were asked for and cannot be returned."""


def inspect(model: Path, limits: SandboxPolicy) -> ModelGraph | LoadFailure:
    """Looks at a model's signature, declared features and intermediate tensors.

    Args:
      model: the .onnx file.
      limits: memory and the load deadline.

    Raises:
      UsageError: the file cannot be read.
    """
    answer = _asked(model, None, limits)
    if isinstance(answer, LoadFailure):
        return answer
    header, _ = answer
    try:
        return _graph_from_header(header)
    except FrameError as error:
        return LoadFailure(kind="invalid", message=f"broke the protocol: {error}")
    except UsageError as error:
        return LoadFailure(kind="metadata", message=str(error))


def probe(
    model: Path, tensors: Sequence[str], out: Path, limits: SandboxPolicy
) -> ProbeResult | LoadFailure:
    """Writes a copy of a model that also returns the named tensors.

    Args:
      model: the .onnx file.
      tensors: names as `ModelGraph.tensors` has them; unknown ones are skipped and listed.
      out: where the copy goes.
      limits: memory and the load deadline.

    Raises:
      UsageError: the file cannot be read.
    """
    answer = _asked(model, list(tensors), limits)
    if isinstance(answer, LoadFailure):
        return answer
    header, body = answer
    try:
        exposed = texts_from(header.get("exposed"), MAX_NAME)
        cast = texts_from(header.get("cast"), MAX_NAME)
        skipped = _pairs(header.get("skipped"))
    except FrameError as error:
        return LoadFailure(kind="invalid", message=f"broke the protocol: {error}")
    if not set(exposed) <= set(tensors):
        return LoadFailure(kind="invalid", message="the probe returns tensors nobody asked for")
    out.write_bytes(body)
    return ProbeResult(path=out, exposed=exposed, cast=cast, skipped=skipped)


def _asked(
    model: Path, tensors: list[str] | None, limits: SandboxPolicy
) -> tuple[Header, bytearray] | LoadFailure:
    """One question to one fresh process."""
    fd = sealed_from_path(model)
    try:
        child = ChildProcess.started(
            GRAPHS,
            python=None,
            fds=[fd],
            config={"memory_bytes": limits.memory_bytes, "tensors": tensors},
            max_body=limits.memory_bytes,
        )
    finally:
        os.close(fd)
    try:
        header, body = child.channel.receive(START_DEADLINE_S + limits.load_deadline_s)
        expect_kind(header, "graph")
        if header.get("ok") is not True:
            return LoadFailure(kind="load", message=message_from(header.get("error")))
    except (ChannelClosed, ChannelTimeout, FrameError) as error:
        return load_failure_from_child(child, error)
    else:
        return header, body
    finally:
        child.close()


def _graph_from_header(header: Header) -> ModelGraph:
    """Raises FrameError for a broken answer, UsageError for metadata that cannot be read."""
    signature, _ = signature_from_header(header)
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
        runtime=text_from(header.get("runtime"), 100),
        training_cutoff_ns=None if cutoff is None else ts_ns_from_iso(cutoff, TRAINING_CUTOFF),
    )


def _listed(metadata: dict[str, str], key: str) -> tuple[str, ...]:
    """A JSON list of texts under this key; empty when the key is not there."""
    if key not in metadata:
        return ()
    try:
        texts = json.loads(metadata[key])
    except (ValueError, RecursionError):
        texts = None
    if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
        raise UsageError(
            f"model metadata {key}", "is no JSON list of texts", "Write it as json.dumps([...])."
        )
    return tuple(texts)


def _pairs(given: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(given, list):
        msg = "a list of pairs is missing"
        raise FrameError(msg)
    pairs = []
    for entry in given:
        texts = texts_from(entry, MAX_NAME)
        if len(texts) != 2:  # noqa: PLR2004 - a pair
            msg = "a pair is no pair"
            raise FrameError(msg)
        pairs.append((texts[0], texts[1]))
    return tuple(pairs)

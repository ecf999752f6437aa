"""harness.v1.CanaryJudge: its messages ↔ columns and standings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from harness.core.live import Standing
from harness.core.tensors import Bools, Floats, Ints, Strings
from harness.core.verdicts import Decision
from harness.wire.contents import MessageError, objects_from_strings
from harness.wire.gen import canary_judge_pb2

pb: Any = canary_judge_pb2

SERVICE = "harness.v1.CanaryJudge"
OBSERVE = f"/{SERVICE}/Observe"
WATCH = f"/{SERVICE}/Watch"
_DECISIONS = {int(pb.Decision.Value(word.value)): word for word in Decision}


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelColumns:
    """Labels of one guardrail, k of them."""

    unit: Strings
    """Shape (k,)."""
    value: Floats
    """Shape (k,)."""
    ts_ns: Ints
    """Shape (k,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedColumns:
    """A batch of observations as it was sent; nothing of it is checked."""

    number: int
    """Of the batch."""
    until_ns: int
    """Its end."""
    ts_ns: Ints
    """Per request."""
    unit: Strings
    """Per request."""
    candidate: Bools
    """Per request."""
    propensity: Floats
    """Per request."""
    values: dict[str, Floats]
    """Guardrail → per request."""
    labels: dict[str, LabelColumns]
    """Guardrail → its labels."""


def observed_from_bytes(message: bytes) -> ObservedColumns:
    """Reads an Observations message.

    Raises:
      MessageError: it is none.
    """
    sent = _parsed(pb.Observations, message)
    return ObservedColumns(
        number=sent.number,
        until_ns=sent.until_ns,
        ts_ns=np.array(sent.ts_ns, np.int64),
        unit=objects_from_strings(sent.unit),
        candidate=np.array(sent.candidate, np.bool_),
        propensity=np.array(sent.propensity, np.float64),
        values={name: np.array(v.value, np.float64) for name, v in sent.values.items()},
        labels={
            name: LabelColumns(
                unit=objects_from_strings(v.unit),
                value=np.array(v.value, np.float64),
                ts_ns=np.array(v.ts_ns, np.int64),
            )
            for name, v in sent.labels.items()
        },
    )


def bytes_from_observed(observed: ObservedColumns) -> bytes:
    """What a client sends."""
    message = pb.Observations(
        number=observed.number,
        until_ns=observed.until_ns,
        ts_ns=observed.ts_ns.tolist(),
        unit=observed.unit.tolist(),
        candidate=observed.candidate.tolist(),
        propensity=observed.propensity.tolist(),
    )
    for name, column in observed.values.items():
        message.values[name].value.extend(column.tolist())
    for name, labels in observed.labels.items():
        sent = message.labels[name]
        sent.unit.extend(labels.unit.tolist())
        sent.value.extend(labels.value.tolist())
        sent.ts_ns.extend(labels.ts_ns.tolist())
    return bytes(message.SerializeToString(deterministic=True))


def only_final_from_bytes(message: bytes) -> bool:
    """Reads a WatchRequest.

    Raises:
      MessageError: it is none.
    """
    return bool(_parsed(pb.WatchRequest, message).only_final)


def bytes_from_watch(*, only_final: bool) -> bytes:
    """What a client of Watch sends."""
    return bytes(pb.WatchRequest(only_final=only_final).SerializeToString())


def bytes_from_standing(standing: Standing, next_batch: int) -> bytes:
    """An Answer message."""
    message = pb.Answer(
        decision=pb.Decision.Value(standing.decision.value),
        reason=standing.reason,
        explanation=standing.explanation,
        final=standing.final,
        step=standing.step,
        share=standing.share,
        requests=standing.n_requests,
        units=standing.n_units,
        closed_units=standing.n_closed,
        sample_ratio_p=standing.sample_ratio_p,
        culprits=standing.culprits,
        log_e_rollback=dict(standing.log_e_rollback),
        log_e_promote=dict(standing.promote_at),
        counts=dict(standing.counts),
        next_batch=next_batch,
        ts_ns=standing.ts_ns,
    )
    return bytes(message.SerializeToString(deterministic=True))


def standing_from_bytes(message: bytes) -> tuple[Standing, int]:
    """An Answer as a client reads it, and the number of the batch that is due.

    Raises:
      MessageError: it is none.
    """
    sent = _parsed(pb.Answer, message)
    if sent.decision not in _DECISIONS:
        msg = f"an Answer with decision {sent.decision}"
        raise MessageError(msg)
    standing = Standing(
        ts_ns=sent.ts_ns,
        decision=_DECISIONS[sent.decision],
        reason=sent.reason,
        explanation=sent.explanation,
        final=sent.final,
        step=sent.step,
        share=sent.share,
        n_requests=sent.requests,
        n_units=sent.units,
        n_closed=sent.closed_units,
        sample_ratio_p=sent.sample_ratio_p,
        culprits=tuple(sent.culprits),
        log_e_rollback=tuple(sorted(sent.log_e_rollback.items())),
        promote_at=tuple(sorted(sent.log_e_promote.items())),
        counts=tuple(sorted(sent.counts.items())),
    )
    return standing, int(sent.next_batch)


def _parsed(kind: Any, message: bytes) -> Any:  # noqa: ANN401 - generated message classes
    try:
        return kind.FromString(message)
    except DecodeError:
        msg = f"these bytes are no {kind.DESCRIPTOR.name} message of harness.v1"
        raise MessageError(msg) from None

"""What a gate was asked to do, as it stands in the manifest, so that a run can be gone on with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.places import Place, place_from_text


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRequest:
    """The arguments of one gate, made absolute."""

    baseline: str
    """As the user wrote it."""
    candidate: str
    """As the user wrote it."""
    traffic: tuple[Place, ...]
    """Traffic folders, files or a sealed window."""
    labels: tuple[Place, ...]
    """Label files or folders besides those in the traffic folders."""
    policy: Path
    """Policy file."""
    as_of_ns: int
    """The instant whose knowledge the gate uses."""
    registry_uri: str | None
    """MLflow registry; None = what MLflow itself would use."""
    cache_dir: Path
    """Where sealed windows are kept."""
    state_dir: Path
    """Where attempts are counted."""
    allow_lower_isolation: bool
    """Run below the policy's tier, and say so."""

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> GateRequest:
        """Reads what `core.jsonable` wrote."""
        return cls(
            baseline=content["baseline"],
            candidate=content["candidate"],
            traffic=tuple(place_from_text(p) for p in content["traffic"]),
            labels=tuple(place_from_text(p) for p in content["labels"]),
            policy=Path(content["policy"]),
            as_of_ns=content["as_of_ns"],
            registry_uri=content["registry_uri"],
            cache_dir=Path(content["cache_dir"]),
            state_dir=Path(content["state_dir"]),
            allow_lower_isolation=content["allow_lower_isolation"],
        )

"""What earlier starts of a shadow on the same folder have seen: it goes on, and is not forgotten."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

COUNTED = (
    "taken", "compared", "differ", "candidate_failed", "baseline_failed", "both_failed", "left_out",
    "disagreements_kept", "disagreements_not_kept",
)  # fmt: skip
"""Counts of a `mirror_judge.MirrorReport` that are of all starts together."""
_MOST_NOTES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """From the report that the start before left."""

    counts: Mapping[str, int] = field(default_factory=dict)
    """`COUNTED` → how many."""
    outputs: tuple[dict[str, Any], ...] = ()
    """Output columns that were not equal, each by name as last reported."""
    notes: tuple[str, ...] = ()
    """What was not compared."""
    versions: dict[str, str] = field(default_factory=dict)
    """See `versions.Versions.known`."""
    changes: tuple[str, ...] = ()
    """Versions that were changed, each as words."""

    @classmethod
    def read(cls, report: Path) -> Self:
        """Reads a report; nothing is known where there is none, or a damaged one.

        Whoever serves then says that an account is missing: see `shadow_result.Before`.
        """
        try:
            found = json.loads(report.read_bytes())
            return cls(
                counts={name: int(found[name]) for name in COUNTED},
                outputs=tuple(
                    {o["name"]: o for o in [*found["outputs_before"], *found["outputs"]]}.values()
                ),
                notes=tuple(found["not_compared"])[-_MOST_NOTES:],
                versions={str(asked): str(seen) for asked, seen in found["versions"].items()},
                changes=tuple(found["version_changes"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls()

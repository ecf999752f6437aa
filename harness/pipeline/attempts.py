"""How often this candidate, baseline and policy were gated before.

Asking again until the answer is pleasant spends error rate; `judge.attempts` says how much an attempt
may spend, and the report shows the attempt.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.core.verdicts import Decision


def _read(path: Path) -> dict[str, Any] | None:
    """A run's JSON file; None when it is not there or was cut off by a kill."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def attempt_number(runs: Path, lineage: dict[str, str], own: Path) -> int:
    """1 + the earlier runs of the same lineage that looked at evidence and did not promote.

    Args:
      runs: folder whose sub-folders are runs.
      lineage: digests that make two gates attempts at the same question.
      own: this run's folder, left out.

    Returns:
      The number of this attempt, ≥ 1.
    """
    earlier = 0
    for manifest_path in runs.glob("*/manifest.json"):
        run = manifest_path.parent
        manifest = _read(manifest_path)
        if run.resolve() == own.resolve() or manifest is None or manifest.get("lineage") != lineage:
            continue
        decision = _read(run / "decision.json")
        looked = any((run / "pairs").glob("*.parquet"))
        promoted = decision is not None and decision.get("decision") == Decision.PROMOTE
        earlier += looked and not promoted
    return 1 + earlier

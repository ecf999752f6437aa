"""What a canary's evidence is about: a restart must give the same."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from harness.core.errors import UsageError
from harness.core.jsonable import jsonable, sha256
from harness.core.live import Live
from harness.live.folder_files import MANIFEST
from harness.store.runs import RunFolder

FORM = 6
"""Of state and journal; one of another form is not gone on with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What evidence is about; a restart must give the same."""

    policy: str
    """sha256 of what the live section means."""
    seed: str
    """Of the split."""
    baseline: str
    """Address, and version where it was said."""
    candidate: str
    """The same."""
    kind: str = "canary"
    """Or shadow."""
    model: str = ""
    """The only one that is split; "" = whatever is asked for."""
    sample: str = ""
    """Share of the requests that is mirrored; "" = all are split."""
    deadline: str = ""
    """The candidate of a shadow has so long for each."""

    @classmethod
    def of(
        cls, live: Live, *, seed: str, baseline: str, candidate: str, kind: str = "canary",
        model: str = "", sample: str = "", deadline: str = "",
    ) -> Self:  # fmt: skip
        """From the policy and the options."""
        return cls(
            policy=sha256(live),
            seed=seed,
            baseline=baseline,
            candidate=candidate,
            kind=kind,
            model=model,
            sample=sample,
            deadline=deadline,
        )


def manifest_of(identity: Identity) -> dict[str, Any]:
    """What the folder's manifest holds."""
    return {"form": FORM, **jsonable(identity)}


def seed_in(path: Path) -> str:
    """The seed of the canary in a folder; "" when there is none."""
    try:
        return str(json.loads((path / MANIFEST).read_bytes())["seed"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def same(run: RunFolder, identity: Identity) -> None:
    """Refuses a restart that asks something else.

    Raises:
      UsageError: names what differs.
    """
    kept = run.read_json(MANIFEST)
    if not isinstance(kept, dict) or kept.get("kind") != identity.kind:
        raise UsageError(str(run.path), "holds another kind of run", "Name another folder.")
    if kept.get("form") != FORM:
        raise UsageError(
            str(run.path), "was begun by another version of harness, which kept evidence otherwise",
            "Go on with that version, or name another folder.",
        )  # fmt: skip
    given: dict[str, str] = jsonable(identity)
    for what, value in given.items():
        if kept.get(what, "") != value:
            shown = "" if what in {"policy", "seed"} else f" ({kept.get(what)} before, {value} now)"
            raise UsageError(
                str(run.path), f"was begun with another {what}{shown}",
                "Evidence cannot be carried over: give the same again, or name another folder.",
            )  # fmt: skip

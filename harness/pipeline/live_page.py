"""The page of a canary's or a shadow's folder, also while somebody serves with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.core.errors import UsageError
from harness.store.files import machine_trouble_is_a_gate_error, sha256_of_file, write_atomically

PAGE = "report.html"
_KINDS = ("canary", "shadow")
_FORMS = ("all", "html")


def kind_of(path: Path) -> str:
    """Canary or shadow; "" where the folder holds a run, or nothing."""
    found = _read(path / "manifest.json")
    kind = found.get("kind") if isinstance(found, dict) else None
    return str(kind) if kind in _KINDS else ""


def write_live_page(path: Path, form: str) -> str:
    """Makes the page of what the folder says now. It is not locked: who serves with it goes on.

    Args:
      path: the folder of a canary or a shadow.
      form: all or html; there are no others.

    Returns:
      What was written.

    Raises:
      UsageError: another form, or a verdict that does not belong to its evidence.
      GateError: the page cannot be written.
    """
    from harness import report

    if form not in _FORMS:
        what = f"live traffic has no report as {form}"
        raise UsageError(str(path), what, "Leave --format out, or read its decision.json.")
    decision = _read(path / "decision.json")
    _check(path, decision)
    shadow = None
    if kind_of(path) == "shadow":
        shadow = _read(path / "shadow.json") or _read(path / "mirror.json") or {}
    view = report.view_from_live(
        _read(path / "manifest.json"),
        decision,
        _read(path / "evidence.json"),
        _events(path),
        shadow,
    )
    with machine_trouble_is_a_gate_error(path):
        write_atomically(path / PAGE, report.render_live(view).encode())
    return str(path / PAGE)


def _check(path: Path, decision: Any) -> None:  # noqa: ANN401 - parsed JSON
    """A verdict is shown only with the evidence that it was written with.

    Raises:
      UsageError: one of them was changed later. While it goes on they may be of different moments.
    """
    if not isinstance(decision, dict) or not decision.get("final"):
        return
    evidence = path / "evidence.json"
    now = sha256_of_file(evidence) if evidence.is_file() else "missing"
    if now != decision.get("evidence_sha256"):
        what = "decision.json and evidence.json do not belong together: one was changed afterwards"
        raise UsageError(str(path), what, "Trust neither of them; events.jsonl says what was told.")


def _read(path: Path) -> Any:  # noqa: ANN401 - whatever was written
    """Parsed JSON; None where there is none, or it is being written."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _events(path: Path) -> list[dict[str, Any]]:
    try:
        lines = (path / "events.jsonl").read_bytes().split(b"\n")[:-1]
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        found.append(event)
    return found

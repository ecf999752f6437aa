"""What `harness traffic` shows and seals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.clock import iso
from harness.core.errors import TrafficError
from harness.core.jsonable import jsonable
from harness.core.places import Place
from harness.core.traffic import WindowInfo
from harness.pipeline.progress import Listener, Progress, silent
from harness.pipeline.recorders import totals_text
from harness.store.partitions import TrafficSelection
from harness.store.summary import TrafficSummary
from harness.store.traffic import TrafficSource
from harness.store.windows import SealedWindow, is_window, seal

SEAL_SEED = 0
"""Storage order only; each gate draws its own test order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownTraffic:
    """What a traffic source or a sealed window holds."""

    path: str
    """As given."""
    sealed: bool
    """Whether it is a sealed window."""
    summary: TrafficSummary | WindowInfo
    """Its counts."""

    def to_json(self) -> str:
        """All counts as JSON."""
        return json.dumps(jsonable(self), indent=2)

    def to_text(self) -> str:
        """A short page."""
        match self.summary:
            case WindowInfo() as info:
                return window_text(self.path, info)
            case TrafficSummary() as summary:
                return _summary_text(self.path, summary)


def show_traffic(paths: Sequence[Place], selection: TrafficSelection | None = None) -> ShownTraffic:
    """Counts what traffic folders and files hold, or says what a sealed window holds.

    Args:
      paths: traffic folders and files, or one sealed window.
      selection: count only these exchanges; a sealed window is always whole.

    Raises:
      TrafficError: something cannot be read.
    """
    shown = ", ".join(str(p) for p in paths)
    if len(paths) == 1 and is_window(paths[0]):
        return ShownTraffic(path=shown, sealed=True, summary=SealedWindow.open(paths[0]).info)
    return ShownTraffic(
        path=shown, sealed=False, summary=TrafficSource.open(paths, selection).summary()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedTraffic:
    """A window that was just sealed."""

    path: str
    info: WindowInfo

    def to_json(self) -> str:
        """Path and counts as JSON."""
        return json.dumps(jsonable(self), indent=2)

    def to_text(self) -> str:
        """A short page."""
        return window_text(self.path, self.info)


def seal_traffic(
    paths: Sequence[Place],
    out: Path,
    *,
    selection: TrafficSelection | None = None,
    listener: Listener = silent,
) -> SealedTraffic:
    """Decodes traffic once into a shuffled, hashed window.

    Args:
      paths: traffic folders and files.
      out: window folder to create.
      selection: seal only these exchanges.
      listener: hears progress.

    Raises:
      TrafficError: the traffic cannot be read, nothing of it can be sealed, or `out` is taken or cannot
        be written.
    """

    def heard(done: int, total: int) -> None:
        listener(Progress(stage="seal", done=done, total=total))

    source = TrafficSource.open(paths, selection)
    try:
        with seal(source, out, seed=SEAL_SEED, progress=heard) as window:
            info = window.info
    except OSError as error:
        said = error.strerror or str(error).split("\n", 1)[0]
        raise TrafficError(
            str(out), f"the window cannot be written: {said}",
            "Make room or give access there, or name another folder; nothing is left of this one.",
        ) from error  # fmt: skip
    if not info.count:
        shutil.rmtree(out)
        why = ", ".join(f"{count:,} {reason}" for reason, count in info.not_sealed)
        chosen = (
            "no exchange in it is of the model and the time asked for"
            if selection
            else "no exchange in it"
        )
        raise TrafficError(
            ", ".join(str(p) for p in paths), f"nothing of it can be sealed: {why}" if why else chosen,
            "Name other traffic, or another model or time.",
        )  # fmt: skip
    return SealedTraffic(path=str(out), info=info)


def window_text(path: str, info: WindowInfo) -> str:
    """A sealed window in a few lines."""
    lines = [
        f"{path}: sealed window of {info.count:,} exchanges",
        f"  hash      {info.window_hash}",
        f"  span      {_span(info.first_ts_ns, info.last_ts_ns, info.count)}",
        f"  inputs    {', '.join(s.shown() for s in info.inputs) or 'none'}",
        f"  recorded  {', '.join(s.shown() for s in info.recorded) or 'none'}",
        f"  context   {', '.join(info.context) or 'none'}",
        f"  models    {_counts(info.models) or 'none'}",
        f"  answered by {_counts(info.versions) or 'nobody'}",
    ]
    lines += [f"  not recorded: {count:,} {reason}" for reason, count in info.not_recorded]
    lines += [f"  not sealed: {count:,} {reason}" for reason, count in info.not_sealed]
    lines += [
        f"  without a usable answer: {count:,} {reason}" for reason, count in info.not_answered
    ]
    return "\n".join(lines)


def _summary_text(path: str, s: TrafficSummary) -> str:
    lines = [
        f"{path}: {s.count:,} exchanges in {s.files} files",
        f"  span      {_span(s.first_ts_ns, s.last_ts_ns, s.count)}",
        f"  models    {_counts(s.models)}",
        f"  versions  {_counts(s.versions)}",
        f"  codes     {_counts(s.codes)}",
        f"  bytes     {s.request_bytes:,} in requests, {s.response_bytes:,} in responses",
        f"  labels    {s.labels:,} in {s.label_files} files",
        f"            {s.labelled:,} exchanges labelled, {s.labels_unknown:,} of unknown requests",
    ]
    for c in s.context:
        more = f", {c.distinct - len(c.values)} more" if c.distinct > len(c.values) else ""
        missing = f", missing in {c.missing:,}" if c.missing else ""
        lines.append(f"  context   {c.column}: {_counts(c.values)}{more}{missing}")
    if s.duplicates:
        lines.append(f"  duplicate request ids: {s.duplicates:,}; the first of each counts")
    lines += [f"  {line}" for t in s.recorders for line in totals_text(t).splitlines()]
    if s.without_id:
        lines.append(f"  without a request id: {s.without_id:,}; they cannot be replayed")
    return "\n".join(lines)


def _span(first_ns: int, last_ns: int, count: int) -> str:
    return f"{iso(first_ns)} to {iso(last_ns)}" if count else "empty"


def _counts(counts: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{value or 'unnamed'} ({count:,})" for value, count in counts)

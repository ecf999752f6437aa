"""A sealed window's manifest: what it holds, with the sha256 of its files and of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.core.errors import TrafficError
from harness.core.jsonable import jsonable, sha256
from harness.core.tensors import TensorSpec
from harness.core.traffic import WindowInfo
from harness.store.blocks import BLOCK_REQUESTS

FORMAT = "harness-window"
FORMAT_VERSION = 4
"""Changes whenever the same traffic would be sealed into other content: windows that are kept in a cache
are found by it. 4: requests of sessions are left out; beside_sample is counted."""
MANIFEST_FILE = "manifest.json"


def manifest_bytes(info: WindowInfo, files: dict[str, str], **more: object) -> bytes:
    """The manifest of a window.

    Args:
      info: what the window holds.
      files: file name → sha256 (hex).
      more: further facts for people.
    """
    body = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "block_requests": BLOCK_REQUESTS,
        "info": jsonable(info),
        "files": sorted([name, digest] for name, digest in files.items()),
        **jsonable(more),
    }
    return json.dumps({**body, "manifest_sha256": sha256(body)}, indent=1).encode() + b"\n"


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a window folder, checked against its own sha256.

    Raises:
      TrafficError: no window there, another format version, or a content that was changed.
    """
    file = path / MANIFEST_FILE
    try:
        manifest = json.loads(file.read_bytes())
    except OSError:
        raise TrafficError(
            str(path), "no sealed window here", "Give a folder that `harness traffic seal` wrote."
        ) from None
    except (ValueError, RecursionError):
        raise changed_content(file) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise TrafficError(
            str(path), "no sealed window here", "Give a folder that `harness traffic seal` wrote."
        )
    if manifest.get("format_version") != FORMAT_VERSION:
        raise TrafficError(
            str(path),
            f"window format {manifest.get('format_version')}, this version reads {FORMAT_VERSION}",
            "Seal the recorded traffic again.",
        )
    digest = manifest.pop("manifest_sha256", None)
    if digest != sha256(manifest):
        raise changed_content(file)
    return manifest


def changed_content(file: Path) -> TrafficError:
    """A file of a window that is not as it was sealed."""
    return TrafficError(
        str(file),
        "the content is not what was sealed (sha256 differs)",
        "Seal the recorded traffic again.",
    )


def described(path: Path, manifest: dict[str, Any]) -> tuple[WindowInfo, list[tuple[str, str]]]:
    """What a manifest says of its window, and (name, sha256 hex) of its files.

    Raises:
      TrafficError: it does not say that.
    """
    try:
        return _window_info(manifest["info"]), [(str(n), str(d)) for n, d in manifest["files"]]
    except (KeyError, TypeError, ValueError):
        raise TrafficError(
            str(path / MANIFEST_FILE), "does not say what a window's manifest says",
            "Seal the recorded traffic again.",
        ) from None  # fmt: skip


def _window_info(fields: dict[str, Any]) -> WindowInfo:

    def specs(name: str) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(name=s["name"], datatype=s["datatype"], shape=tuple(s["shape"]))
            for s in fields[name]
        )

    def pairs(name: str) -> tuple[tuple[str, Any], ...]:
        return tuple((word, value) for word, value in fields[name])

    return WindowInfo(
        window_hash=fields["window_hash"],
        count=fields["count"],
        first_ts_ns=fields["first_ts_ns"],
        last_ts_ns=fields["last_ts_ns"],
        inputs=specs("inputs"),
        recorded=specs("recorded"),
        context=tuple(fields["context"]),
        not_sealed=pairs("not_sealed"),
        sources=pairs("sources"),
        versions=pairs("versions"),
        not_answered=pairs("not_answered"),
        models=pairs("models"),
        not_recorded=tuple((word, value) for word, value in fields.get("not_recorded", ())),
        beside_sample=fields.get("beside_sample", 0),
        together=fields.get("together", 0),
    )

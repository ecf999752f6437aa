"""What every program of the sandbox does: it begins under the lock, and it speaks to its parent."""

from __future__ import annotations

import faulthandler
import gc
import os

from harness.sandbox.child import frames, lockdown

MAX_MESSAGE = 2000


def begun(requests: int) -> tuple[frames.Reader, frames.Header, lockdown.Layers]:
    """Every program's beginning: reads its configuration and goes through the first stage of the lock.

    Nothing third-party may be imported before.

    Args:
      requests: descriptor of the request pipe.

    Returns:
      The pipe's reader, the configuration, and what holds.
    """
    faulthandler.enable()
    # Imports make much that stays: looking through it again and again is a twentieth of a start.
    gc.disable()
    reader = frames.Reader(requests)
    config = frames.read_frame(reader, 0).header
    layers = lockdown.stage_a(
        config["parent"], config["memory_bytes"], die_with_parent=config["die_with_parent"]
    )
    return reader, config, layers


def locked(
    reader: frames.Reader,
    answers: int,
    parent: int,
    layers: lockdown.Layers,
    versions: dict[str, str] | None = None,
) -> frames.Header:
    """Goes through the second stage of the lock and waits for the parent's word.

    Args:
      reader: the request pipe.
      answers: the answer pipe.
      parent: process id of the parent.
      layers: of the first stage.
      versions: what runs here, for the parent.

    Returns:
      The "load" frame: the parent accepts the lock.
    """
    from harness.sandbox.child import locales, sessions

    sessions.warm_up()
    locales.hold()
    gc.freeze()
    gc.enable()
    tried = lockdown.stage_b(parent, layers)
    send(
        answers,
        {"kind": "ready", "layers": layers, "self_tests": tried, "versions": versions or {}},
    )
    return frames.read_frame(reader, 0).header


def send(fd: int, header: frames.Header | bytes, buffers: list[memoryview] | None = None) -> None:
    """Writes one frame."""
    frames.write_all(fd, frames.packed(header, buffers or []))


def bytes_from_fd(fd: int) -> bytes:
    """The whole content of a sealed memory file; closes it.

    Read from its start by position: other processes share the descriptor's offset.
    """
    try:
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)


def shown(error: Exception) -> str:
    """An exception as one short line for the parent."""
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text}"[:MAX_MESSAGE]

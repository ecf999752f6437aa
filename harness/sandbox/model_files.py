"""A model's bytes in sealed memory: the file, its external data, its probed copy."""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType

from harness.core.errors import UsageError
from harness.sandbox.memory_files import sealed_from_path, sealed_from_paths

NOTHING = -1
"""Stands for a descriptor that is not there."""


class ModelFiles:
    """One version's bytes, sealed once for all the processes that run it.

    Close it when no further process is to be started; processes that have started keep the bytes.

    Args:
      model: the .onnx file.
      external: names of its external data files relative to its folder, as they were pinned.
      trace_model: a probed copy, which shares the external data.
      cut_model: a copy that computes nothing but what the probed one returns besides; it, too.
      folder: where the external data lie; None = beside the model.

    Raises:
      UsageError: a file cannot be read, or a name leads out of the model's folder.
    """

    def __init__(
        self,
        model: Path,
        *,
        external: Sequence[str] = (),
        trace_model: Path | None = None,
        cut_model: Path | None = None,
        folder: Path | None = None,
    ) -> None:
        fds: list[int] = []
        self._finalize = weakref.finalize(self, _close, fds)
        self.external_fd = NOTHING
        """All external files, one after the other."""
        self.external: tuple[tuple[str, int, int], ...] = ()
        """(name, first byte, bytes) of each."""
        try:
            self.model_fd = sealed_from_path(model)
            fds.append(self.model_fd)
            self.trace_fd = NOTHING if trace_model is None else sealed_from_path(trace_model)
            fds.append(self.trace_fd)
            self.cut_fd = NOTHING if cut_model is None else sealed_from_path(cut_model)
            fds.append(self.cut_fd)
            if external:
                paths = [_inside(folder or model.parent, name) for name in external]
                self.external_fd, spans = sealed_from_paths("external", paths)
                fds.append(self.external_fd)
                self.external = tuple(
                    (name, *span) for name, span in zip(external, spans, strict=True)
                )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets go of the bytes."""
        self._finalize()

    def __enter__(self) -> ModelFiles:
        """The files themselves."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Lets go of the bytes."""
        self.close()


def _inside(folder: Path, name: str) -> Path:
    """The path of an external file; a name or link that leaves the folder is refused."""
    plain = PurePosixPath(name)
    path = folder / plain
    if (
        not name
        or plain.is_absolute()
        or ".." in plain.parts
        or not path.resolve().is_relative_to(folder.resolve())
    ):
        raise UsageError(
            str(folder), f"the external data file '{name}' does not lie in this folder",
            "Keep a model's external data beside it.",
        )  # fmt: skip
    return path


def _close(fds: list[int]) -> None:
    for fd in fds:
        if fd != NOTHING:
            os.close(fd)

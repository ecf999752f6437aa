"""Files of a local folder or of an object store, by the same few words.

Reading is the same for both; writing is whole or not at all for both: a local file is renamed when it
is finished, an object appears when its upload ends.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from harness.core.errors import TrafficError
from harness.core.places import ObjectPlace, Place
from harness.store.files import publish, sha256_of_file, write_atomically
from harness.store.objects import filesystem, trouble_is_a_traffic_error

_PIECE = 8 << 20


def is_file(place: Place) -> bool:
    """Whether there is a file or an object of exactly that name.

    Raises:
      TrafficError: the store cannot be asked.
    """
    if isinstance(place, Path):
        found = _looked_at(place)
        return found is not None and stat.S_ISREG(found.st_mode)
    from pyarrow.fs import FileType

    if not place.key:
        return False
    with trouble_is_a_traffic_error(place):
        return bool(filesystem(place).get_file_info(place.path).type == FileType.File)


def _looked_at(path: Path) -> os.stat_result | None:
    """What a path leads to; None = nothing.

    Raises:
      TrafficError: that cannot be known.
    """
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:  # of the folder: looking takes no right to the file
        raise _unreadable(path.parent, error) from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError | ValueError) -> TrafficError:
    said = getattr(error, "strerror", None) or error
    return TrafficError(shown(path), f"cannot be read: {said}", "Check the path and its rights.")


def shown(path: Path) -> str:
    """A path as messages and files can hold it, whatever bytes its name has."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def files_below(folder: Place, suffix: str) -> list[PurePosixPath]:
    """Paths, relative to a folder, of all files below it with that ending, sorted; hidden ones left out.

    Folders that links lead to are read, each once.

    Raises:
      TrafficError: a folder cannot be listed, the bucket is not there, the store cannot be reached.
    """
    if isinstance(folder, Path):
        found = [p for p in _walked(folder) if p.name.endswith(suffix)]
    else:
        from pyarrow.fs import FileSelector, FileType

        with trouble_is_a_traffic_error(folder):
            listed = filesystem(folder).get_file_info(
                FileSelector(folder.path, recursive=True, allow_not_found=bool(folder.key))
            )
        files = [PurePosixPath(i.path) for i in listed if i.type == FileType.File]
        found = [p.relative_to(folder.path) for p in files if p.name.endswith(suffix)]
    return sorted(p for p in found if not any(part.startswith(".") for part in p.parts))


def _walked(folder: Path) -> Iterator[PurePosixPath]:
    """Every file that is not in a hidden folder; one that cannot be listed is an error, not empty."""

    def refused(error: OSError) -> None:
        raise _unreadable(Path(error.filename or folder), error)

    seen: set[tuple[int, int]] = set()
    for above, folders, names in os.walk(folder, onerror=refused, followlinks=True):
        place = Path(above).stat()
        if (place.st_dev, place.st_ino) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = PurePosixPath(Path(above).relative_to(folder))
        yield from (below / name for name in names)


def check_readable(path: Path) -> None:
    """Refuses what would hang or puzzle whoever reads it as a file.

    Raises:
      TrafficError: there is none, it is a pipe or the like, there is no right to read it, or its name
        has no UTF-8 form, without which Arrow opens nothing.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        raise TrafficError(shown(path), f"is {kind} and no file", "Name a file, or leave it out.")
    if not os.access(path, os.R_OK):
        raise TrafficError(shown(path), "cannot be read: Permission denied", "Give access to it.")
    if shown(path) != str(path):
        raise TrafficError(shown(path), "its name has no UTF-8 form", "Rename it.")


@contextmanager
def opened(place: Place) -> Iterator[Any]:
    """A file's content as Arrow reads it: the path itself, or an open object.

    Raises:
      TrafficError: no such file or object, no right to read it, or the store cannot be reached.
    """
    if isinstance(place, Path):
        check_readable(place)
        yield place
        return
    with trouble_is_a_traffic_error(place):
        source = filesystem(place).open_input_file(place.path)
    with source:
        yield source


def stream(place: Place) -> Any:  # noqa: ANN401 - a binary file, or pyarrow's, which has no types
    """A file's bytes from its beginning; the caller closes it.

    Raises:
      TrafficError: no such file, or it cannot be read.
    """
    if isinstance(place, ObjectPlace):
        with trouble_is_a_traffic_error(place):
            return filesystem(place).open_input_stream(place.path)
    check_readable(place)
    try:
        return place.open("rb")
    except OSError as error:
        raise _unreadable(place, error) from None


def sha256_of(place: Place) -> str:
    """sha256 (hex) of a file's bytes."""
    if isinstance(place, Path):
        return sha256_of_file(place)
    digest = hashlib.sha256()
    with stream(place) as source, trouble_is_a_traffic_error(place):
        while piece := source.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def write_whole(place: Place, content: bytes) -> None:
    """Writes a small file in place of what was there; readers see the old bytes or the new ones."""
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, content)
        return
    with (
        trouble_is_a_traffic_error(place),
        filesystem(place).open_output_stream(place.path) as target,
    ):
        target.write(content)


def move(file: Path, place: Place) -> None:
    """Gives a finished local file its place; the local one is removed last.

    Raises:
      TrafficError: the store takes no such object.
    """
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True)
        publish(file, place)
        return
    with trouble_is_a_traffic_error(place):
        store = filesystem(place)
        with file.open("rb") as source, store.open_output_stream(place.path) as target:
            while piece := source.read(_PIECE):
                target.write(piece)
    file.unlink()


def remove(place: Place) -> None:
    """Removes a file or an object that is there.

    Raises:
      TrafficError: the store refuses.
    """
    if isinstance(place, Path):
        place.unlink()
        return
    with trouble_is_a_traffic_error(place):
        filesystem(place).delete_file(place.path)

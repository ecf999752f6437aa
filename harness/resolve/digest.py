"""The content digest of a model: what a version *is*, whatever a registry calls it.

MLflow keeps no digest of a version's bytes, so this one is written to the version's tags when it
is registered and checked when it is pinned. Canonical form, recomputable with `sha256sum`:

    sha256 of canonical JSON (`core.jsonable`: sorted keys, no spaces, UTF-8) of
    {"external": [{"name", "sha256", "size"}, …], "format": "harness-model/1",
     "model": {"sha256", "size"}, "requirements": [line, …]}

The model's own file name is left out (a bare file and the same file in a model folder are one
model); external data keep their names relative to the model, sorted, because the model refers to
them; requirements are sorted, mlflow's own left out. Bookkeeping (MLmodel, conda.yaml, …) is not
part of it: it carries the time of logging.

External data are found without parsing the model, which is untrusted here. Protobuf stores strings
verbatim: a model with external data holds the key `location` and the name of each file it wants.
So a neighbour is external data when its name occurs in the model's bytes; hashing every neighbour
was left, as a folder often holds unrelated models. Too many files can be found this way, which
makes the digest stricter, never too few.
"""

from __future__ import annotations

import hashlib
import mmap
from dataclasses import dataclass
from pathlib import Path

from harness.core import jsonable

FORMAT = "harness-model/1"
_LOCATION_KEY = b"location"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDigest:
    """One file's content."""

    name: str
    """Relative to the model's folder, with forward slashes; "" for the model itself."""
    size: int
    """Bytes."""
    sha256: str
    """Of the bytes, hex."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelContent:
    """Everything a model's digest covers."""

    model: FileDigest
    """The .onnx file."""
    external: tuple[FileDigest, ...]
    """Its external data, sorted by name."""
    requirements: tuple[str, ...]
    """As recorded, mlflow's own left out; order does not enter the digest."""

    @property
    def external_names(self) -> tuple[str, ...]:
        """Names of the external data, as `PinnedModel.external` has them."""
        return tuple(file.name for file in self.external)

    @property
    def digest(self) -> str:
        """sha256 (hex) of the canonical form."""
        return jsonable.sha256(
            {
                "format": FORMAT,
                "model": {"sha256": self.model.sha256, "size": self.model.size},
                "external": self.external,
                "requirements": sorted(set(self.requirements)),
            }
        )


def model_content(model: Path, requirements: tuple[str, ...] = ()) -> ModelContent:
    """Hashes a model, its external data and its requirements; memory does not grow with size.

    Args:
      model: the .onnx file; its external data lie beside or below it.
      requirements: pip requirements recorded with it; a bare file has none.

    Raises:
      OSError: a file cannot be read.
    """
    return ModelContent(
        model=_file_digest(model, ""),
        external=tuple(
            _file_digest(model.parent / name, name) for name in external_data_names(model)
        ),
        requirements=requirements,
    )


def external_data_names(model: Path) -> tuple[str, ...]:
    """Names of the external data files of a model, relative to its folder, sorted.

    A link that leaves the folder is none of them: what it leads to is not the model's, and a model that
    wants it does not load, as with any other path out of its folder. A hard link cannot be told from a
    file: its content is pinned.

    Args:
      model: the .onnx file.

    Raises:
      OSError: the model or a folder below it cannot be read.
    """
    if model.stat().st_size == 0:
        return ()
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(_LOCATION_KEY) < 0:
            return ()
        found = _named_below(model.parent, content, skip=model)
    home = model.parent.resolve()
    found = [path for path in found if path.resolve().is_relative_to(home)]
    return tuple(sorted(path.relative_to(model.parent).as_posix() for path in found))


def _named_below(folder: Path, content: mmap.mmap, skip: Path) -> list[Path]:
    """Files below a folder whose every path component below it occurs in the content."""
    found: list[Path] = []
    for entry in folder.iterdir():
        if entry == skip or content.find(entry.name.encode(errors="surrogateescape")) < 0:
            continue
        if entry.is_dir() and not entry.is_symlink():
            found += _named_below(entry, content, skip)
        elif entry.is_file():
            found.append(entry)
    return found


def _file_digest(path: Path, name: str) -> FileDigest:
    """Size and sha256 of one file, read in blocks."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileDigest(name=name, size=file.tell(), sha256=digest)

"""Plain .onnx files and MLflow model folders, copied to where nothing else writes.

The copy is made first and hashed then: the digest is of the bytes that will run. Copies lie in a
folder named by their digest, so pinning the same content again is free and two versions may share
the folder they are pinned into.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.core.errors import ResolveError
from harness.core.models import PinnedModel
from harness.resolve.digest import ModelContent, external_data_names, model_content
from harness.resolve.golden import pin_golden
from harness.resolve.recorded_files import yaml_from_file
from harness.resolve.requirements import (
    CONDA_FILE,
    PYTHON_FILE,
    Recorded,
    recorded_beside,
    recorded_in_folder,
)
from harness.resolve.tags import training_cutoff_ns

MODEL_FILE = "model.onnx"
METADATA_FILE = "MLmodel"
_LONGEST_NAME = 1000
_LONGEST_SHOWN = 100
_LARGEST_BYTES = 8 << 30
"""Of a model with its external data."""
_SMALL_BYTES = 64 << 20
"""A file up to this size may be as hollow as it likes."""
_ORT_FORMAT = b"\0ORTM"
"""How the first 8 bytes of a file in onnxruntime's own format end: a number's last byte, then the format's name. In
ONNX that name may be the producer's, behind its length."""
_MOST_HOLLOW = 16
"""Claimed bytes per byte that was written: weights with gaps between them stay below it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model as it lies on disk, before it is copied."""

    model: Path
    """The .onnx file."""
    recorded: Recorded = field(default_factory=Recorded)
    """What it needs to run."""
    metadata: tuple[tuple[str, str], ...] = ()
    """Text values of the folder's own metadata, sorted by key."""


def pin_path(given: str, into: Path) -> PinnedModel:
    """Pins an .onnx file or an MLflow model folder.

    Args:
      given: the path as the user wrote it.
      into: folder for the copy; made when missing.

    Raises:
      ResolveError: missing, empty or unreadable, not a model folder, or a link out of the folder.
    """
    source = model_source(Path(given), given)
    path, content = copy_model(source, into, given)
    tags = dict(source.metadata)
    at = Path(given).resolve()
    return PinnedModel(
        given=given,
        uri=str(at),
        name=at.name if at.is_dir() else at.stem,
        version="file",
        digest=content.digest,
        path=path,
        external=content.external_names,
        requirements=source.recorded.requirements,
        python=source.recorded.python,
        not_followed=source.recorded.not_followed,
        training_cutoff_ns=training_cutoff_ns(tags, given),
        tags=source.metadata,
        golden=pin_golden(at, into),
    )


def model_source(path: Path, where: str) -> ModelSource:
    """Finds the model at a path.

    Args:
      path: an .onnx file or an MLflow model folder.
      where: how errors name it.

    Raises:
      ResolveError: there is no usable model.
    """
    try:
        if path.is_dir():
            return _folder_source(path.resolve(), where)
        if not path.is_file():
            raise ResolveError(
                where,
                "no such file or folder",
                "Give an existing .onnx file or MLflow model folder, or models:/NAME@ALIAS.",
            )
        if path.suffix.lower() != ".onnx":
            raise ResolveError(
                where, "it is no .onnx file", "Export the model to ONNX and give that file."
            )
        model = _checked(path.resolve(), where)
        return ModelSource(model=model, recorded=recorded_beside(model, where))
    except OSError as error:
        raise _unreadable(where, error) from error


def copy_model(
    source: ModelSource, into: Path, where: str, *, recorded_digest: str = ""
) -> tuple[Path, ModelContent]:
    """Copies a model with its external data and hashes the copy.

    Args:
      source: what to copy.
      into: folder that holds the copies, each in a folder named by its digest.
      where: how errors name the model.
      recorded_digest: what the digest must be; "" when none was recorded.

    Returns:
      The copied .onnx file (read-only) and its content.

    Raises:
      ResolveError: a file cannot be read or copied, or the digest is not the recorded one.
    """
    try:
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".incoming-", dir=into) as staged:
            model = _copy_files(source.model, Path(staged) / "content", where)
            content = model_content(model, source.recorded.requirements)
            if recorded_digest and content.digest != recorded_digest:
                raise ResolveError(
                    where,
                    "refused, its bytes are not those that were registered: digest"
                    f" {content.digest[:16]}…, recorded {recorded_digest[:16]}…",
                    "Register the model again, and find out who changed the stored files.",
                )
            return _publish(model, into / content.digest[:32], content), content
    except OSError as error:
        raise _unreadable(where, error) from error


def _folder_source(folder: Path, where: str) -> ModelSource:
    """Reads an MLflow model folder (resolved path)."""
    if not (folder / METADATA_FILE).is_file():
        remedy = (
            f"Give the file itself: {where.rstrip('/')}/{MODEL_FILE}"
            if (folder / MODEL_FILE).is_file()
            else "Give an MLflow model folder or an .onnx file."
        )
        raise ResolveError(where, f"the folder has no {METADATA_FILE} file", remedy)
    _refuse_links_out(folder, where)
    metadata = _mlmodel(folder / METADATA_FILE, where)
    named = metadata.get("flavors")
    flavors = named if isinstance(named, dict) else {}
    onnx = flavors.get("onnx")
    if not isinstance(onnx, dict):
        has = ", ".join(sorted(map(str, flavors))) or "none"
        raise ResolveError(
            where,
            f"the model was not logged as ONNX (flavors: {has})",
            "Log it with mlflow.onnx.log_model, or export it to ONNX first.",
        )
    model = _named_file(folder, onnx.get("data") or MODEL_FILE, "model", where)
    conda, python = _environment_files(folder, flavors.get("python_function"), where)
    extra = metadata.get("metadata")
    return ModelSource(
        model=_checked(model, where),
        recorded=recorded_in_folder(folder, where, conda_name=conda, python_name=python),
        metadata=tuple(sorted((str(k), str(v)) for k, v in extra.items()))
        if isinstance(extra, dict)
        else (),
    )


def _mlmodel(path: Path, where: str) -> dict[str, Any]:
    """Reads an MLmodel file as a mapping."""
    found = yaml_from_file(path, where)
    if not isinstance(found, dict):
        raise ResolveError(where, f"{METADATA_FILE} holds no mapping", "Log the model again.")
    return found


def _environment_files(folder: Path, flavor: object, where: str) -> tuple[str, str]:
    """The conda file and the file of the Python that MLmodel names: one text, or one for each tool."""
    env = flavor.get("env") if isinstance(flavor, dict) else None
    named = env if isinstance(env, dict) else {"conda": env}
    found = []
    for tool, usual in (("conda", CONDA_FILE), ("virtualenv", PYTHON_FILE)):
        name = named.get(tool)
        if name is None or name == usual:
            found.append(usual)
        else:
            file = _named_file(folder, name, "environment", where)
            found.append(str(file.relative_to(folder)))
    return found[0], found[1]


def _named_file(folder: Path, name: object, kind: str, where: str) -> Path:
    """A file in the folder that an MLmodel file names."""
    # A longer name, or one with a control character, is no file's; some cannot even be asked for.
    if isinstance(name, str) and len(name) <= _LONGEST_NAME and name.isprintable():
        found = (folder / name).resolve()
        if found.is_relative_to(folder) and found.is_file():
            return found
    shown = "".join(filter(str.isprintable, str(name)[:_LONGEST_SHOWN]))
    raise ResolveError(
        where,
        f"{METADATA_FILE} names the {kind} file '{shown}', which is not in the folder",
        "Log or copy the model again.",
    )


def _checked(model: Path, where: str) -> Path:
    """The file, once it is known to hold something, and not onnxruntime's own format by ONNX's name."""
    if model.stat().st_size == 0:
        raise ResolveError(where, f"{model.name} is empty", "Export or download the model again.")
    with model.open("rb") as file:
        head = file.read(8)
    if head.endswith(_ORT_FORMAT):
        raise ResolveError(
            where,
            f"{model.name} is in ORT format and not in ONNX: its graph cannot be looked into",
            "Give the .onnx file that it was converted from.",
        )
    return model


def _refuse_links_out(folder: Path, where: str) -> None:
    """A model folder is its files: a link out of it would pin something else."""
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            entry = Path(root) / name
            if entry.is_symlink() and not _leads_into(entry, folder):
                raise ResolveError(
                    where,
                    f"{entry.relative_to(folder)} is a link that leaves the folder or leads nowhere",
                    "Replace the link by the file it points to.",
                )


def _leads_into(link: Path, folder: Path) -> bool:
    """Whether a link leads to something in the folder; one that leads in a circle does not."""
    try:
        return link.resolve().is_relative_to(folder)
    except RuntimeError:
        return False


def _copy_files(model: Path, home: Path, where: str) -> Path:
    """Copies a model and its external data, read-only, to a new folder; returns the model.

    The copy has one name whatever the source is called, so that equal content is one copy.
    """
    # Before its names are read: a file of holes costs nothing to make and its whole size to look through.
    _refuse_too_large([model], where)
    external = external_data_names(model)
    copied = home / (MODEL_FILE if MODEL_FILE not in external else f"_{MODEL_FILE}")
    _refuse_too_large([model, *(model.parent / n for n in external)], where)
    home.mkdir()
    for source, target in ((model, copied), *((model.parent / n, home / n) for n in external)):
        if not source.resolve().is_relative_to(model.parent):
            raise ResolveError(
                where,
                f"its external data file {source.name} is a link that leaves the folder",
                "Replace the link by the file it points to.",
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o444)
    return copied


def _refuse_too_large(files: list[Path], where: str) -> None:
    """A copy takes as much room as the files claim, also where they hold nothing."""
    total = 0
    for file in files:
        seen = file.stat()
        total += seen.st_size
        if seen.st_size <= _SMALL_BYTES or seen.st_size > _LARGEST_BYTES:
            continue
        if (there := _bytes_of_data(file)) < seen.st_size // _MOST_HOLLOW:
            raise ResolveError(
                where,
                f"{file.name} claims {seen.st_size:,} bytes and holds {there:,}; the rest are holes",
                "Export or download the model again.",
            )
    if total > _LARGEST_BYTES:
        raise ResolveError(
            where,
            f"the model and its external data take {total:,} bytes, and at most {_LARGEST_BYTES:,} are read",
            "Export a smaller model, and keep other files out of its folder.",
        )


def _bytes_of_data(path: Path) -> int:
    """Bytes of a file that are no holes.

    Blocks on disk would tell too little: some file systems count them seconds after the writing.
    """
    with path.open("rb") as file:
        fd, end, found = file.fileno(), file.seek(0, os.SEEK_END), 0
        start = 0
        while start < end:
            try:
                start = os.lseek(fd, start, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break
            hole = os.lseek(fd, start, os.SEEK_HOLE)
            found += hole - start
            start = hole
    return found


def _publish(staged: Path, home: Path, content: ModelContent) -> Path:
    """Moves a staged copy to its place, unless an intact one is already there; returns the model."""
    model = home / staged.name
    if home.exists():
        if model.is_file() and model_content(model, content.requirements) == content:
            return model
        shutil.rmtree(home)
    try:
        staged.parent.rename(home)
    except OSError:
        # Another process published the same content in the meantime.
        if not (model.is_file() and model_content(model, content.requirements) == content):
            raise
    return model


def _unreadable(where: str, error: OSError) -> ResolveError:
    """An operating-system error as one about the model."""
    reason = error.strerror or str(error)
    file = f" ({error.filename})" if error.filename else ""
    return ResolveError(where, f"{reason}{file}", "Check that the files exist and may be read.")

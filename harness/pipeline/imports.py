"""Logs of other systems → traffic: which reader, which model's signature, where it is remembered."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from harness.core.errors import UsageError, nearest
from harness.core.places import Place, absolute
from harness.core.policies import SandboxPolicy
from harness.core.tensors import Signature
from harness.pipeline.assets import default_state_dir
from harness.pipeline.mappings import body_mapping, table_mapping
from harness.pipeline.opening import look_at
from harness.pipeline.progress import Listener, Progress, silent
from harness.pipeline.runtimes import runtimes
from harness.record.importers import databricks, kserve, sagemaker, seldon, tables
from harness.record.importers.columns import BodyMapping
from harness.record.importers.delta import present_files
from harness.record.importers.run import ImportReport, ImportTarget, Reader, run_import
from harness.record.importers.sink import EventSink, SinkOptions
from harness.record.importers.sources import SourceFile, missing_file, source_files
from harness.record.importers.tables import TableMapping
from harness.resolve.pin import pin
from harness.sandbox.hello import LoadFailure
from harness.store.windows import is_window

FORMATS = ("kserve", "sagemaker", "databricks", "mlflow", "seldon", "table")
"""What `import_traffic` reads; mlflow is databricks by its other name."""
_TABLE = "table"
MOST_RECORD_BYTES = 64 << 20
_WAIT_S = {"kserve": 300.0, "seldon": 300.0}


def import_traffic(
    kind: str,
    source: Place,
    to: Place,
    *,
    mapping: Path | None = None,
    model: str | None = None,
    model_name: str = "",
    registry_uri: str | None = None,
    wait_s: float | None = None,
    most_record_bytes: int = MOST_RECORD_BYTES,
    whole: bool = False,
    state_dir: Path | None = None,
    allow_lower_isolation: bool = False,
    listener: Listener = silent,
) -> ImportReport:
    """Imports logs; the same call again goes on where it was interrupted, and takes what is new.

    Args:
      kind: one of FORMATS.
      source: file or folder of the logs.
      to: traffic folder or prefix; made when missing.
      mapping: a YAML file that says what the columns of a `table` are, or which names and types the
        values in the bodies of other logs have; see `mappings`.
      model: reference of the model whose signature gives names and types to bodies without them; it
        is looked at in the sandbox, as a gate does.
      model_name: model name for logs that have none (sagemaker, databricks).
      registry_uri: MLflow registry, for `model`.
      wait_s: how much older than the newest request one without an answer must be to be written; None =
        five minutes where answers are records of their own (kserve, seldon), else none.
      most_record_bytes: longer records are counted as oversized.
      whole: the last line of a CSV file counts also where it has no end of line.
      state_dir: where an import into an object store is remembered; None = the user's state folder.
      allow_lower_isolation: look at the model below the tier that policies require by default.
      listener: hears progress.

    Raises:
      UsageError: unknown format, wrong mapping, unusable model or source.
    """
    files = _files(kind, source, whole=whole)
    columns = None if mapping is None or kind != _TABLE else table_mapping(mapping)
    read = _reader(kind, columns, model_name, most_record_bytes)
    bodies = None if kind == _TABLE else mapping
    known = _known(bodies, kind, model, registry_uri, weaker=allow_lower_isolation)

    def heard(done: int, total: int) -> None:
        listener(Progress(stage="import", done=done, total=total))

    return run_import(
        files,
        read,
        _target(to, kind, state_dir),
        known=known,
        how=repr((columns, known, model_name, most_record_bytes)),
        wait_ns=round((_WAIT_S.get(kind, 0.0) if wait_s is None else wait_s) * 1e9),
        heard=heard,
    )


def open_sink(
    to: Place,
    options: SinkOptions,
    *,
    mapping: Path | None = None,
    model: str | None = None,
    registry_uri: str | None = None,
    state_dir: Path | None = None,
    allow_lower_isolation: bool = False,
) -> EventSink:
    """Opens a sink for KServe's logger; close it to have the last exchanges written.

    Args:
      to: traffic folder or prefix; made when missing.
      options: how to listen and write.
      mapping: see `import_traffic`.
      model: see `import_traffic`.
      registry_uri: MLflow registry, for `model`.
      state_dir: see `import_traffic`.
      allow_lower_isolation: see `import_traffic`.

    Raises:
      UsageError: an unusable mapping, model, address or certificate; another import writes there.
    """
    known = _known(mapping, "kserve", model, registry_uri, weaker=allow_lower_isolation)
    return EventSink(_target(to, "kserve", state_dir), options, known)


def _target(to: Place, kind: str, state_dir: Path | None) -> ImportTarget:
    if is_window(to):
        raise UsageError(
            f"--to {to}",
            "is a sealed window, and what is sealed does not change",
            "Name another folder.",
        )
    return ImportTarget(to=absolute(to), state=state_of(to, kind, state_dir), name=kind)


def state_of(to: Place, name: str, state_dir: Path | None = None) -> Path:
    """The local folder that remembers what was imported into a traffic folder."""
    if isinstance(to, Path):
        return Path(os.path.realpath(to)) / ".import" / name
    digest = hashlib.sha256(f"{to}\n{name}".encode()).hexdigest()[:16]
    return (state_dir or default_state_dir()).resolve() / "imports" / digest


def _files(kind: str, source: Place, *, whole: bool) -> list[SourceFile]:
    suffixes = {
        "kserve": kserve.SUFFIXES,
        "sagemaker": sagemaker.SUFFIXES,
        "seldon": seldon.SUFFIXES,
        "table": tables.SUFFIXES,
    }.get(kind, databricks.SUFFIXES)
    if kind not in FORMATS:
        raise UsageError(kind, f"is no format ({nearest(kind, FORMATS)})", "Name one of them.")
    files = source_files(source, suffixes, whole=whole)
    if suffixes is databricks.SUFFIXES and not (isinstance(source, Path) and source.is_file()):
        present = present_files(source)
        if present is not None:
            there = {f.name: f for f in files}
            # A file that the log names and that is not there is read, and counted as damaged.
            files = [there.get(name) or missing_file(source, name) for name in present]
    return files


def _reader(kind: str, mapping: TableMapping | None, model_name: str, limit: int) -> Reader:
    if kind == _TABLE:
        if mapping is None:
            raise UsageError(
                f"the format {kind}",
                "needs a mapping",
                "Give --mapping FILE; its --help shows one.",
            )
        return partial(tables.read, limit=limit, mapping=mapping)
    readers: dict[str, Callable[[], Reader]] = {
        "kserve": lambda: partial(kserve.read, limit=limit),
        "sagemaker": lambda: partial(sagemaker.read, limit=limit, model=model_name),
        "seldon": lambda: partial(seldon.read, limit=limit),
    }
    return readers.get(kind, lambda: partial(databricks.read, limit=limit, model=model_name))()


def _known(
    mapping: Path | None, kind: str, model: str | None, registry_uri: str | None, *, weaker: bool
) -> Signature | BodyMapping | None:
    """Names and types of bodies without them."""
    if mapping is None:
        return None if model is None else _signature(model, registry_uri, weaker=weaker)
    if model is not None:
        raise UsageError(
            "--mapping", "stands beside --model, and both say what bodies hold", "Give one of them."
        )
    return body_mapping(mapping, kind)


def _signature(model: str, registry_uri: str | None, *, weaker: bool) -> Signature:
    with tempfile.TemporaryDirectory(prefix="harness-import-") as scratch:
        pinned = pin(model, Path(scratch) / "models", registry_uri=registry_uri)
        (runtime,) = runtimes([pinned], lambda _: None)
        (seen,) = look_at(
            [pinned],
            SandboxPolicy(),
            Path(scratch) / "probes",
            [runtime.python],
            allow_weaker=weaker,
        )
        if isinstance(seen, LoadFailure):
            raise UsageError(model, f"does not load: {seen.message}", "Give a model that loads.")
        return seen.graph.signature

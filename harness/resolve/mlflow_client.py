"""One quiet, bounded connection to an MLflow registry.

MLflow costs seconds to import (about 3 s of CPU where pandas takes 1.1 s, and 1.2 s more for its SQL
store), so this module imports it only when a client is made, and one client serves all references
of a process. What it writes to the log, warnings and progress bars stay off the terminal;
exceptions come through as `ResolveError`.

The garbage collector is off while MLflow is imported and its store is made: it would look through
hundreds of thousands of new objects again and again and find nothing (0.35 of 1.4 s).

Tried and left: reading a sqlite registry without MLflow (a private schema), building only the
registry half of the client (saves 0.04 s), `gc.freeze` afterwards (0.1 s for each later full
collection, but a caller's own objects would never be collected either).
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import socket
import sqlite3
import urllib.request
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from harness.core.errors import ResolveError

CONNECT_TIMEOUT_S = 4.0
"""To find a registry's host; a dead one is known before MLflow is even imported."""
_ENVIRONMENT = {
    # At most two tries of 4 s: MLflow's own limits add up to minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "4",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_LOGGERS = ("mlflow", "alembic", "sqlalchemy", "urllib3")
_MESSAGE_LIMIT = 300
_DEFAULT_DATABASE = "mlflow.db"
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_SQLITE = "sqlite:///"


def registry_uris(registry_uri: str | None) -> tuple[str, str]:
    """Settles which registry is meant.

    Args:
      registry_uri: as given; None = the environment's, else ./mlflow.db when there is one.

    Returns:
      (tracking URI, registry URI): the tracking side holds the artifacts.

    Raises:
      ResolveError: nothing says which registry.
    """
    if registry_uri:
        return registry_uri, registry_uri
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    registry = named_registry()
    if registry is not None:
        return tracking or registry, registry
    raise ResolveError(
        "registry",
        "no MLflow registry was named and there is no mlflow.db here",
        "Set MLFLOW_TRACKING_URI, for example to sqlite:///mlflow.db or http://127.0.0.1:5000.",
    )


def named_registry() -> str | None:
    """The registry that the environment names, else ./mlflow.db; None when there is neither."""
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    if named := os.environ.get("MLFLOW_REGISTRY_URI", "") or tracking:
        return named
    database = Path(_DEFAULT_DATABASE)
    return f"{_SQLITE}{database.resolve()}" if database.is_file() else None


def check_readable(registry_uri: str | None = None) -> str:
    """Reads one registered model, if there is one.

    Args:
      registry_uri: as given; None = the environment's or ./mlflow.db.

    Returns:
      The registry in words, without its password.

    Raises:
      ResolveError: no registry, or one that cannot be read.
    """
    tracking, registry = registry_uris(registry_uri)
    client = connect(tracking, registry)
    with quiet(), explained(registry):
        some = client.search_registered_models(max_results=1)
    return f"{shown(registry)}, {'has models' if some else 'has no models yet'}"


def connect(tracking_uri: str, registry_uri: str) -> Any:  # noqa: ANN401 - mlflow has no types
    """Makes (or finds again) the client of a registry that is there and can be read.

    Args:
      tracking_uri: where runs and logged models are known.
      registry_uri: where registered models are known.

    Returns:
      An `mlflow.MlflowClient`.

    Raises:
      ResolveError: there is no such registry, or it does not answer.
    """
    for uri in sorted({tracking_uri, registry_uri}):
        check_there(uri)
    with _without_collection(), quiet(), explained(registry_uri):
        return _client(tracking_uri, registry_uri)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps MLflow off the terminal and within bounded time; errors still come through.

    The environment is changed while it lasts (what the user has set is kept), so it is not for
    several threads at once.
    """
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    # Telemetry stays off for good: MLflow starts it at import and may look again later.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _silenced():
                yield
    finally:
        for name, old in before.items():
            if old is None:
                os.environ.pop(name, None)


@contextlib.contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turns MLflow's exceptions into `ResolveError`s about a registry, without its password."""
    # Known only once MLflow is imported, which the callers of this have done or are about to do.
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException

    try:
        yield
    except (MlflowException, RequestException) as error:
        raise ResolveError(
            shown(uri),
            f"the registry cannot be read: {_reason(error, uri)}",
            "Check the address and credentials; set MLFLOW_HTTP_REQUEST_TIMEOUT (seconds) for a"
            " slow server.",
        ) from error
    except ImportError as error:
        raise ResolveError(
            shown(uri), f"its driver is not installed ({error.name})", "Install that package."
        ) from error


def check_there(uri: str) -> None:
    """Finds a registry's file or host without MLflow.

    MLflow would create a missing sqlite file, and retries a dead database host for minutes.

    Raises:
      ResolveError: there is no such file, it is no MLflow database, or nothing answers.
    """
    database = sqlite_path(uri)
    if database is not None:
        _schema_revision(database, uri)
        return
    address = urlsplit(uri)
    scheme = address.scheme.partition("+")[0]
    port = address.port or _PORTS.get(scheme)
    if not (address.hostname and port) or (
        scheme.startswith("http") and urllib.request.getproxies()
    ):
        return
    try:
        socket.create_connection((address.hostname, port), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ResolveError(
            shown(uri),
            f"nothing answers at {address.hostname} port {port} ({error.strerror or error})",
            "Start the registry, or correct MLFLOW_TRACKING_URI.",
        ) from error


def sqlite_path(uri: str) -> Path | None:
    """The database file of a sqlite URI; None for any other registry."""
    if not uri.startswith(_SQLITE):
        return None
    return Path(unquote(uri.removeprefix(_SQLITE).partition("?")[0]))


def shown(uri: str) -> str:
    """A registry URI without its password."""
    password = urlsplit(uri).password
    return uri.replace(f":{password}@", ":***@") if password else uri


def first_line(error: Exception, uri: str) -> str:
    """An exception's first line without the registry's password."""
    password = urlsplit(uri).password
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    text = text.replace(password, "***") if password else text
    return text.rstrip(". ") if len(text) <= _MESSAGE_LIMIT else f"{text[:_MESSAGE_LIMIT]} …"


def _reason(error: Exception, uri: str) -> str:
    """Why a registry cannot be read; a time-out hides at the end of a long message."""
    text = str(error).lower()
    if "timed out" in text or "timeouterror" in text:
        return "it took the connection and did not answer in time"
    return first_line(error, uri)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Raises MLflow's loggers above every level, and puts them back."""
    # MLflow sets its loggers' levels when it is imported: before that there is nothing to silence.
    import mlflow  # noqa: F401

    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    try:
        for name in levels:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@lru_cache(maxsize=8)
def _client(tracking_uri: str, registry_uri: str) -> Any:  # noqa: ANN401 - mlflow has no types
    """Imports MLflow and makes a client."""
    from mlflow.tracking import MlflowClient

    for uri in sorted({tracking_uri, registry_uri}):
        _check_schema(uri)
    return MlflowClient(tracking_uri=tracking_uri, registry_uri=registry_uri)


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Keeps the garbage collector off; leaves it as it was."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _schema_revision(database: Path, uri: str) -> str:
    """Reads the schema revision of an MLflow sqlite database, without writing to it."""
    remedy = "Correct the address, or register a model first to create it."
    if not database.is_file():
        raise ResolveError(shown(uri), f"there is no database {database}", remedy)
    address = f"{database.resolve().as_uri()}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=20.0)) as opened:
            row = opened.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error as error:
        raise ResolveError(shown(uri), f"it is no MLflow database ({error})", remedy) from error
    return str(row[0]) if row else ""


def _check_schema(uri: str) -> None:
    """Refuses a sqlite database of another MLflow: opening it could migrate it without asking."""
    database = sqlite_path(uri)
    if database is None:
        return
    import mlflow
    from alembic.script import ScriptDirectory

    found = _schema_revision(database, uri)
    scripts = Path(mlflow.__file__).parent / "store" / "db_migrations"
    wanted = ScriptDirectory(str(scripts)).get_current_head()
    if found != wanted:
        raise ResolveError(
            shown(uri),
            f"its schema is {found or 'unknown'}, MLflow {mlflow.__version__} needs {wanted}",
            f"Back it up and run: mlflow db upgrade {shown(uri)}",
        )

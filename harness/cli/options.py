"""Options that several commands share."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import click

from harness.core.errors import UsageError
from harness.core.places import SCHEME, ObjectPlace, Place, place_from_text


class PlaceType(click.ParamType[Place]):
    """A path, or s3://bucket/prefix."""

    name = "path"

    def convert(
        self,
        value: Any,  # noqa: ANN401 - click's
        param: click.Parameter | None,  # noqa: ARG002 - click's signature
        ctx: click.Context | None,  # noqa: ARG002 - click's signature
    ) -> Place:
        """The place that a text names."""
        return value if isinstance(value, Path | ObjectPlace) else place_from_text(value)


PLACE = PlaceType()

_LAST_PORT = 65_535


def checked_text(option: str, value: str) -> str:
    """Refuses a name that files and messages cannot hold.

    Raises:
      UsageError: it has no UTF-8 form.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        shown = value.encode("utf-8", "backslashreplace").decode()
        raise UsageError(f"{option} {shown}", "has no UTF-8 form", "Give another name.") from None
    return value


def creatable(_: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """Checks that a folder is there or can be made, before any work is done for it."""
    if value is None:
        return None
    where = f"{parameter.opts[-1]} {value}"
    if str(value).startswith(f"{SCHEME}:/"):
        raise UsageError(where, "lies in an object store", "Name a folder of this machine.")
    checked_text(parameter.opts[-1], str(value))
    try:
        above = next(p for p in (value.absolute(), *value.absolute().parents) if p.exists())
    except OSError as error:
        raise UsageError(
            where, f"cannot be used: {error.strerror}", "Name another folder."
        ) from None
    if value.is_symlink() and above != value.absolute():
        raise UsageError(where, "is a link that leads nowhere", "Name another folder.")
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UsageError(
            where,
            f"{above} is {'a folder that cannot be written to' if above.is_dir() else 'no folder'}",
            "Name another folder.",
        )
    return value


def writable(_: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """Checks that a file can be written, before any work is done for it."""
    if value is None:
        return None
    where = f"{parameter.opts[-1]} {value}"
    try:
        there = value if value.exists() else value.absolute().parent
        folder = value.is_dir()
    except OSError as error:
        raise UsageError(where, f"cannot be used: {error.strerror}", "Name another file.") from None
    if folder:
        raise UsageError(where, "is a folder", "Name a file in it.")
    if not there.exists() or not os.access(there, os.W_OK):
        raise UsageError(
            where,
            f"{there} {'cannot be written to' if there.exists() else 'does not exist'}",
            "Name a file in a folder that can be written to.",
        )
    return value


registry_option = click.option(
    "--registry", metavar="URI", envvar="HARNESS_REGISTRY",
    help="MLflow registry, e.g. sqlite:///mlflow.db or http://host:5000 (default: MLFLOW_TRACKING_URI).",
)  # fmt: skip
cache_option = click.option(
    "--cache", type=click.Path(path_type=Path), envvar="HARNESS_CACHE_DIR", callback=creatable,
    help="Where sealed windows are kept (default: the user's cache folder).",
)  # fmt: skip
allow_lower_isolation_option = click.option(
    "--allow-lower-isolation", is_flag=True,
    help="Run although the sandbox is weaker than required; every page says so.",
)  # fmt: skip
as_json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Draw no progress.")


def size(_: click.Context, parameter: click.Parameter, value: str) -> int:
    """Reads a size like 256MiB, in bytes."""
    from harness.decide.document import size_from_text

    found = size_from_text(value)
    if not found:
        raise UsageError(
            f"{parameter.opts[-1]} {value}", "is no size", "Write it like 256MiB or 2GiB."
        )
    return found


def finite(_: click.Context, parameter: click.Parameter, value: float) -> float:
    """Refuses NaN and infinity, which fit no range and no wait."""
    if not math.isfinite(value):
        raise UsageError(f"{parameter.opts[-1]} {value:g}", "is no number", "Write it like 2.5.")
    return value


def address(_: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Checks HOST:PORT; what is not given, or empty, stays so."""
    if not value:
        return value
    host, colon, port = value.rpartition(":")
    if not (host and colon and port.isdecimal() and int(port) <= _LAST_PORT):
        raise UsageError(
            f"{parameter.opts[-1]} {value}", "is no HOST:PORT", "Write it like 127.0.0.1:8081."
        )
    return value


def existing(_: click.Context, parameter: click.Parameter, value: Any) -> Any:  # noqa: ANN401 - click's
    """Checks that each path given exists, with a remedy in the message; objects are looked for when read."""
    for path in value if isinstance(value, tuple) else (value,):
        if path is None or isinstance(path, ObjectPlace):
            continue
        where = f"{parameter.human_readable_name} {path}"
        try:
            there = Path(path).exists()
        except OSError as error:
            raise UsageError(
                where, f"cannot be read: {error.strerror}", "Give access to it."
            ) from None
        if not there:
            raise UsageError(
                where,
                "there is no such file or folder",
                "Check the path; it is taken relative to the current folder.",
            )
    return value

"""Where traffic lies: a path of this machine, or a place in an S3-compatible object store.

    s3://bucket/prefix
    s3://bucket/prefix?endpoint=https://minio.example:9000&region=eu-west-1
    s3://bucket/prefix?anonymous=true

Credentials are never part of it: what is written into manifests and reports must not hold any.
"""

from __future__ import annotations

import os.path
import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from harness.core.errors import UsageError, nearest

SCHEME = "s3"
_SCHEMED = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_OPTIONS = ("endpoint", "region", "anonymous")
_EXAMPLE = "Write it like s3://bucket/prefix?endpoint=https://host:9000."


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectPlace:
    """An object, or all objects whose keys begin with a prefix."""

    bucket: str
    """Its bucket."""
    key: str
    """Key or prefix, without a slash at either end; "" for the whole bucket."""
    endpoint: str = ""
    """Where the store answers, e.g. https://host:9000; "" as the environment says, else AWS."""
    region: str = ""
    """Its region; "" as the environment says."""
    anonymous: bool = False
    """Ask without credentials."""

    def __truediv__(self, name: str) -> ObjectPlace:
        """What lies below, as with paths."""
        return replace(self, key=str(PurePosixPath(self.key) / name))

    def __str__(self) -> str:
        """As the user would write it."""
        options = [(n, getattr(self, n)) for n in ("endpoint", "region") if getattr(self, n)]
        options += [("anonymous", "true")] if self.anonymous else []
        query = f"?{urlencode(options, safe=':/')}" if options else ""
        return f"{SCHEME}://{self.bucket}/{quote(self.key, safe='/=:,+@ ')}{query}"

    @property
    def parent(self) -> ObjectPlace:
        """What it lies below, as with paths."""
        above = str(PurePosixPath(self.key).parent)
        return replace(self, key="" if above == "." else above)

    @property
    def name(self) -> str:
        """The last part of the key."""
        return PurePosixPath(self.key).name

    @property
    def suffix(self) -> str:
        """The key's ending, with its dot."""
        return PurePosixPath(self.key).suffix

    @property
    def path(self) -> str:
        """Bucket and key as object-store libraries write them."""
        return f"{self.bucket}/{self.key}" if self.key else self.bucket


Place = Path | ObjectPlace
"""Where traffic is read from or written to."""


def place_from_text(text: str) -> Place:
    """Reads a path or an s3:// address.

    Raises:
      UsageError: an address of another kind, without a bucket, or with an unknown option.
    """
    schemed = _SCHEMED.match(text)
    if not schemed:
        return Path(text)
    if schemed[1].lower() != SCHEME:
        raise UsageError(text, f"'{schemed[1]}://' is no place this can read or write", _EXAMPLE)
    split = urlsplit(text)
    if not split.hostname or "@" in split.netloc or ":" in split.netloc:
        raise UsageError(
            SCHEME + "://…", "an address needs a bucket, and neither credentials nor a port before it",
            f"{_EXAMPLE} Credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        )  # fmt: skip
    options = dict(parse_qsl(split.query, keep_blank_values=True))
    for name in options:
        if name not in _OPTIONS:
            raise UsageError(text, f"unknown option '{name}' ({nearest(name, _OPTIONS)})", _EXAMPLE)
    endpoint = options.get("endpoint", "")
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise UsageError(text, f"the endpoint '{endpoint}' has no http:// or https://", _EXAMPLE)
    anonymous = options.get("anonymous", "false")
    if anonymous not in {"true", "false"}:
        raise UsageError(
            text, f"anonymous is '{anonymous}'", "Write anonymous=true or leave it out."
        )
    return ObjectPlace(
        bucket=split.netloc, key=unquote(split.path).strip("/"), endpoint=endpoint.rstrip("/"),
        region=options.get("region", ""), anonymous=anonymous == "true",
    )  # fmt: skip


def absolute(place: Place) -> Place:
    """The same place, whatever the current folder is; a link that leads in a circle stays as it is."""
    return Path(os.path.realpath(place)) if isinstance(place, Path) else place

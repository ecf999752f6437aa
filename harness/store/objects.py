"""S3-compatible object stores: the connection, and what their errors mean for the user.

Credentials come from the usual environment variables and files (AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_PROFILE, ~/.aws); endpoint and region from the place or
AWS_ENDPOINT_URL(_S3), AWS_REGION, AWS_DEFAULT_REGION; a private authority from AWS_CA_BUNDLE.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.core.errors import TrafficError
from harness.core.places import ObjectPlace

_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)  # fmt: skip
_CREDENTIAL_FILES = ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE")
_GIVE_CREDENTIALS = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE), or add anonymous=true."
)
_CONNECT_S, _REQUEST_S = 5.0, 60.0
_MEANINGS = (
    (("NO_SUCH_BUCKET", "NoSuchBucket"), "there is no bucket of that name", "Check the bucket's name and the endpoint."),
    (("ACCESS_DENIED", "HTTP status 403", "HTTP Status 403", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "HTTP response code: 403"),
     "access is denied", f"Give credentials that may do this. {_GIVE_CREDENTIALS}"),
    (("SSL", "certificate", "curlCode: 60", "curlCode: 77"),
     "its TLS certificate cannot be trusted", "Name the authority's certificate file in AWS_CA_BUNDLE, or check the endpoint."),
    (("NETWORK_CONNECTION", "curlCode", "REQUEST_TIMEOUT", "resolve host"),
     "the store cannot be reached", "Check the endpoint, its port and http or https."),
)  # fmt: skip


def filesystem(place: ObjectPlace) -> Any:  # noqa: ANN401 - pyarrow has no types
    """The connection to a place's store; one for each endpoint, region and kind of access.

    Raises:
      TrafficError: an own endpoint and no credentials for it.
    """
    endpoint = (
        place.endpoint
        or os.environ.get("AWS_ENDPOINT_URL_S3", "")
        or os.environ.get("AWS_ENDPOINT_URL", "")
    )
    region = place.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if endpoint and not place.anonymous and not _has_credentials():
        raise TrafficError(str(place), "there are no credentials for it", _GIVE_CREDENTIALS)
    return _connected(
        endpoint,
        region or ("us-east-1" if endpoint else ""),
        place.anonymous,
        os.environ.get("AWS_CA_BUNDLE", ""),
    )


@functools.cache
def _connected(endpoint: str, region: str, anonymous: bool, authority: str) -> Any:  # noqa: ANN401
    from pyarrow import fs

    scheme, _, host = endpoint.partition("://")
    return fs.S3FileSystem(
        anonymous=anonymous,
        region=region or None,
        scheme=scheme or "https",
        endpoint_override=host or None,
        connect_timeout=_CONNECT_S,
        request_timeout=_REQUEST_S,
        tls_ca_file_path=authority or None,
    )


def _has_credentials() -> bool:
    files = [os.environ[n] for n in _CREDENTIAL_FILES if os.environ.get(n)]
    files.append(str(Path("~/.aws/credentials").expanduser()))
    return any(os.environ.get(n) for n in _CREDENTIALS) or any(Path(f).is_file() for f in files)


@contextmanager
def trouble_is_a_traffic_error(place: ObjectPlace) -> Iterator[None]:
    """Turns what the store's library says into an error that says where, what and what to do.

    Raises:
      TrafficError: in place of the library's error.
    """
    try:
        yield
    except OSError as error:
        said = str(error)
        for signs, what, remedy in _MEANINGS:
            if any(sign in said for sign in signs):
                raise TrafficError(str(place), what, remedy) from None
        if isinstance(error, FileNotFoundError):
            raise TrafficError(
                str(place), "there is no such bucket or object", "Check the address."
            ) from None
        first_line = said.split("\n", 1)[0].rstrip(".")
        raise TrafficError(
            str(place), f"the store says: {first_line}", "Check the address and the store."
        ) from None

"""Certificates for either side of the proxy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from harness.core.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """What the proxy shows its clients."""

    cert: Path
    """PEM chain of the server's certificate."""
    key: Path
    """PEM of its private key."""
    ca: Path | None = None
    """PEM of who signs clients' certificates; None = clients need none."""

    def credentials(self) -> grpc.ServerCredentials:
        """The same for grpc.

        Raises:
          UsageError: a file cannot be read.
        """
        ca = None if self.ca is None else _read(self.ca)
        return grpc.ssl_server_credentials(
            [(_read(self.key), _read(self.cert))], ca, require_client_auth=ca is not None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """How the proxy trusts an upstream, and what it shows it."""

    ca: Path | None = None
    """PEM of who signs the upstream's certificate; None = the usual authorities."""
    cert: Path | None = None
    """PEM chain of the proxy's own certificate; None = it shows none."""
    key: Path | None = None
    """PEM of its private key."""
    server_name: str = ""
    """Name in the upstream's certificate, where it is not the host that is called."""

    def credentials(self) -> grpc.ChannelCredentials:
        """The same for grpc.

        Raises:
          UsageError: a file cannot be read, or a certificate has no key.
        """
        if (self.cert is None) != (self.key is None):
            raise UsageError(
                str(self.cert or self.key),
                "a certificate needs its private key, and a key its certificate",
                "Give both files.",
            )
        ca, key, cert = (None if p is None else _read(p) for p in (self.ca, self.key, self.cert))
        return grpc.ssl_channel_credentials(ca, key, cert)


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(
            str(path), f"cannot be read: {error.strerror}", "Name a readable PEM file."
        ) from error
    if b"-----BEGIN " not in content:
        raise UsageError(str(path), "is no PEM file", "Name a PEM file.")
    return content

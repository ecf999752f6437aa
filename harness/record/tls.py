"""Certificates for either side of the proxy."""

from __future__ import annotations

import ssl
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
          UsageError: a file cannot be read, or the key is not the certificate's.
        """
        _check_pair(self.cert, self.key)
        ca = None if self.ca is None else _read(self.ca)
        return grpc.ssl_server_credentials(
            [(_read(self.key), _read(self.cert))], ca, require_client_auth=ca is not None
        )

    def context(self) -> ssl.SSLContext:
        """The same for a socket that speaks HTTP/2.

        Raises:
          UsageError: a file cannot be read or used, or the key is not the certificate's.
        """
        _check_pair(self.cert, self.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key, password="")
        context.set_alpn_protocols(["h2"])
        if self.ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            _trust(context, self.ca)
        return context


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
          UsageError: a file cannot be read, or a certificate has no key or another's.
        """
        if (self.cert is None) != (self.key is None):
            raise UsageError(
                str(self.cert or self.key),
                "a certificate needs its private key, and a key its certificate",
                "Give both files.",
            )
        if self.cert is not None and self.key is not None:
            _check_pair(self.cert, self.key)
        ca, key, cert = (None if p is None else _read(p) for p in (self.ca, self.key, self.cert))
        return grpc.ssl_channel_credentials(ca, key, cert)

    def context(self) -> ssl.SSLContext:
        """The same for a socket that speaks HTTP/2.

        Raises:
          UsageError: a file cannot be read or used, or a certificate has no key or another's.
        """
        self.credentials()  # refuses what cannot be
        context = ssl.create_default_context()
        if self.ca is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            _trust(context, self.ca)
        if self.cert is not None and self.key is not None:
            context.load_cert_chain(self.cert, self.key, password="")
        context.set_alpn_protocols(["h2"])
        return context


def _check_pair(cert: Path, key: Path) -> None:
    """Grpc would only say that the port cannot be listened on."""
    for path in (cert, key):
        _read(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # An empty password: a key that needs one is refused, nobody is asked.
        context.load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        raise UsageError(
            str(key),
            f"is not the usable private key of the certificate {cert}: {error.reason or error}",
            "Name the key that belongs to it, without a password.",
        ) from error


def _trust(context: ssl.SSLContext, ca: Path) -> None:
    _read(ca)
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise UsageError(
            str(ca), f"holds no usable certificate: {error.reason or error}", "Name a PEM file."
        ) from error


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

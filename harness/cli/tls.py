"""Options of proxies about certificates, towards clients and towards upstreams."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import existing
from harness.core.errors import UsageError

if TYPE_CHECKING:
    from harness.record.tls import ClientTls, ServerTls

_Command = Callable[..., Any]


def _pem(name: str, about: str) -> Callable[[_Command], _Command]:
    return click.option(name, type=click.Path(path_type=Path), callback=existing, help=about)


_OPTIONS = (
    _pem("--tls-cert", "PEM shown to clients."),
    _pem("--tls-key", "PEM of its key."),
    _pem("--tls-ca", "PEM of who signs clients; they need certificates then."),
    click.option("--upstream-tls", is_flag=True, help="Call upstreams with TLS."),
    _pem("--upstream-tls-ca", "PEM of who signs upstreams (implies --upstream-tls, like the next three)."),
    _pem("--upstream-tls-cert", "PEM shown to upstreams."),
    _pem("--upstream-tls-key", "PEM of its key."),
    click.option("--upstream-tls-name", default="", help="Name in the upstreams' certificates."),
)  # fmt: skip


def tls_options(command: _Command) -> _Command:
    """Adds the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def server_tls(given: dict[str, Any]) -> ServerTls | None:
    """What the proxy shows its clients; None = plain text.

    Args:
      given: the command's options.

    Raises:
      UsageError: a certificate without its key, or a key alone.
    """
    from harness.record.tls import ServerTls

    cert, key, ca = (given[f"tls_{part}"] for part in ("cert", "key", "ca"))
    if cert is None and key is None and ca is None:
        return None
    if cert is None or key is None:
        raise UsageError("--tls-cert, --tls-key", "TLS needs both", "Give both files.")
    return ServerTls(cert=cert, key=key, ca=ca)


def client_tls(given: dict[str, Any]) -> ClientTls | None:
    """How upstreams are called; None = plain text.

    Args:
      given: the command's options.
    """
    from harness.record.tls import ClientTls

    ca, cert, key, name = (given[f"upstream_tls_{part}"] for part in ("ca", "cert", "key", "name"))
    if not (given["upstream_tls"] or ca or cert or key or name):
        return None
    return ClientTls(ca=ca, cert=cert, key=key, server_name=name)

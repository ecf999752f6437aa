"""The sockets that a proxy listens on."""

from __future__ import annotations

import contextlib
import errno
import resource
import socket

from harness.core.errors import UsageError

_BACKLOG = 1024
_OTHER_FILES = 128
"""Open files of the process beside its connections."""
_FILES_PER_CONNECTION = 3
"""Client, upstream, and one more where the proxy itself answers."""
_MOST_FILES = 65_536


def host_and_port(address: str) -> tuple[str, int]:
    """HOST:PORT as two; an IPv6 address without its brackets."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def not_listened_on(address: str) -> UsageError:
    """What is said where an address cannot be listened on."""
    return UsageError(
        f"--listen {address}",
        "the address cannot be listened on",
        "Name a free port of this machine, as HOST:PORT.",
    )


def listening_sockets(address: str) -> list[socket.socket]:
    """Sockets that listen on every address of a name, on one port.

    Args:
      address: HOST:PORT; port 0 = any free one.

    Raises:
      UsageError: the address cannot be listened on.
    """
    host, port = host_and_port(address)
    with contextlib.ExitStack() as opened:
        found: list[socket.socket] = []
        try:
            for family, kind, _, _, place in socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            ):
                one = opened.enter_context(socket.socket(family, kind))
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    # :: is every address of this machine, as it is for grpc
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
                one.bind((place[0], port, *place[2:]))
                one.listen(_BACKLOG)
                one.setblocking(False)
                found.append(one)
                port = one.getsockname()[1]
        except (OSError, UnicodeError) as error:
            raise not_listened_on(address) from error
        opened.pop_all()
        return found


def must_be_free(addresses: dict[str, str]) -> None:
    """Refuses addresses that are taken or not allowed, before anything else is begun.

    What else may be wrong with one, whoever listens there finds out.

    Args:
      addresses: option → HOST:PORT; "" = not given.

    Raises:
      UsageError: names the option.
    """
    for option, address in addresses.items():
        try:
            for one in listening_sockets(address) if address else ():
                one.close()
        except UsageError as error:
            if getattr(error.__cause__, "errno", None) in {errno.EADDRINUSE, errno.EACCES}:
                raise UsageError(f"{option} {address}", error.what, error.remedy) from error


def most_connections() -> int:
    """How many connections the limit of open files allows; the limit is raised where it can be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    files = _MOST_FILES if soft == resource.RLIM_INFINITY else soft
    return max(1, (files - _OTHER_FILES) // _FILES_PER_CONNECTION)

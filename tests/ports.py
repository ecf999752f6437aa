"""Ports of 127.0.0.1 for servers that must be told theirs, and for places where nothing may answer."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reserved() -> Iterator[int]:
    """A port at which nothing listens, and that the system gives to nobody who asks for any.

    A server that is told this port may listen there meanwhile if it allows the reuse of its address, as
    those of asyncio and of the standard library do. A port that was only looked up could be another
    process's before the server has started.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])

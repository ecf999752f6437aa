"""The recording proxy as a relay of bytes: every client has a connection of its own to the upstream.

    client ── Link ── server              each chunk as it came
               └── Following ── taps      calls read beside it

So messages, compression, header order, flow control, pings, errors and `user-agent` are the peers' own.
`:authority` and `:scheme` are the client's, too: where one side has TLS and the other has not, they
would be wrong, and `proxy.Proxy` passes messages instead.

That proxy is also here, on an abstract socket, which needs no disk: it serves our own connections alone,
which are made for clients whose first call is one of grpc.health.v1, and for those that come while the
upstream cannot be reached, so that their failures are answered and recorded. A health call on a connection that began with another call is the upstream's.
It says NOT_SERVING while the last attempt to reach the upstream failed; its own connection is one.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

from harness.core.calls import Tap
from harness.core.recording import Recorded
from harness.record import health
from harness.record.followed import Observer
from harness.record.following import Following
from harness.record.h2frames import PREFACE
from harness.record.link import AckCut, Link
from harness.record.listening import host_and_port, listening_sockets
from harness.record.messages import Room
from harness.record.opening import ClientOpening, UpstreamOpening, settings_frame
from harness.record.pairs import PairTeller
from harness.record.proxy import Proxy
from harness.record.tls import ServerTls
from harness.record.upstream import Upstream

LOG = logging.getLogger("harness.record")
_HEALTH = f"/{health.NAME}/"
_GREETING_S = 120.0
"""A client that has said nothing by then is not waited for."""
_CONNECT_S = 5.0
"""A client whose upstream has not said its settings by then is let in without them."""
_SILENT_S = 20.0
"""An upstream that has said nothing by then is hung up: as long as gRPC's own clients wait."""
_FIRST_CALL_S = 1.0
"""A client that has not asked by then is the upstream's, which answers its pings."""
_CUT_WITHIN_S = 2.0
_LOOK_S = 0.01
_NAME_BYTES = 16


class Relay:
    """Serves clients from one upstream. Make, start and stop it in one event loop.

    Args:
      upstream: its channel is used where bytes cannot pass.
      taps: hear of every finished unary call of the inference service and every streamed pair.
      tls: None = plain text.
      message_bytes: larger messages pass and are told without their bytes.
      held_bytes: of all calls under way together; what is above passes likewise.
      most: connections at a time.
      count: counts what no tap hears of.
    """

    def __init__(
        self, upstream: Upstream, taps: Sequence[Tap], *, tls: ServerTls | None = None,
        message_bytes: int, held_bytes: int, most: int, count: Callable[[Recorded, int], None],
    ) -> None:  # fmt: skip
        self._upstream = upstream
        self._tls = tls
        self._to_upstream = None if upstream.tls is None else upstream.tls.context()
        self._most = most
        room = Room(held_bytes)
        self._observer = Observer(
            taps=tuple(taps), teller=PairTeller(taps, room, count), room=room,
            message_bytes=message_bytes, upstream=upstream.name, count=count,
        )  # fmt: skip
        self._proxy = Proxy(
            lambda *_: upstream, taps, upstreams=[upstream], reached=lambda: self._reached,
            serves=self._is_own, count=count,
        )  # fmt: skip
        self._reached = True
        self._own_name = _made_up_name()
        """Of the socket of the proxy in here. Any user of this machine can list such names."""
        self._own_ends: dict[str, asyncio.Transport] = {}
        """Name → our end of a connection to it: no other can have the name while that is open."""
        self._servers: list[asyncio.Server] = []
        self._ending = False
        self._tasks: dict[ClientOpening, asyncio.Task[None]] = {}
        self._links: set[Link] = set()
        self.port = 0

    async def start(self, listen: str) -> int:
        """Begins to serve.

        Args:
          listen: host:port; port 0 = any free one.

        Returns:
          The port.

        Raises:
          UsageError: the address cannot be listened on, or a TLS file cannot be used.
        """
        context = None if self._tls is None else self._tls.context()
        sockets = listening_sockets(listen)
        self.port = sockets[0].getsockname()[1]
        await self._proxy.start(f"unix-abstract:{self._own_name}")
        loop = asyncio.get_running_loop()
        for one in sockets:
            self._servers.append(
                await loop.create_server(
                    lambda: ClientOpening(self._came, self._went), sock=one, ssl=context
                )
            )
        return self.port

    async def stop(self, grace_s: float) -> None:
        """Takes no new connection or call, lets calls under way end, then closes everything.

        Args:
          grace_s: calls that take longer are cut.
        """
        self._ending = True
        for server in self._servers:
            server.close()
        for client, task in list(self._tasks.items()):
            if client.let_in:
                client.wait_no_more()
            elif not client.asked.done():
                task.cancel()
        for link in list(self._links):
            link.drain()
        await asyncio.gather(self._proxy.stop(grace_s), self._gone(grace_s))
        for task in list(self._tasks.values()):
            task.cancel()
        for link in list(self._links):
            link.cut()
        await self._gone(_CUT_WITHIN_S)

    async def _gone(self, within_s: float) -> None:
        """Waits until no connection is open, so long at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._links or self._tasks:
                    await asyncio.sleep(_LOOK_S)

    def _came(self, client: ClientOpening) -> None:
        if self._ending:
            client.transport.abort()
            return
        if len(self._links) + len(self._tasks) >= self._most:
            self._observer.count(Recorded.REFUSED, 1)
            client.transport.abort()
            return
        task = asyncio.create_task(self._open(client))
        self._tasks[client] = task
        task.add_done_callback(lambda _: self._opened(client))

    def _went(self, client: ClientOpening) -> None:
        if client in self._tasks:
            self._tasks[client].cancel()

    def _opened(self, client: ClientOpening) -> None:
        task = self._tasks.pop(client)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, TimeoutError):
            LOG.warning("a connection could not be served: %s", error)
        if task.cancelled() or error is not None:
            self._tell_unserved(client)
            client.transport.abort()
            client.hang_up()

    def _tell_unserved(self, client: ClientOpening) -> None:
        """What a client has asked already, though nobody serves it, is told as failed."""
        following = Following(self._observer)
        following.sent(bytes(client.received))
        if client.lost:
            following.client_lost()
        elif self._ending:
            following.cut()
        else:
            following.upstream_lost()
        following.ended()

    async def _open(self, client: ClientOpening) -> None:
        """Chooses who serves a client."""
        async with asyncio.timeout(_GREETING_S):
            greeting = await client.greeted
        upstream = await self._greeted(client, bytes(client.received[:greeting]))
        acks = AckCut(due=upstream is not None and not client.asked.done())
        if upstream is not None and not acks.done:
            said = upstream.most_calls
            client.let_in_with(settings_frame(said.result() if said.done() else None))
            await asyncio.wait([client.asked], timeout=_FIRST_CALL_S)
        method = client.asked.result() if client.asked.done() else ""
        if upstream is not None and (upstream.failed or method.startswith(_HEALTH)):
            client.hang_up()
            upstream = None
        if upstream is None:
            if self._ending:
                raise ConnectionError("the proxy ends, and the upstream cannot be reached")
            self._join(client, await self._own(client), None, acks)
        else:
            following = Following(self._observer)
            self._join(client, upstream, following, acks, given=greeting)
            if not upstream.most_calls.done() and greeting:
                wait_s = _SILENT_S - _CONNECT_S
                asyncio.get_running_loop().call_later(wait_s, _hang_up, upstream, following)

    def _join(
        self, client: ClientOpening, server: UpstreamOpening, following: Following | None,
        acks: AckCut, *, given: int = 0,
    ) -> None:  # fmt: skip
        sent = bytes(client.received)
        sent = sent[: len(PREFACE)] + acks.feed(sent[len(PREFACE) :])
        link = Link(client.transport, server.transport, following, acks, self._links.discard)
        self._links.add(link)
        link.begin(sent, bytes(server.received), given=given)
        if self._ending:
            link.drain()

    async def _greeted(self, client: ClientOpening, greeting: bytes) -> UpstreamOpening | None:
        """A connection to the upstream, which has said its settings if it did so in time.

        None = it cannot be reached.
        """
        loop = asyncio.get_running_loop()
        host, port = host_and_port(self._upstream.target)
        tls = self._upstream.tls
        name = None if tls is None else tls.server_name or host
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, client.dialled = await loop.create_connection(
                    UpstreamOpening, host, port, ssl=self._to_upstream, server_hostname=name
                )
                if greeting:
                    client.dialled.transport.write(greeting)
                    await asyncio.wait([client.dialled.most_calls])
                    client.dialled.most_calls.result()
        except (OSError, TimeoutError) as error:
            self._unreached(error)
            if isinstance(error, TimeoutError) and client.dialled is not None:
                return client.dialled  # it may only be slow: nothing is begun anew
            client.hang_up()
            return None
        self._reached = True
        return client.dialled

    def _unreached(self, error: Exception) -> None:
        if self._reached:
            LOG.warning("the upstream cannot be reached: %s", str(error) or "no answer in time")
        self._reached = False

    async def _own(self, client: ClientOpening) -> UpstreamOpening:
        """A connection to the proxy in here."""
        loop = asyncio.get_running_loop()
        name = _made_up_name()
        with ExitStack() as closing:
            end = closing.enter_context(socket.socket(socket.AF_UNIX))
            end.setblocking(False)
            end.bind(f"\0{name}")
            await loop.sock_connect(end, f"\0{self._own_name}")
            transport, client.dialled = await loop.create_unix_connection(UpstreamOpening, sock=end)
            closing.pop_all()
        for gone in [n for n, t in self._own_ends.items() if t.is_closing()]:
            del self._own_ends[gone]
        self._own_ends[name] = transport
        return client.dialled

    def _is_own(self, peer: str) -> bool:
        """Whether who calls the proxy in here, as grpc names it, is an end of ours."""
        end = self._own_ends.get(peer.removeprefix("unix-abstract:"))
        return end is not None and not end.is_closing()


def _hang_up(upstream: UpstreamOpening, following: Following) -> None:
    """Ends the connection to an upstream that has said nothing yet."""
    if not (following.blind or following.answers.begun):
        upstream.transport.abort()


def _made_up_name() -> str:
    return f"harness-{secrets.token_hex(_NAME_BYTES)}"

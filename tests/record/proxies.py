"""A proxy in a thread of this process, with a tap that keeps what it hears."""

import asyncio
import contextlib
import threading
import time
from collections import Counter

import uvloop

from harness.record.proxy import Proxy
from harness.record.relay import Relay
from harness.record.upstream import Upstream


class Kept:
    def __init__(self):
        self.calls = []

    def offer(self, call):
        self.calls.append(call)

    def wait(self, count, wait_s=60.0):
        until = time.perf_counter() + wait_s
        while len(self.calls) < count and time.perf_counter() < until:
            time.sleep(0.01)
        assert len(self.calls) == count
        return self.calls


class Running:
    def __init__(self, loop, proxy):
        self._loop = loop
        self.proxy = proxy
        self.address = f"127.0.0.1:{proxy.port}"

    def stop(self, grace_s=1.0):
        return asyncio.run_coroutine_threadsafe(self.proxy.stop(grace_s), self._loop)

    def begin_to_stop(self, grace_s):
        """As `stop`; returns when whatever comes from now on comes to an end that has begun."""
        stopping = self.stop(grace_s)
        begun = threading.Event()
        # The stop's first step waits in the loop's queue already, and this is put behind it.
        self._loop.call_soon_threadsafe(self._loop.call_soon, begun.set)
        assert begun.wait(20)
        return stopping

    def block(self, until):
        """Its event loop stands still until this event is set."""
        self._loop.call_soon_threadsafe(until.wait, 20)


def relay(upstream, taps, tls=None, **options):
    """A relay before one upstream."""
    counts = Counter()
    given = {"message_bytes": 64 << 20, "held_bytes": 256 << 20, "most": 1000, **options}
    made = Relay(
        upstream, taps, tls=tls, count=lambda counter, by: counts.update({counter: by}), **given
    )
    made.counts = counts
    return made


def counting_proxy(route, taps, **options):
    """A proxy of messages."""
    counts = Counter()
    made = Proxy(route, taps, count=lambda counter, by: counts.update({counter: by}), **options)
    made.counts = counts
    return made


@contextlib.contextmanager
def proxied(*targets, taps=(), route=None, tls=None, upstream_tls=None, relayed=False, **options):
    """A proxy before these upstreams, named up0, up1 …; yields it, running.

    With `relayed` it passes bytes, else messages."""
    loop = uvloop.new_event_loop() if relayed else asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def started():
        upstreams = [Upstream(t, name=f"up{i}", tls=upstream_tls) for i, t in enumerate(targets)]
        chosen = route(upstreams) if route else lambda *_: upstreams[0]
        proxy = (
            relay(upstreams[0], taps, tls, **options)
            if relayed
            else counting_proxy(chosen, taps, upstreams=upstreams, tls=tls)
        )
        await proxy.start("localhost:0" if tls else "127.0.0.1:0")
        return proxy

    running = Running(loop, asyncio.run_coroutine_threadsafe(started(), loop).result(20))
    try:
        yield running
    finally:
        running.stop(0.2).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()

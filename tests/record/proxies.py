"""A proxy in a thread of this process, with a tap that keeps what it hears."""

import asyncio
import contextlib
import threading
import time

from harness.record.proxy import Proxy
from harness.record.upstream import Upstream


class Kept:
    def __init__(self):
        self.calls = []

    def offer(self, call):
        self.calls.append(call)

    def wait(self, count, wait_s=10.0):
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


@contextlib.contextmanager
def proxied(*targets, taps=(), route=None, tls=None, upstream_tls=None):
    """A proxy before these upstreams, named up0, up1 …; yields it, running."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def started():
        upstreams = [Upstream(t, name=f"up{i}", tls=upstream_tls) for i, t in enumerate(targets)]
        chosen = route(upstreams) if route else lambda *_: upstreams[0]
        proxy = Proxy(chosen, taps, upstreams=upstreams, tls=tls)
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

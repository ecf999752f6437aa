"""A process beside the proxy, that a socket feeds: what it does costs the proxy no time."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from typing import Any

from harness.core.errors import GateError

_READY_S = 60.0
_SOCKET_BYTES = 4 << 20


async def start_beside(
    module: str, options: str
) -> tuple[subprocess.Popen[bytes], socket.socket, dict[str, Any]]:
    """Starts `python -m module N`, N being its end of the socket, and waits for its first line.

    Args:
      module: its main program.
      options: JSON for its standard input. Not in its arguments, which any user of this machine can
        read: there may be a key among them.

    Returns:
      (the process, our end, what it said: "error" where it cannot start).

    Raises:
      GateError: it has no standard input.
    """
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.PIPE,
        )
    if process.stdin is None:
        raise GateError(module, "the process has no input", "Start again.")
    with process.stdin as to:
        to.write(options.encode())
    ours.setblocking(False)
    return process, ours, await _first_line(ours)


async def _first_line(of: socket.socket) -> dict[str, Any]:
    """One line of JSON; an error when there is none in time."""
    loop = asyncio.get_running_loop()
    said = b""
    try:
        async with asyncio.timeout(_READY_S):
            while not said.endswith(b"\n"):
                part = await loop.sock_recv(of, 4096)
                if not part:
                    return {"error": "its process could not start"}
                said += part
    except (TimeoutError, OSError):
        return {"error": "its process does not answer"}
    found: dict[str, Any] = json.loads(said)
    return found

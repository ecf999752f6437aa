"""Namespaces of its own: a network without interfaces, its own IPC objects, host name and mounts.

Root leaves the machine's namespaces directly; anyone else makes a user namespace first, which many
machines forbid. No process namespace: it holds for children only, and the filter allows none.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from harness.sandbox.child import kernel

_NEW_MOUNTS, _NEW_HOST_NAME, _NEW_IPC = 0x00020000, 0x04000000, 0x08000000
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
_OTHERS = _NEW_MOUNTS | _NEW_HOST_NAME | _NEW_IPC
_CAP_SYS_ADMIN = 21
_AF_INET, _SOCK_DGRAM = 2, 2
_LOOPBACK = struct.pack("=H", _AF_INET) + struct.pack("!H4B", 9, 127, 0, 0, 1) + bytes(8)


def leave() -> str:
    """Enters new namespaces.

    Returns:
      Which way it was done, for the report.

    Raises:
      OSError: the kernel's answer.
    """
    if kernel.capabilities()[0] >> _CAP_SYS_ADMIN & 1:
        kernel.unshare(_NEW_NETWORK | _OTHERS)
        return "by root"
    user, group = os.getuid(), os.getgid()
    kernel.unshare(_NEW_USER | _NEW_NETWORK | _OTHERS)
    # The same numbers inside as outside; without them the process would be nobody to its own files.
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123 - pathlib comes after the lock
            file.write(text)
    return "by a user namespace"


def network_answer() -> str:
    """What a datagram socket says that is to reach this machine itself; nothing is sent.

    Returns:
      ENETUNREACH where there is no network, "allowed" where there is one, else the error's name.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.socket(_AF_INET, _SOCK_DGRAM, 0)
    if fd < 0:
        return errno.errorcode.get(ctypes.get_errno(), "unknown")
    try:
        if libc.connect(fd, ctypes.c_char_p(_LOOPBACK), len(_LOOPBACK)) == 0:
            return "allowed"
        return errno.errorcode.get(ctypes.get_errno(), "unknown")
    finally:
        os.close(fd)

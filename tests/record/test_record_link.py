"""The end of one side of a connection, whatever is left of its socket."""

import asyncio
import socket

import pytest

from harness.record.link import _UpstreamEnd


class Ended:
    """Whom an end tells that it has gone."""

    going_away = None

    def __init__(self):
        self.lost_by = []

    def lost(self, side, exc):
        self.lost_by.append((side, exc))


def closed():
    held = socket.socket()
    held.close()
    return held


@pytest.mark.parametrize("extra", [{}, {"socket": closed()}])
def test_an_upstream_without_a_socket_is_lost_like_any_other(extra):
    link, reads, gone = Ended(), asyncio.Transport(extra), ConnectionResetError()
    _UpstreamEnd(link, reads, asyncio.Transport(), None).connection_lost(gone)
    assert link.lost_by == [(reads, gone)]


def test_a_side_is_lost_whatever_its_last_bytes_bring_about():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"last")
        link, reads, gone = Ended(), asyncio.Transport({"socket": ours}), ConnectionResetError()
        heard = {}.__getitem__
        with pytest.raises(KeyError):
            _UpstreamEnd(link, reads, asyncio.Transport(), heard).connection_lost(gone)
        assert link.lost_by == [(reads, gone)]

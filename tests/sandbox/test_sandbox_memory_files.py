"""Sealing: what holds a page for a moment is waited for, and what holds it on is told."""

import fcntl
import mmap
import os
import threading

import pytest

from harness.core.errors import SandboxError
from harness.sandbox import memory_files
from harness.sandbox.memory_files import empty_mailbox, post, sealed_from_bytes

CONTENT = b"content" * 1000


@pytest.fixture
def held():
    """A mailbox whose pages can still be written through a mapping: the kernel seals no such file."""
    mailbox = empty_mailbox("held")
    os.ftruncate(mailbox, len(CONTENT))
    mapping = mmap.mmap(mailbox, len(CONTENT))
    yield mailbox, mapping
    if not mapping.closed:
        mapping.close()
    os.close(mailbox)


@pytest.fixture
def source():
    fd = sealed_from_bytes("source", CONTENT)
    yield fd
    os.close(fd)


def test_what_holds_a_page_for_a_moment_is_waited_for(held, source):
    mailbox, mapping = held
    ends = threading.Timer(0.3, mapping.close)
    ends.start()
    assert post(mailbox, [source]) == [len(CONTENT)]
    assert mapping.closed
    ends.join()
    assert fcntl.fcntl(mailbox, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
    assert os.pread(mailbox, len(CONTENT) + 1, 0) == CONTENT


def test_what_holds_a_page_on_is_told(held, source, monkeypatch):
    monkeypatch.setattr(memory_files, "_MOST_BUSY_S", 0.1)
    with pytest.raises(SandboxError, match="to be sealed has been in use elsewhere"):
        post(held[0], [source])


def test_another_refusal_is_raised_at_once(source, monkeypatch):
    """The source is sealed already, also against more seals."""
    monkeypatch.setattr(memory_files.time, "sleep", None)
    with pytest.raises(PermissionError):
        post(source, [])

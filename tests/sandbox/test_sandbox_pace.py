"""Looking for answers by the clock while more batches wait: for less, never later than was asked."""

import os
import threading
import time

import pytest

from harness.sandbox import channel as channels
from harness.sandbox.channel import Channel, ChannelClosed, ChannelTimeout
from harness.sandbox.child import frames, kernel
from harness.sandbox.pace import Pace, exact_timers

PR_GET_TIMERSLACK = 30


class Sleeps:
    """Passes on to a real poll, counts, and says when the first sleep begins."""

    def __init__(self, poll):
        self._poll, self.count, self.begun = poll, 0, threading.Event()

    def poll(self, wait_ms):
        self.count += 1
        self.begun.set()
        return self._poll.poll(wait_ms)

    def __getattr__(self, name):
        return getattr(self._poll, name)


@pytest.fixture
def ends():
    """A channel whose sleeps on the pipe are counted, and the descriptor that answers it."""
    theirs, to_child = os.pipe()
    from_child, answers = os.pipe()
    stderr, said = os.pipe()
    channel = Channel(to_child, from_child, stderr, 1 << 20)
    channel._poll = Sleeps(channel._poll)
    yield channel, answers
    channel.close()
    for fd in (theirs, said):
        os.close(fd)


def answer_after(waited, fd):
    def write():
        waited()
        frames.write_all(fd, frames.packed({"kind": "answer"}))
        os.close(fd)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


def test_an_answer_that_comes_between_two_looks_finds_nobody_asleep_on_the_pipe(ends, monkeypatch):
    monkeypatch.setattr(channels, "LOOKS", 90)  # however late the other thread gets its processor
    channel, answers = ends
    thread = answer_after(lambda: time.sleep(0.02), answers)
    assert channel.receive(30, nap_s=0.3).header == {"kind": "answer"}
    assert channel._poll.count == 0
    thread.join()


def test_after_some_looks_it_sleeps_on_the_pipe(ends):
    channel, answers = ends
    thread = answer_after(lambda: channel._poll.begun.wait(20), answers)
    assert channel.receive(30, nap_s=1e-4).header == {"kind": "answer"}
    assert channel._poll.count >= 1
    thread.join()


def test_without_a_nap_it_sleeps_on_the_pipe_at_once(ends):
    channel, answers = ends
    thread = answer_after(lambda: channel._poll.begun.wait(20), answers)
    assert channel.receive(30).header == {"kind": "answer"}
    assert channel._poll.count >= 1
    thread.join()


def test_a_deadline_ends_a_nap_and_so_does_a_closed_pipe_at_the_next_look(ends):
    channel, answers = ends
    began = time.perf_counter()
    with pytest.raises(ChannelTimeout):
        channel.receive(0.05, nap_s=60)
    assert time.perf_counter() - began < 30
    os.close(answers)
    with pytest.raises(ChannelClosed):
        channel.receive(30, nap_s=0.01)
    assert channel._poll.count == 0


def test_naps_are_a_part_of_what_batches_of_the_kind_took_while_two_wait_behind():
    pace = Pace()
    assert pace.nap_s("small", 2) == 0, "nothing is known yet"
    pace.answered(0.9e-3)
    assert pace.nap_s("small", 2) == pytest.approx(0.3e-3)
    assert pace.nap_s("small", 1) == 0, "seen late, it would have one batch to go on with, or none"
    for _ in range(100):
        pace.answered(0.3e-3)
    assert pace.nap_s("small", 2) == pytest.approx(0.1e-3, rel=0.01)
    assert pace.nap_s("large", 2) == 0, "of another kind"
    pace.answered(5e-3)
    assert pace.nap_s("large", 2) == 0, "a wake is nothing to it"


def test_sleeps_of_a_thread_that_asked_end_when_they_should():
    found = []

    def asked():
        exact_timers()
        found.append(kernel.prctl(PR_GET_TIMERSLACK))

    thread = threading.Thread(target=asked)
    thread.start()
    thread.join()
    assert found == [1000]

"""Progress in a log: a stage that begins says so only when it takes long."""

import threading
import time

import pytest

from harness.cli import terminal
from harness.pipeline.progress import Progress

BEGUN = Progress(stage="load", done=0, total=0, note="loading both versions")
PATIENCE_S = 60.0


def timers():
    """What is still to be told some time."""
    return [t for t in threading.enumerate() if isinstance(t, threading.Timer)]


@pytest.fixture
def late(monkeypatch):
    """A stage takes long after an hour: however slow the machine is, none does."""
    monkeypatch.setattr(terminal, "_LOG_EVERY_S", 3600.0)
    before = timers()
    return lambda: [t for t in timers() if t not in before]


def assert_nothing_will_be_told(waiting, capsys):
    for timer in waiting():
        timer.join(PATIENCE_S)
    assert waiting() == []
    assert capsys.readouterr().err == ""


def test_a_stage_that_takes_long_is_named(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "_LOG_EVERY_S", 0.6)
    began = time.perf_counter()
    with terminal.ProgressBar(quiet=False) as progress:
        progress(BEGUN)
        told = ""
        while not told and time.perf_counter() < began + PATIENCE_S:
            time.sleep(0.01)
            told = capsys.readouterr().err
    assert told == "load: loading both versions\n"
    assert time.perf_counter() - began >= 0.6


def test_a_stage_that_is_soon_done_is_not(late, capsys):
    with terminal.ProgressBar(quiet=False) as progress:
        progress(BEGUN)
        assert len(late()) == 1
        progress(Progress(stage="graph", done=0, total=4))
        assert_nothing_will_be_told(late, capsys)


def test_nothing_is_told_after_the_command(late, capsys):
    with terminal.ProgressBar(quiet=False) as progress:
        progress(BEGUN)
        assert len(late()) == 1
    assert_nothing_will_be_told(late, capsys)

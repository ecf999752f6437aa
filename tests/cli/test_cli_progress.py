"""Progress in a log: a stage that begins says so only when it takes long."""

import time

import pytest

from harness.cli import terminal
from harness.pipeline.progress import Progress

BEGUN = Progress(stage="load", done=0, total=0, note="loading both versions")


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(terminal, "_LOG_EVERY_S", 0.6)


def test_a_stage_that_takes_long_is_named(soon, capsys):
    with terminal.ProgressBar(quiet=False) as progress:
        progress(BEGUN)
        assert capsys.readouterr().err == ""
        until = time.perf_counter() + 10
        told = ""
        while not told and time.perf_counter() < until:
            time.sleep(0.01)
            told = capsys.readouterr().err
    assert told == "load: loading both versions\n"


def test_a_stage_that_is_soon_done_is_not(soon, capsys):
    with terminal.ProgressBar(quiet=False) as progress:
        progress(BEGUN)
        progress(Progress(stage="graph", done=0, total=4))
        time.sleep(0.8)
    assert capsys.readouterr().err == ""


def test_nothing_is_told_after_the_command(soon, capsys):
    with terminal.ProgressBar(quiet=False) as progress:
        progress(BEGUN)
    time.sleep(0.8)
    assert capsys.readouterr().err == ""

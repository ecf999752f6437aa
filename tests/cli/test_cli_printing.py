"""Printing never waits for a reader."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from harness.cli.printing import Printer

ROOT = Path(__file__).resolve().parents[2]
STALLED = """
import sys, time
from harness.cli.printing import Printer
printer = Printer(lambda n: f"{n} dropped", most=10)
began = time.monotonic()
for i in range(5000):
    printer.line(f"{i} " + "x" * 500)
took = time.monotonic() - began
unread = printer.close(0.2)
sys.stderr.write(f"{took:.3f} {unread}")
"""
PAUSED = """
import os, signal, sys, threading
from harness.cli.printing import Printer
printer = Printer(lambda n: f"{n} dropped")
for i in range(5):
    printer.line(f"{i} " + "x" * 60_000)
threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGSTOP)).start()
sys.stderr.write(str(printer.close(1.0)))
"""
PATIENCE_S = 60.0
"""The reader is this test: only the machine keeps it waiting."""


def test_lines_come_in_order(capfd):
    printer = Printer(lambda n: f"{n} dropped")
    for i in range(50):
        printer.line(f"line {i}")
    assert printer.close(PATIENCE_S) == 0
    assert capfd.readouterr().out == "".join(f"line {i}\n" for i in range(50))


def test_a_reader_who_stands_still_stops_nobody_and_is_told_what_is_missing():
    reader, writer = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", STALLED], stdout=writer, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        os.close(writer)
        _, said = process.communicate(timeout=60)
    took, unread = said.split()
    assert process.returncode == 0
    assert float(took) < 20.0  # nobody reads before it has ended
    with os.fdopen(reader) as lines:
        *read, _ = [line.split() for line in lines.read().split("\n")]
    told = sum(int(words[0]) for words in read if words[1:] == ["dropped"])
    whole = sum(len(words) == 2 and len(words[1]) == 500 for words in read)
    assert told + whole + int(unread) == 5_000
    assert told > 0


def test_a_pause_of_the_machine_is_no_reader_who_stands_still():
    with subprocess.Popen(
        [sys.executable, "-c", PAUSED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        time.sleep(1.1)
        process.send_signal(signal.SIGCONT)
        read, unread = process.communicate(timeout=PATIENCE_S)
    assert [line.split()[0] for line in read.splitlines()] == list("01234")
    assert unread == "0"


def test_what_was_dropped_is_said_where_it_is_missing(capfd):
    printer = Printer(lambda n: f"{n} dropped", most=3)
    blocked, inside = threading.Event(), threading.Event()
    write = printer._write

    def slow(text):
        inside.set()
        blocked.wait(PATIENCE_S)
        write(text)

    printer._write = slow
    printer.line("a")
    assert inside.wait(PATIENCE_S)
    for i in range(8):
        printer.line(str(i))
    blocked.set()
    assert printer.close(PATIENCE_S) == 0
    assert capfd.readouterr().out == "a\n5 dropped\n5\n6\n7\n"


def test_a_reader_who_has_gone_is_no_failure():
    reader, writer = os.pipe()
    os.close(reader)
    printer = Printer(lambda n: f"{n} dropped")
    printer._out = writer
    began = time.monotonic()
    printer.line("a")
    assert printer.close(30.0) > 0
    assert time.monotonic() - began < 10.0
    os.close(writer)

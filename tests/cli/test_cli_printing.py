"""Printing never waits for a reader."""

import os
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


def test_lines_come_in_order(capfd):
    printer = Printer(lambda n: f"{n} dropped")
    for i in range(50):
        printer.line(f"line {i}")
    assert printer.close() == 0
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


def test_what_was_dropped_is_said_where_it_is_missing(capfd):
    printer = Printer(lambda n: f"{n} dropped", most=3)
    blocked, inside = threading.Event(), threading.Event()
    write = printer._write

    def slow(text):
        inside.set()
        blocked.wait(10)
        write(text)

    printer._write = slow
    printer.line("a")
    inside.wait(10)
    for i in range(8):
        printer.line(str(i))
    blocked.set()
    assert printer.close() == 0
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

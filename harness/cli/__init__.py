"""The command line: each command calls one function of the Python API."""

from harness.cli.entry import main

__all__ = ["main"]

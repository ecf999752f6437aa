"""One error tree. A message says where, what and the remedy; it never needs a traceback.

    HarnessError
    ├── UsageError            the user's command, file or configuration is wrong
    │   ├── PolicyError       the policy file
    │   ├── TrafficError      recorded traffic, labels, windows
    │   ├── ResolveError      a model reference, alias, registry or digest
    │   ├── EnvironmentUnavailableError  a version's own runtime, or its locale, cannot be had on this machine
    │   └── SignatureError    two versions whose signatures do not fit each other
    ├── SandboxError          the sandbox itself could not be made (not: the model failed in it)
    └── GateError             the gate broke one of its own rules

A model that fails is an observation (`core.observations.Outcome`), not an exception.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HarnessError(Exception):
    """An error with a place, a fact and a remedy.

    Args:
      where: the file, option, model or stage, as the user knows it.
      what: what is wrong, with the value that was found.
      remedy: what to do about it.
    """

    def __init__(self, where: str, what: str, remedy: str) -> None:
        super().__init__(f"{where}: {what}. {remedy}")
        self.where = where
        self.what = what
        self.remedy = remedy


class UsageError(HarnessError):
    """The user's command, file or configuration is wrong."""


class PolicyError(UsageError):
    """A policy cannot be read as it stands."""


class TrafficError(UsageError):
    """Recorded traffic, a label file or a window cannot be used."""


class ResolveError(UsageError):
    """A model reference does not lead to one pinned, intact version."""


class SignatureError(UsageError):
    """Two versions take or return different things and no mapping bridges them."""


class EnvironmentUnavailableError(UsageError):
    """The runtime that a version pins, or a locale it asks for, cannot be had here; no verdict about the version."""


class SandboxError(HarnessError):
    """A sandbox could not be started or broke its protocol."""


class GateError(HarnessError):
    """The gate itself failed; never a verdict about a model."""


def nearest(given: str, known: Iterable[str]) -> str:
    """Names the known word closest to what was given.

    Args:
      given: what the user wrote.
      known: the words that would have been right.

    Returns:
      "did you mean 'x'?" or, when nothing is close, "known: a, b, c".
    """
    options = sorted(known)
    close = difflib.get_close_matches(given, options, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(options)}"

"""A model that a gate of one test looked at, and that was whole, is not looked at again for the next.

A look follows from the file and the question alone, and is an eighth of a small gate's processor time.
What the first look answered is what every later one gets; what failed is asked anew each time. Tests
of what a look costs, leaves behind or is refused for ask for `each_look_anew`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import pytest


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """The answer to one question, with the contents of the copies that were asked for."""

    answer: Any
    """A `Looked`."""
    whole: bytes
    cut: bytes | None

    @classmethod
    def of(cls, answer: Any) -> _Known | None:
        """None where nothing may be kept: the model, or a copy of it, failed."""
        from harness.sandbox.graphs import Looked, ProbeResult

        if not isinstance(answer, Looked):
            return None
        probe = answer.probe
        if probe is None:
            return cls(answer=answer, whole=b"", cut=None)
        if not isinstance(probe, ProbeResult):
            return None
        cut = probe.cut.read_bytes() if probe.cut else None
        return cls(answer=answer, whole=probe.path.read_bytes(), cut=cut)

    def again(self, asked: Any) -> Any:
        """The answer to the same question with another place for the copies."""
        if self.answer.probe is None:
            return self.answer
        asked.copy.parent.mkdir(parents=True, exist_ok=True)
        asked.copy.write_bytes(self.whole)
        cut = None
        if self.cut is not None:
            cut = asked.copy.with_suffix(".cut.onnx")
            cut.write_bytes(self.cut)
        return replace(self.answer, probe=replace(self.answer.probe, path=asked.copy, cut=cut))


class Looks:
    """`sandbox.graphs.look`, each question once."""

    def __init__(self, look: Callable[..., list[Any]]) -> None:
        self.real = look
        self._known: dict[str, _Known | None] = {}

    def __call__(self, looks: Sequence[Any], limits: Any, **options: Any) -> list[Any]:
        keys = [_question(one, limits, options) for one in looks]
        before = [self._known.get(key) for key in keys]
        new = [one for one, known in zip(looks, before, strict=True) if known is None]
        answers = iter(self.real(new, limits, **options) if new else ())
        found = [
            next(answers) if known is None else known.again(one)
            for one, known in zip(looks, before, strict=True)
        ]
        self._known |= {
            key: _Known.of(answer)
            for key, known, answer in zip(keys, before, found, strict=True)
            if known is None
        }
        return found


def _question(asked: Any, limits: Any, options: dict[str, Any]) -> str:
    """What an answer follows from; a key of its own where a file cannot be read."""
    digest = hashlib.sha256(f"{limits!r} {options} {asked.python} {asked.copy is None}".encode())
    try:
        for name in (asked.model.name, *asked.external):
            content = (asked.model.parent / name).read_bytes()
            # The copy refers to the external data by their names, never to the model by its own.
            digest.update(f"{name in asked.external and name} {len(content)} ".encode() + content)
    except OSError:
        return str(uuid4())
    return digest.hexdigest()


@pytest.fixture(scope="session", autouse=True)
def _looks() -> Iterator[Looks]:
    from harness.pipeline import opening

    looks = Looks(opening.look)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "look", looks)
        yield looks


@pytest.fixture
def each_look_anew(_looks: Looks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look of this test's gates is a process of its own."""
    monkeypatch.setattr("harness.pipeline.opening.look", _looks.real)

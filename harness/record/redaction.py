"""Redaction rules, applied to a call before anything of it is written.

Hashes are HMAC-SHA256 under the user's key, cut to 128 bits: who has no key cannot try values out.
Equal values have equal hashes, so that slices and joins still work. Whole numbers become numbers of
their own type, others text.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np

from harness.core.calls import Metadata
from harness.core.recording import ALWAYS_DROPPED, Redact, Redacted, RedactionRule
from harness.core.tensors import Array
from harness.wire.contents import MessageError
from harness.wire.editing import TensorEdit, TextEdit, edited_request, edited_response

_HASH_BYTES = 16
_Value = TypeVar("_Value", str, Array)


def rules_from_json(found: Sequence[Mapping[str, Any]]) -> tuple[RedactionRule, ...]:
    """Rules as a process beside the proxy is told them."""
    return tuple(
        RedactionRule(
            where=Redacted(r["where"]), name=r["name"], action=Redact(r["action"]), step=r["step"]
        )
        for r in found
    )


class Redaction:
    """Rules with their key.

    Args:
      rules: at most one for each value.
      key: of the hashes; needed where a rule hashes.
    """

    def __init__(self, rules: Sequence[RedactionRule], key: bytes) -> None:
        self._key = key
        self.unused = set(rules)
        """Rules that nothing had a value for so far."""
        self._inputs = self._tensor_edits(rules, Redacted.INPUT)
        # A server that gives an input back under its name must not undo the rule.
        self._outputs = self._inputs | self._tensor_edits(rules, Redacted.OUTPUT)
        self._parameters = self._text_edits(rules, Redacted.PARAMETER)
        self._metadata = dict.fromkeys(ALWAYS_DROPPED, _dropped) | self._text_edits(
            rules, Redacted.METADATA
        )

    def request(self, serialized: bytes) -> bytes:
        """The request as it may be written.

        Raises:
          MessageError: a rule cannot be applied to it.
        """
        if not self._of_messages:
            return serialized
        return edited_request(serialized, self._inputs, self._parameters)

    def response(self, serialized: bytes) -> bytes:
        """The response as it may be written.

        Raises:
          MessageError: a rule cannot be applied to it.
        """
        if not serialized or not self._of_messages:
            return serialized
        return edited_response(serialized, self._outputs, self._parameters)

    def metadata(self, given: Metadata) -> list[tuple[str, str | bytes]]:
        """The metadata as it may be written."""
        kept: list[tuple[str, str | bytes]] = []
        for name, value in given:
            if name not in self._metadata:
                kept.append((name, value))
                continue
            text = value if isinstance(value, str) else value.decode("latin-1")
            edited = self._metadata[name](text)
            if edited is not None:
                kept.append((name.removesuffix("-bin"), edited))
        return kept

    @property
    def _of_messages(self) -> bool:
        """Whether any rule is about what requests or answers hold."""
        return bool(self._outputs or self._parameters)

    def _tensor_edits(
        self, rules: Sequence[RedactionRule], where: Redacted
    ) -> dict[str, TensorEdit]:
        edits: dict[str, TensorEdit] = {}
        for rule in rules:
            if rule.where is not where:
                continue
            match rule.action:
                case Redact.DROP:
                    edits[rule.name] = self._used(rule, _dropped)
                case Redact.HASH:
                    edits[rule.name] = self._used(rule, partial(_hashed, rule.name, self._hash))
                case Redact.ROUND:
                    edits[rule.name] = self._used(rule, partial(_rounded, rule.name, rule.step))
        return edits

    def _text_edits(self, rules: Sequence[RedactionRule], where: Redacted) -> dict[str, TextEdit]:
        edits: dict[str, TextEdit] = {}
        for rule in rules:
            if rule.where is where:
                edit = _dropped if rule.action is Redact.DROP else self._hashed_text
                edits[rule.name] = self._used(rule, edit)
        return edits

    def _used(
        self, rule: RedactionRule, edit: Callable[[_Value], _Value | None]
    ) -> Callable[[_Value], _Value | None]:
        """The edit, which also notes that its rule had something to do."""

        def noted(value: _Value) -> _Value | None:
            self.unused.discard(rule)
            return edit(value)

        return noted

    def _hash(self, value: bytes) -> bytes:
        return hmac.digest(self._key, value, "sha256")[:_HASH_BYTES]

    def _hashed_text(self, text: str) -> str:
        return self._hash(text.encode("utf-8", "surrogateescape")).hex()


def _dropped(_: object) -> None:
    return None


def _hashed(name: str, hashed: Callable[[bytes], bytes], array: Array) -> Array:
    if array.dtype.kind == "O":
        texts = [hashed(str(v).encode()).hex() for v in array.ravel().tolist()]
        found = np.empty(len(texts), object)
        found[:] = texts
        return found.reshape(array.shape)
    if array.dtype.kind not in "iu":
        msg = f"tensor '{name}': {array.dtype} cannot be hashed, only text and whole numbers"
        raise MessageError(msg)
    most = _limits(array)[1]
    numbers = [
        int.from_bytes(hashed(str(v).encode()), "little") & most for v in array.ravel().tolist()
    ]
    return np.array(numbers, array.dtype).reshape(array.shape)


def _rounded(name: str, step: float, array: Array) -> Array:
    if array.dtype.kind not in "iuf":
        msg = f"tensor '{name}': {array.dtype} cannot be rounded, only numbers"
        raise MessageError(msg)
    if array.dtype.kind == "f":
        return (np.round(array.astype(np.float64) / step) * step).astype(array.dtype)
    if step != int(step):
        msg = f"tensor '{name}': whole numbers round to whole steps, not to {step:g}"
        raise MessageError(msg)
    (least, most), whole = _limits(array), int(step)
    rounded = [(v + whole // 2) // whole * whole for v in array.ravel().tolist()]
    within = [min(max(v, least), most) for v in rounded]
    return np.array(within, array.dtype).reshape(array.shape)


def _limits(array: Array) -> tuple[int, int]:
    """The least and the largest whole number of an array's type."""
    bits = 8 * array.dtype.itemsize
    return (
        (0, 2**bits - 1) if array.dtype.kind == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    )

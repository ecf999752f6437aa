"""Redaction rules from a YAML file, read strictly.

version: 1
key: {file: /etc/harness/redaction.key}       # or {env: NAME}; needed where a rule hashes
rules:
- {input: tail_number, action: hash}
- {input: income, action: round, step: 100}
- {parameter: user, action: hash}
- {metadata: x-session, action: drop}
- {output: explanation, action: drop}
details: keep          # write what the server said of failures; without it rules leave it out
"""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import UsageError
from harness.core.recording import Redact, Redacted, RedactionRule
from harness.decide.document import Section, read_document

LEAST_KEY_BYTES = 16
_NUMBERS = (Redacted.INPUT, Redacted.OUTPUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedactionFile:
    """What a rules file says."""

    rules: tuple[RedactionRule, ...]
    """In the file's order."""
    key: bytes
    """Of the hashes; empty where no rule hashes."""
    details: bool
    """Whether what the server says of a failure, which may repeat any value, is written."""


class _Details(enum.StrEnum):
    """What becomes of what the server said of a failure."""

    DROP = "drop"
    KEEP = "keep"


def read_redaction(path: Path) -> RedactionFile:
    """Reads a rules file and the key it names.

    Raises:
      PolicyError: an unknown key or value, a value ruled twice, a hash without a key.
      UsageError: the file or the key cannot be read, or the key is too short.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            str(path), "cannot be read as text", "Name a YAML file of rules."
        ) from error
    document = read_document(text, str(path))
    document.only(("version", "key", "rules", "details"))
    if document.integer("version", least=1) != 1:
        raise document.error("version", "is not known", "Write `version: 1`.")
    sections = document.sections("rules") if "rules" in document else ()
    if not sections:
        raise document.error("rules", "has no rule", "Add one, or leave --redact out.")
    rules: list[RedactionRule] = []
    for section in sections:
        rule = _rule(section)
        if any((r.where, r.name) == (rule.where, rule.name) for r in rules):
            raise section.error(rule.where, f"has a second rule for '{rule.name}'", "Keep one.")
        rules.append(rule)
    key = _key(document.section("key"), path) if "key" in document else b""
    if not key and any(r.action is Redact.HASH for r in rules):
        raise document.error(
            "key", "is missing, and a rule hashes", "Add `key: {file: PATH}` or `key: {env: NAME}`."
        )
    details = "details" in document and document.choice("details", _Details) is _Details.KEEP
    return RedactionFile(rules=tuple(rules), key=key, details=details)


def _rule(section: Section) -> RedactionRule:
    places = [w.value for w in Redacted]
    section.only((*places, "action", "step"))
    given = [p for p in places if p in section]
    if len(given) != 1:
        raise section.error(
            given[1] if given else "action", "names not exactly one value",
            f"Name it by one of {', '.join(places)}.",
        )  # fmt: skip
    where, action = Redacted(given[0]), section.choice("action", Redact)
    name = section.text(where)
    if action is Redact.ROUND:
        if where not in _NUMBERS:
            raise section.error("action", f"cannot round {where}", "Drop or hash it.")
        return RedactionRule(where=where, name=name, action=action, step=section.positive("step"))
    if "step" in section:
        raise section.error("step", f"means nothing to {action}", "Leave it out.")
    name = name.lower() if where is Redacted.METADATA else name
    return RedactionRule(where=where, name=name, action=action)


def _key(section: Section, rules: Path) -> bytes:
    section.only(("file", "env"))
    if ("file" in section) == ("env" in section):
        raise section.error("file", "or env: exactly one is needed", "Name a file or a variable.")
    if "file" in section:
        where = section.text("file")
        try:
            key = (rules.parent / where).read_bytes().strip()
        except OSError as error:
            raise UsageError(
                where, f"the key cannot be read: {error.strerror}", "Name a readable file."
            ) from error
    else:
        where = section.text("env")
        key = os.environ.get(where, "").encode()
    if len(key) < LEAST_KEY_BYTES:
        raise UsageError(
            where, f"the key has {len(key)} bytes, and {LEAST_KEY_BYTES} are the least",
            "Make one, for example with `openssl rand -hex 32`.",
        )  # fmt: skip
    return key

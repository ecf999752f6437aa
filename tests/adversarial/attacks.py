"""What a candidate can try, and what a gate must answer.

Lines run in the candidate's own process in place of an answer (see hostile_worker); there FOLDER is a
folder that anyone may write to, with the file HIDDEN, and TCP and UDP are ports that somebody listens at.
"""

from __future__ import annotations

from dataclasses import dataclass

import hostile_models as hostile

HIDDEN = "nobody may read this"
_ROLLBACK, _HOLD = 1, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One candidate and the answer to it."""

    name: str
    """Also its folder's."""
    kind: str
    """Of the finding; "" for none."""
    reason: str = "candidate_fails"
    """Of the decision."""
    code: int = _ROLLBACK
    """Of the gate's exit."""
    words: str = ""
    """In the finding."""
    harm: str = ""
    """What the model itself does, of hostile_models."""
    location: str = ""
    """Where the model says that a weight of it lies."""
    lines: str = ""
    """What its process does."""
    after: int = 0
    """Answers that its process gives first."""
    strict: bool = False
    """Without the options that the others' gates get: as the policy has it."""


HONEST = Attack(name="honest", kind="", code=0, reason="all_guardrails_pass")
STRICT = Attack(name="strict", kind="", code=0, reason="all_guardrails_pass", strict=True)
MODELS = (
    Attack(name="crash", kind="candidate_crash", harm=hostile.CRASH, words="SIGFPE"),
    Attack(name="loop", kind="candidate_timeout", harm=hostile.LOOP),
    Attack(name="hungry", kind="memory_limit", harm=hostile.HUNGRY),
    Attack(name="error", kind="candidate_error", harm=hostile.ERROR),
)
"""Models that do harm in every request."""
FILES = tuple(
    Attack(
        name=name, location=location, kind="candidate_does_not_load",
        reason="candidate_does_not_load", words="is no file beside the model",
    )
    for name, location in (
        ("absolute", "/etc/passwd"),
        ("absolute-secret", "FOLDER/secret"),
        ("relative", "../trap/secret"),
        ("symlink", "link"),
    )
)  # fmt: skip
"""Models whose weights are said to lie in somebody's file."""
BREAKING = (
    Attack(name="garbage", kind="candidate_invalid", lines="os.write(fd, os.urandom(1 << 16)); time.sleep(60)"),
    Attack(name="sequence", kind="candidate_invalid", lines="honest(self, header, buffers, asked._replace(number=99))"),
    Attack(
        name="cut", kind="candidate_timeout",
        lines="os.write(fd, frames.PREFIX.pack(frames.MAGIC, 9, 9, asked.number, 0)); time.sleep(60)",
    ),
    Attack(name="ignores", kind="candidate_timeout", lines="time.sleep(60)"),
    Attack(name="noise", kind="candidate_timeout", lines="while True:\n    os.write(2, b'noise' * 1000)"),
    Attack(name="exits", kind="candidate_crash", lines="os._exit(0)"),
    Attack(
        name="dies", kind="candidate_crash", words="exited with code 3",
        lines="os.write(fd, frames.PREFIX.pack(frames.MAGIC, 9, 9, asked.number, 0)); os._exit(3)",
    ),
    Attack(name="closes", kind="candidate_crash", lines="os.close(fd); time.sleep(60)"),
    Attack(name="aborts", kind="candidate_crash", words="SIGABRT", lines="os.abort()"),
    Attack(name="shrinks", kind="candidate_crash", lines="os.ftruncate(ring, 0)"),
    Attack(name="grows", kind="candidate_crash", lines="os.ftruncate(ring, 1 << 40)"),
    Attack(
        name="flood", kind="candidate_flaky", reason="flaky_candidate", code=_HOLD,
        lines="while True:\n    honest(self, header, buffers, asked)",
    ),
    Attack(
        name="dies-between", kind="candidate_flaky", reason="flaky_candidate", code=_HOLD,
        lines="os.abort()", after=1,
    ),
)  # fmt: skip
"""Processes that break the rules of the talk with the parent."""
REACHING = (
    Attack(
        name="read", kind="candidate_crash", words="PermissionError",
        lines="os.write(2, os.read(os.open('FOLDER/secret', os.O_RDONLY), 99)); os._exit(9)",
    ),
    Attack(
        name="write", kind="candidate_crash", words="PermissionError",
        lines="os.open('FOLDER/new', os.O_CREAT | os.O_WRONLY, 0o600); os._exit(9)",
    ),
    Attack(
        name="fork", kind="candidate_crash", words="SIGSYS",
        lines="while os.fork() >= 0:\n    pass",
    ),
    Attack(
        name="tcp", kind="candidate_crash", words="SIGSYS",
        lines="""
            sender = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
            sender.connect(('127.0.0.1', TCP))
            sender.send(b'sent')
            os._exit(9)
        """,
    ),
    Attack(
        name="udp", kind="candidate_crash", words="SIGSYS",
        lines="""
            sender = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
            sender.sendto(b'sent', ('127.0.0.1', UDP))
            os._exit(9)
        """,
    ),
)  # fmt: skip
"""Processes that reach out of themselves."""
ATTACKS = {a.name: a for a in (HONEST, STRICT, *MODELS, *FILES, *BREAKING, *REACHING)}

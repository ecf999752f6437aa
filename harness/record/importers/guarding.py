"""The one place where a record's conversion may fail: whatever happens there costs that record only.

Conversions do no I/O, so any exception of theirs is the record's fault, or a fault of ours that this
record shows; either way the record goes to the quarantine with the exception's name, and the import
goes on. Disks and stores fail elsewhere, and stop the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from harness.core.errors import UsageError
from harness.record.importers.parts import Part, PayloadError, Refused, Trouble, kind_of

T = TypeVar("T")
_LAST_NS = 2**63 - 1
_CODES = range(2**31)
_LONGEST_WHY = 500


class OversizedError(ValueError):
    """A body was not logged because of its size; `args[0]` says which."""


@dataclass(frozen=True, slots=True)
class Guard:
    """One record's conversion.

    Args:
      place: where the record stands.
      raw: the record as it was read.
    """

    place: str
    raw: bytes

    def __call__(self, convert: Callable[[], T]) -> T | Refused:
        """What the conversion gives, or the record refused with the reason."""
        try:
            return convert()
        except OversizedError as error:
            return self._refused(Trouble.OVERSIZED, str(error))
        except PayloadError as error:
            return self._refused(Trouble.UNDECODABLE, str(error))
        except UsageError as error:
            return self._refused(Trouble.UNDECODABLE, error.what)
        except UnicodeEncodeError:
            return self._refused(Trouble.UNDECODABLE, "a name, id or text has no UTF-8 form")
        except Exception as error:  # noqa: BLE001 - see the module: one record's failure, named in the quarantine
            return self._refused(
                Trouble.UNDECODABLE,
                f"the record could not be converted ({type(error).__name__}: {error})",
            )

    def _refused(self, trouble: Trouble, why: str) -> Refused:
        return Refused(place=self.place, trouble=trouble, why=why[:_LONGEST_WHY], raw=self.raw)


def checked(part: Part) -> Part:
    """A part that staging and traffic files can hold.

    Raises:
      PayloadError: a text without a UTF-8 form, or a number out of range.
    """
    texts = (part.id, part.model, part.version, part.trace_id)
    pairs = (*part.metadata.items(), *part.context.items())
    for text in (*texts, *(t for pair in pairs for t in pair)):
        if not isinstance(text, str):
            raise PayloadError(f"a name or id is {kind_of(text)}, no text")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise PayloadError("a name, id or text has no UTF-8 form") from None
    if not 0 <= part.ts_ns <= _LAST_NS:
        raise PayloadError("its time lies outside the years 1970 to 2262")
    if part.latency_ns is not None and not 0 <= part.latency_ns <= _LAST_NS:
        raise PayloadError(f"it took {part.latency_ns} ns")
    if part.code not in _CODES:
        raise PayloadError(f"its status is {str(part.code)[:40]}")
    return part

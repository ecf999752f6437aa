"""Which version answers a unit: a keyed hash of its name, the same at every step and after a restart.

The hash gives each unit one number in [0, 1). The candidate answers units below the share in force,
so a ramp only ever adds units to the candidate's arm. The key makes the draw as good as a coin for
whoever does not know it; a second part of the hash is the name under which the unit is judged and
kept, so that no user's name reaches a disk.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

_HALF = 8
_TWO_64 = float(1 << 64)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a unit stands."""

    unit: int
    """Its name in all records, 64 bits; two of a million units share one with probability 3e-8."""
    draw: float
    """Its number in [0, 1)."""


class Split:
    """Places units.

    Args:
      seed: any text; the same seed places every unit alike.
    """

    def __init__(self, seed: str) -> None:
        self._key = hashlib.blake2b(seed.encode(), digest_size=32).digest()

    def place(self, unit: str) -> Place:
        """The unit's name in records, and its number.

        Args:
          unit: as the request names it; any text.
        """
        # A client may send what has no UTF-8 form; it is a name like any other.
        named = unit.encode(errors="surrogatepass")
        found = hashlib.blake2b(named, key=self._key, digest_size=2 * _HALF).digest()
        draw = int.from_bytes(found[_HALF:], "big") / _TWO_64
        # The quotient of the largest number is rounded to 1.
        return Place(int.from_bytes(found[:_HALF], "big"), min(draw, 1.0 - 2.0**-53))


def name_of(unit: int) -> str:
    """A unit's name as the judge and the records have it."""
    return f"{unit:016x}"

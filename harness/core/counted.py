"""Numbers of things in words."""

from __future__ import annotations


def counted(n: int, noun: str = "request", plural: str = "") -> str:
    """1 request, 2,048 requests.

    Args:
      n: how many.
      noun: of one.
      plural: of several; "" = the noun with an s.
    """
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"

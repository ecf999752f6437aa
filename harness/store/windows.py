"""Sealed windows: `seal` makes one, `SealedWindow` reads it."""

from harness.store.sealed import SealedWindow, is_window
from harness.store.sealing import ExchangeSource, Progress, seal, seal_cached
from harness.store.window_index import WindowIndex

__all__ = [
    "ExchangeSource",
    "Progress",
    "SealedWindow",
    "WindowIndex",
    "is_window",
    "seal",
    "seal_cached",
]

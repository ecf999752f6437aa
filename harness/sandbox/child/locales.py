"""Locales that a model may ask for, held by the C library before no file can be opened any more.

onnxruntime makes the locale of a StringNormalizer when it makes the session: `en_US.UTF-8`, unless the
model names another. glibc keeps what was made and not freed, and gives it again without a look at its
files, however the character set is spelled then (`UTF-8`, `utf8`). Where locales lie in one archive, the
first one that is asked for maps all of it, whether or not it is found. Where each is a folder, every one
costs a dozen files, a tenth of a millisecond, so that only some are held.
"""

from __future__ import annotations

import ctypes
import os

FOLDER = b"/usr/lib/locale"
USUAL = b"en_US.UTF-8"
"""What onnxruntime takes where a model names none."""
MOST = 16
"""Folders that are held."""
_ALL_CATEGORIES = 0x1FBF
"""LC_ALL_MASK of glibc."""


def hold() -> None:
    """Has the C library load what it finds; nothing where it is another one and cannot."""
    make = getattr(ctypes.CDLL(None), "newlocale", None)
    if make is None:
        return
    make.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p]
    make.restype = ctypes.c_void_p
    for name in (USUAL, *folders(FOLDER)):
        make(_ALL_CATEGORIES, name, None)


def folders(place: bytes) -> list[bytes]:
    """Names of the locales that are kept as folders in a place, `MOST` of them: those of UTF-8 first."""
    try:
        with os.scandir(place) as entries:
            found = [entry.name for entry in entries if entry.is_dir()]
    except OSError:
        return []
    return sorted(found, key=lambda name: (b".utf8" not in name, name))[:MOST]

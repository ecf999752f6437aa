"""A locale that a model asks for and this machine cannot give: what onnxruntime says of it, and what to do.

The name in the message is the model's: it is shown shortened, and stands in a command only where it is
made like the name of a locale.
"""

from __future__ import annotations

import re

from harness.core.plain_text import one_line

_SIGN = re.compile(
    r"Failed to construct locale with name:(.*?)(?::locale::|::?Please, install|$)", re.DOTALL
)
_USUAL_NAME = re.compile(r"([a-z]{2,3}_[A-Z]{2})\.([A-Za-z0-9-]{1,20})")
_MOST_SHOWN = 60


def lacking_locale(message: str) -> tuple[str, str] | None:
    """What is lacking, and the remedy; None where a message is about something else.

    Args:
      message: why a model does not load, as its process said it.
    """
    found = _SIGN.search(message)
    if found is None:
        return None
    name = one_line(found[1])
    usual = _USUAL_NAME.fullmatch(name)
    how = "`locale -a` lists those that are there"
    if usual:
        how = f"Debian: `apt-get install locales`, then `localedef -i {usual[1]} -f {usual[2]} {name}`"
    shown = name if len(name) <= _MOST_SHOWN else f"{name[:_MOST_SHOWN]}…"
    what = f"asks for the locale '{shown}', which cannot be had on this machine"
    remedy = (
        f"Install that locale here ({how}), or, where production has none either, export the model with"
        ' `locale` "C" in its StringNormalizer. Of locales that are kept as folders the first 16 are held; an archive'
        " is held whole."
    )
    return what, remedy

"""Names and lengths that differ between two versions, as the command line gives them."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.errors import UsageError, nearest
from harness.core.policies import Mapping
from harness.decide.document import read_document
from harness.decide.policy_sections import read_mapping
from harness.pipeline.option_files import text_of_file

_KINDS = ("inputs", "outputs", "tensors")
_NARROWER = "narrower"
_EXPECTED = "expected_changes"


def mapping_from_options(options: Sequence[str]) -> Mapping:
    """Reads KIND:OLD=NEW, narrower:INPUT, and YAML files with a policy's `mapping:`.

    Raises:
      UsageError: another form, an unknown kind, or a name that is mapped twice.
    """
    found: dict[str, list[tuple[str, str]]] = {kind: [] for kind in _KINDS}
    narrower: list[str] = []
    for option in options:
        text = text_of_file(option, "--map")
        if text is not None:
            named = _mapping_of_file(text, option)
            for kind in _KINDS:
                found[kind] += getattr(named, kind)
            narrower += named.narrower
            continue
        kind, colon, names = option.partition(":")
        if kind == _NARROWER and names:
            narrower.append(names)
            continue
        before, equals, after = names.partition("=")
        if not (colon and equals and before and after):
            raise UsageError(
                f"--map {option}",
                "is no file, and not KIND:OLD=NEW",
                "Write it like inputs:age=age_years.",
            )
        if kind not in found:
            raise UsageError(
                f"--map {option}",
                f"'{kind}' cannot be mapped",
                nearest(kind, (*_KINDS, _NARROWER)),
            )
        found[kind].append((before, after))
    for kind, pairs in found.items():
        _check_once(kind, pairs)
    return Mapping(
        inputs=tuple(found["inputs"]),
        outputs=tuple(found["outputs"]),
        tensors=tuple(found["tensors"]),
        narrower=tuple(narrower),
    )


def _mapping_of_file(text: str, where: str) -> Mapping:
    """The `mapping:` of a file.

    Raises:
      PolicyError: it has another key, or none.
    """
    document = read_document(text, where)
    if _EXPECTED in document:
        what = "belongs to a gate's policy: a comparison tells every difference"
        raise document.error(_EXPECTED, what, "Leave it out.")
    document.only(("mapping",))
    return read_mapping(document.section("mapping"))


def _check_once(kind: str, pairs: Sequence[tuple[str, str]]) -> None:
    """Of two partners of a name, one would silently count.

    Raises:
      UsageError: a name of either version is mapped twice.
    """
    for position, whose in enumerate(("old", "new")):
        named = [pair[position] for pair in pairs]
        twice = next((name for name in named if named.count(name) > 1), None)
        if twice is not None:
            both = " and ".join(f"{a}={b}" for a, b in pairs if twice == (a, b)[position])
            raise UsageError(
                f"--map {kind}:{twice}",
                f"the {whose} version's {twice!r} is mapped twice ({both})",
                "Map each name once.",
            )

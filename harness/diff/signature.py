"""Do two versions take and return the same things, and if only the names differ, which ones?"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from harness.core.errors import SignatureError, nearest
from harness.core.policies import Mapping
from harness.core.tensors import Signature, TensorSpec

_WHERE = "signature"
_NOT_COMPARED = "OTHER:"
Names = tuple[tuple[str, str], ...]
Pairs = list[tuple[TensorSpec, TensorSpec]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureMatch:
    """Which tensor of the candidate stands for which of the baseline."""

    inputs: Names
    """(baseline's name, candidate's name), in the baseline's order."""
    outputs: Names
    """The same for outputs that are compared."""
    extra_outputs: tuple[str, ...] = ()
    """Candidate outputs the baseline does not have: not compared."""
    not_compared: tuple[str, ...] = ()
    """Baseline outputs of a kind that is not compared (sparse tensors, maps)."""


def check_signatures(baseline: Signature, candidate: Signature, mapping: Mapping) -> SignatureMatch:
    """Pairs inputs and outputs by name, after the policy's mapping.

    Types must be the same and shapes must fit (a free dimension fits any); more outputs on the
    candidate's side are allowed and listed.

    Raises:
      SignatureError: something has no partner or another type or shape. The message shows both
        signatures and, when names alone differ, the mapping lines that would bridge them.
    """
    problems: list[str] = []
    paired_specs: dict[str, Pairs] = {}
    bridges: dict[str, Names] = {}
    unbridged: list[str] = []
    pairs: dict[str, Names] = {}
    for side, ours, theirs, renamed in (
        ("inputs", baseline.inputs, candidate.inputs, mapping.inputs),
        ("outputs", baseline.outputs, candidate.outputs, mapping.outputs),
    ):
        _check_mapping(side, renamed, ours, theirs)
        paired, lost, extra = _paired(ours, theirs, dict(renamed))
        paired_specs[side] = paired
        pairs[side] = tuple((b.name, c.name) for b, c in paired)
        unlike = [_unlike(side, b, c) for b, c in paired if not _fits(b, c)]
        problems += unlike
        unbridged += unlike
        problems += [f"{side[:-1]} {spec.shown()} is missing from the candidate" for spec in lost]
        if side == "inputs":
            problems += [f"input {s.shown()} is only the candidate's" for s in extra]
        bridges[side] = _bridge(lost, extra)
        unbridged += _left_over(side, lost, extra, bridges[side])
    if problems:
        raise SignatureError(
            _WHERE,
            "; ".join(problems),
            _remedy(_side_by_side(baseline, candidate, paired_specs), bridges, mapping, unbridged),
        )
    return _match(baseline, candidate, pairs)


def _match(baseline: Signature, candidate: Signature, pairs: dict[str, Names]) -> SignatureMatch:
    odd = tuple(s.name for s in baseline.outputs if s.datatype.startswith(_NOT_COMPARED))
    taken = {theirs for _, theirs in pairs["outputs"]}
    return SignatureMatch(
        inputs=pairs["inputs"],
        outputs=tuple(pair for pair in pairs["outputs"] if pair[0] not in odd),
        extra_outputs=tuple(s.name for s in candidate.outputs if s.name not in taken),
        not_compared=odd,
    )


def _check_mapping(
    side: str, renamed: Names, ours: Sequence[TensorSpec], theirs: Sequence[TensorSpec]
) -> None:
    """A mapping that names nothing would silently not map, and one of two for a name only once."""
    for position, specs, whose in ((0, ours, "baseline"), (1, theirs, "candidate")):
        known = [spec.name for spec in specs]
        for pair in renamed:
            if pair[position] not in known:
                raise SignatureError(
                    f"mapping.{side}",
                    f"the {whose} has no {side[:-1]} '{pair[position]}'",
                    f"Correct the name: {nearest(pair[position], known)}.",
                )
        named = [pair[position] for pair in renamed]
        twice = next((name for name in named if named.count(name) > 1), None)
        if twice is not None:
            raise SignatureError(
                f"mapping.{side}", f"names the {whose}'s '{twice}' twice", "Map each name once."
            )


def _paired(
    ours: Sequence[TensorSpec], theirs: Sequence[TensorSpec], renamed: dict[str, str]
) -> tuple[Pairs, list[TensorSpec], list[TensorSpec]]:
    """Pairs, and what is left on each side; what the mapping names stands for nothing else."""
    by_name = {spec.name: spec for spec in theirs}
    mapped = frozenset(renamed.values())
    paired = []
    lost = []
    for spec in ours:
        free = spec.name not in mapped
        partner = by_name.pop(renamed.get(spec.name, spec.name if free else ""), None)
        if partner is None:
            lost.append(spec)
        else:
            paired.append((spec, partner))
    return paired, lost, list(by_name.values())


def _fits(ours: TensorSpec, theirs: TensorSpec) -> bool:
    return (
        ours.datatype == theirs.datatype
        and len(ours.shape) == len(theirs.shape)
        and all(
            a is None or b is None or a == b for a, b in zip(ours.shape, theirs.shape, strict=True)
        )
    )


def _unlike(side: str, ours: TensorSpec, theirs: TensorSpec) -> str:
    return f"{side[:-1]} {ours.shown()} is {theirs.shown()} in the candidate"


def _bridge(lost: Iterable[TensorSpec], extra: Sequence[TensorSpec]) -> Names:
    """Renamings that would pair what is lost with what is extra, of fitting type and shape."""
    left = list(extra)
    found = []
    for spec in lost:
        fitting = [other for other in left if _fits(spec, other)]
        if fitting:
            best = max(fitting, key=lambda other: _likeness(spec.name, other.name))
            left.remove(best)
            found.append((spec.name, best.name))
    return tuple(found)


def _left_over(
    side: str, lost: Iterable[TensorSpec], extra: Iterable[TensorSpec], bridge: Names
) -> list[str]:
    """What no renaming would settle."""
    ours, theirs = {a for a, _ in bridge}, {b for _, b in bridge}
    left = [f"{side[:-1]} {s.name} stays without a partner" for s in lost if s.name not in ours]
    if side == "inputs":
        left += [f"input {s.name} stays without a value" for s in extra if s.name not in theirs]
    return left


def _likeness(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()


def _remedy(
    table: list[str], bridges: dict[str, Names], mapping: Mapping, unbridged: list[str]
) -> str:
    lines = ["The two signatures:", *table]
    if not any(bridges.values()):
        lines.append(
            "Give the candidate the baseline's inputs and outputs, or compare versions that share them."
        )
        return "\n".join(lines)
    lines += [
        "If these are the same things under other names, add to the policy, or give `compare` as --map FILE:",
        "mapping:",
    ]
    for side, old in (("inputs", mapping.inputs), ("outputs", mapping.outputs)):
        renamed = (*old, *bridges[side])
        if renamed:
            lines.append(f"  {side}: {{{', '.join(f'{a}: {b}' for a, b in renamed)}}}")
    if unbridged:
        lines.append(f"# Names are not all: {'; '.join(unbridged)}.")
    return "\n".join(lines)


def _side_by_side(baseline: Signature, candidate: Signature, pairs: dict[str, Pairs]) -> list[str]:
    """A line a tensor, beside its partner, or beside one that has none either."""
    rows = [("", "baseline", "candidate")]
    for side, ours, theirs in (
        ("input", baseline.inputs, candidate.inputs),
        ("output", baseline.outputs, candidate.outputs),
    ):
        partner = {old.name: new for old, new in pairs[f"{side}s"]}
        taken = {new.name for new in partner.values()}
        left = [(spec, partner.get(spec.name)) for spec in ours]
        filled = iter([s for s in theirs if s.name not in taken])
        matched = [(spec, other or next(filled, None)) for spec, other in left]
        rest = [(None, other) for other in filled]
        rows += [
            (side, spec.shown() if spec else "–", other.shown() if other else "–")
            for spec, other in (*matched, *rest)
        ]
    widths = [max(len(cell) for cell in column) for column in zip_longest(*rows, fillvalue="")]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]

"""Do two versions take and return the same things, and if only the names differ, which ones?"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
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
    """Baseline outputs of a kind that is not compared (sparse tensors)."""
    narrower: tuple[str, ...] = ()
    """Inputs of which the candidate takes fewer lengths, which the mapping accepts; in words."""
    one_rank: tuple[str, ...] = ()
    """Inputs whose axes only the candidate declares; in words."""


def check_signatures(baseline: Signature, candidate: Signature, mapping: Mapping) -> SignatureMatch:
    """Pairs inputs and outputs by name, after the policy's mapping.

    Types must be the same and shapes must fit. A free dimension fits any, but for one of an input that the
    candidate fixes, a batch's rows among them: what clients send today it would not take. Where a version does
    not declare how many axes there are, rows apart nothing is known to be otherwise. More outputs on
    the candidate's side are allowed and listed.

    Raises:
      SignatureError: something has no partner or another type or shape. The message shows both
        signatures and the mapping lines that would bridge them, where there are such lines.
    """
    problems: list[str] = []
    unbridged: list[str] = []
    pairs: dict[str, Pairs] = {}
    bridges: dict[str, Names] = {}
    sides = _sides(baseline, candidate)
    for side, renamed in zip(sides, (mapping.inputs, mapping.outputs), strict=True):
        _check_mapping(side, renamed)
        paired, lost, extra = _paired(side, dict(renamed))
        pairs[side.name] = paired
        unlike = [_unlike(side, b, c) for b, c in paired if not _fits(side, b, c)]
        problems += unlike
        unbridged += unlike
        problems += [f"{side.one} {side.shown(0, s)} is missing from the candidate" for s in lost]
        if side.takes:
            problems += [f"input {side.shown(1, s)} is only the candidate's" for s in extra]
        bridges[side.name] = _bridge(side, lost, extra)
        unbridged += _left_over(side, lost, extra, bridges[side.name])
    narrower = _narrower(sides[0], pairs["inputs"], bridges["inputs"])
    _check_narrower(sides[0], mapping)
    refused = tuple(name for name in narrower if name not in mapping.narrower)
    alike = {ours.name for ours, _ in pairs["inputs"]}
    problems += [narrower[name] for name in refused if name in alike]
    if problems:
        table = _side_by_side(sides, pairs)
        remedy = _remedy(table, bridges, mapping, refused, unbridged)
        raise SignatureError(_WHERE, "; ".join(problems), remedy)
    return replace(
        _match(baseline, candidate, pairs, tuple(narrower.values())),
        one_rank=tuple(_of_one_rank(sides[0], pairs["inputs"])),
    )


def declared_by_either(baseline: Signature, candidate: Signature, mapping: Mapping) -> Signature:
    """The baseline's signature, with the candidate's axes and rows of inputs where only that declares some.

    Args:
      baseline: its signature.
      candidate: its signature.
      mapping: what stands for what.
    """
    names, theirs = dict(mapping.inputs), {spec.name: spec for spec in candidate.inputs}
    found = [(spec, theirs.get(names.get(spec.name, spec.name))) for spec in baseline.inputs]
    inputs = tuple(
        replace(ours, shape=other.shape, any_rank=other.any_rank)
        if ours.any_rank and other is not None
        else ours
        for ours, other in found
    )
    fixed = dict(candidate.rows)
    rows = {ours.name: fixed[other.name] for ours, other in found if other and other.name in fixed}
    return replace(baseline, inputs=inputs, rows=tuple((rows | dict(baseline.rows)).items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """What both versions take, or return."""

    name: str
    """inputs or outputs."""
    specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]
    """The baseline's and the candidate's."""
    rows: tuple[dict[str, int], dict[str, int]]
    """Of each version the rows that its tensors must have, where that is declared."""

    @property
    def one(self) -> str:
        """One of them."""
        return self.name[:-1]

    @property
    def takes(self) -> bool:
        """Whether this is what they take."""
        return self.name == "inputs"

    def shown(self, version: int, spec: TensorSpec) -> str:
        """As shown to a user, with its rows."""
        return spec.shown(self.rows[version].get(spec.name))

    def lengths(self, ours: TensorSpec, theirs: TensorSpec) -> list[tuple[int | None, int | None]]:
        """Each dimension of two tensors of one rank, their rows first; None = any. Of any rank: only the rows."""
        first = (self.rows[0].get(ours.name), self.rows[1].get(theirs.name))
        if ours.any_rank or theirs.any_rank:
            return [first]
        return [first, *zip(ours.shape, theirs.shape, strict=True)]


def _sides(baseline: Signature, candidate: Signature) -> tuple[_Side, _Side]:
    rows = (dict(baseline.rows), dict(candidate.rows))
    return (
        _Side(name="inputs", specs=(baseline.inputs, candidate.inputs), rows=rows),
        _Side(name="outputs", specs=(baseline.outputs, candidate.outputs), rows=({}, {})),
    )


def _match(
    baseline: Signature, candidate: Signature, pairs: dict[str, Pairs], narrower: tuple[str, ...]
) -> SignatureMatch:
    odd = tuple(s.name for s in baseline.outputs if s.datatype.startswith(_NOT_COMPARED))
    names = {side: tuple((b.name, c.name) for b, c in found) for side, found in pairs.items()}
    taken = {theirs for _, theirs in names["outputs"]}
    return SignatureMatch(
        inputs=names["inputs"],
        outputs=tuple(pair for pair in names["outputs"] if pair[0] not in odd),
        extra_outputs=tuple(s.name for s in candidate.outputs if s.name not in taken),
        not_compared=odd,
        narrower=narrower,
    )


def _check_mapping(side: _Side, renamed: Names) -> None:
    """A mapping that names nothing would silently not map, and one of two for a name only once."""
    for position, specs, whose in zip((0, 1), side.specs, ("baseline", "candidate"), strict=True):
        known = [spec.name for spec in specs]
        for pair in renamed:
            if pair[position] not in known:
                raise SignatureError(
                    f"mapping.{side.name}",
                    f"the {whose} has no {side.one} '{pair[position]}'",
                    f"Correct the name: {nearest(pair[position], known)}.",
                )
        named = [pair[position] for pair in renamed]
        twice = next((name for name in named if named.count(name) > 1), None)
        if twice is not None:
            raise SignatureError(
                f"mapping.{side.name}",
                f"names the {whose}'s '{twice}' twice",
                "Map each name once.",
            )


def _check_narrower(inputs: _Side, mapping: Mapping) -> None:
    known = [spec.name for spec in inputs.specs[0]]
    for name in mapping.narrower:
        if name not in known:
            raise SignatureError(
                "mapping.narrower",
                f"the baseline has no input '{name}'",
                f"Correct the name: {nearest(name, known)}.",
            )


def _paired(
    side: _Side, renamed: dict[str, str]
) -> tuple[Pairs, list[TensorSpec], list[TensorSpec]]:
    """Pairs, and what is left on each side; what the mapping names stands for nothing else."""
    ours, theirs = side.specs
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


def _fits(side: _Side, ours: TensorSpec, theirs: TensorSpec) -> bool:
    """Whether types and declared lengths are the same; a free dimension, or an undeclared rank, fits any."""
    return (
        ours.datatype == theirs.datatype
        and (ours.any_rank or theirs.any_rank or len(ours.shape) == len(theirs.shape))
        and all(a is None or b is None or a == b for a, b in side.lengths(ours, theirs))
    )


def _narrower(inputs: _Side, pairs: Pairs, bridge: Names) -> dict[str, str]:
    """Inputs of which the candidate takes fewer lengths, as they are paired or would be: name → in words."""
    ours, theirs = ({spec.name: spec for spec in specs} for specs in inputs.specs)
    found = {}
    for old, new in (*pairs, *((ours[a], theirs[b]) for a, b in bridge)):
        if _fits(inputs, old, new) and any(
            a is None and b is not None for a, b in inputs.lengths(old, new)
        ):
            found[old.name] = (
                f"input {inputs.shown(0, old)} is {inputs.shown(1, new)} in the candidate, which takes no "
                "other lengths than these"
            )
    return found


def _of_one_rank(inputs: _Side, pairs: Pairs) -> Iterator[str]:
    """Inputs whose axes only the candidate declares, in words."""
    for old, new in pairs:
        if old.any_rank and not new.any_rank:
            yield (
                f"input {inputs.shown(0, old)} is {inputs.shown(1, new)} in the candidate: what has other axes, "
                "which the baseline may take"
            )


def _unlike(side: _Side, ours: TensorSpec, theirs: TensorSpec) -> str:
    return f"{side.one} {side.shown(0, ours)} is {side.shown(1, theirs)} in the candidate"


def _bridge(side: _Side, lost: Iterable[TensorSpec], extra: Sequence[TensorSpec]) -> Names:
    """Renamings that would pair what is lost with what is extra, of fitting type and shape."""
    left = list(extra)
    found = []
    for spec in lost:
        fitting = [other for other in left if _fits(side, spec, other)]
        if fitting:
            best = max(fitting, key=lambda other: _likeness(spec.name, other.name))
            left.remove(best)
            found.append((spec.name, best.name))
    return tuple(found)


def _left_over(
    side: _Side, lost: Iterable[TensorSpec], extra: Iterable[TensorSpec], bridge: Names
) -> list[str]:
    """What no renaming would settle."""
    ours, theirs = {a for a, _ in bridge}, {b for _, b in bridge}
    left = [f"{side.one} {s.name} stays without a partner" for s in lost if s.name not in ours]
    if side.takes:
        left += [f"input {s.name} stays without a value" for s in extra if s.name not in theirs]
    return left


def _likeness(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()


def _remedy(
    table: list[str],
    bridges: dict[str, Names],
    mapping: Mapping,
    refused: tuple[str, ...],
    unbridged: list[str],
) -> str:
    """Both signatures, and what to write where a mapping bridges them.

    Args:
      table: the signatures side by side.
      bridges: renamings that would pair what has no partner.
      mapping: as it is.
      refused: inputs of which the candidate takes fewer lengths, unless the mapping accepts it.
      unbridged: what no mapping settles.
    """
    lines = ["The two signatures:", *table]
    if refused:
        lines.append(
            "Export the candidate with the baseline's free dimensions, so that it takes what clients send."
        )
    named = any(bridges.values())
    if not named and (unbridged or not refused):
        lines.append(
            "Give the candidate the baseline's inputs and outputs, or compare versions that share them."
        )
        return "\n".join(lines)
    if named:
        doubt = "these are the same things under other names" + (
            ", and nobody sends other lengths" if refused else ""
        )
    else:
        doubt = "nobody sends other lengths"
    lines += [f"If {doubt}, add to the policy, or give `compare` as --map FILE:", "mapping:"]
    for side, old in (("inputs", mapping.inputs), ("outputs", mapping.outputs)):
        renamed = (*old, *bridges[side])
        if renamed:
            lines.append(f"  {side}: {{{', '.join(f'{a}: {b}' for a, b in renamed)}}}")
    if refused:
        lines.append(f"  narrower: [{', '.join((*mapping.narrower, *refused))}]")
    if unbridged:
        lines.append(f"# Names are not all: {'; '.join(unbridged)}.")
    return "\n".join(lines)


def _side_by_side(sides: tuple[_Side, _Side], pairs: dict[str, Pairs]) -> list[str]:
    """A line a tensor, beside its partner, or beside one that has none either."""
    rows = [("", "baseline", "candidate")]
    for side in sides:
        ours, theirs = side.specs
        partner = {old.name: new for old, new in pairs[side.name]}
        taken = {new.name for new in partner.values()}
        left = [(spec, partner.get(spec.name)) for spec in ours]
        filled = iter([s for s in theirs if s.name not in taken])
        matched = [(spec, other or next(filled, None)) for spec, other in left]
        rest = [(None, other) for other in filled]
        rows += [
            (
                side.one,
                side.shown(0, spec) if spec else "–",
                side.shown(1, other) if other else "–",
            )
            for spec, other in (*matched, *rest)
        ]
    widths = [max(len(cell) for cell in column) for column in zip_longest(*rows, fillvalue="")]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]

"""What a finished diff says, as values that can be saved."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from harness.core.counted import counted
from harness.core.tensors import Bools


class ParityVerdict(enum.StrEnum):
    """What became of one column."""

    EQUAL = "equal"
    """No row beyond tolerance."""
    DIFFERS = "differs"
    """Counts as a mismatch."""
    EXPECTED = "expected"
    """Differs and was listed under expected_changes: not counted."""
    REFITTED = "refitted"
    """Differs after fitted constants: not counted."""
    SMALL_VALUES = "small_values"
    """Nothing beyond tolerance, but too many values far below it differ by large parts of themselves.
    Never parity."""
    NOT_COMPARED = "not_compared"
    """No rows, or only one side has it. Never parity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestMismatch:
    """Which requests of one batch differ."""

    mismatch: Bools
    """Any counted column beyond tolerance, shape (n,)."""
    compared: Bools
    """Everything that counts was compared, shape (n,); where not, a mismatch is proven all the same
    and its absence is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One differing value."""

    request_id: str
    """The request it belongs to."""
    baseline: float | int | bool | str | None
    """None when the shapes differ or the tensor is wide."""
    candidate: float | int | bool | str | None
    """As `baseline`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorReport:
    """One column of one tensor over the whole stream."""

    name: str
    """As shown: hour, imputed[3], probabilities[late]."""
    kind: str
    """raw (a feature computed from raw fields), fitted, or output."""
    about: str
    """For a column of a fitted matrix: the raw feature it holds, when that is plain; else ""."""
    rows: int
    """Rows compared."""
    requests: int
    """Requests compared."""
    mismatched_requests: int
    """Requests with a row beyond tolerance in this column."""
    one_sided: int
    """Rows that are NaN or infinite on one side only."""
    max_abs: float
    """Largest finite |candidate − baseline|; 1 for unequal words."""
    max_rel: float
    """Largest difference relative to the column's scale."""
    tolerance: float
    """Relative tolerance: max(8 × floor, 1e-6), of what is float16 on both sides max(8 × floor, 1.95e-3),
    of features that are float64 on both sides max(8 × floor, 1e-12); 0 = compared exactly."""
    verdict: ParityVerdict
    """What became of it."""
    relation: str
    """A `RelationKind`; "" when nothing was compared."""
    value: float | None
    """The relation's constant."""
    text: str
    """The relation in words, or why nothing was compared."""
    example: Example | None
    """The first differing value in test order."""
    examples: tuple[str, ...]
    """Ids of the first differing requests of the whole tensor, at most 5."""
    small_rows: int = 0
    """Rows that differ within the tolerance, and by a large part of the value itself; values, where the
    report stands for several columns."""
    columns: int = 1
    """How many columns of a wide tensor it stands for; the counts are those of the worst of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputReport:
    """The outputs of both versions."""

    outputs: tuple[TensorReport, ...]
    """Per output column."""
    requests: int
    """Requests that both versions answered."""
    without_rows: int
    """Of these: with no row, so that nothing was compared."""
    mismatched_requests: int
    """Of these: any counted column beyond tolerance."""
    extra_outputs: tuple[str, ...]
    """Candidate outputs the baseline does not have."""
    not_compared: tuple[str, ...]
    """Outputs that were not compared, each with the reason."""
    one_sided_classes: tuple[str, ...]
    """Classes of ZipMap outputs that only one side names: output[class] (baseline|candidate only)."""
    unproven: tuple[tuple[str, str], ...] = ()
    """(baseline's output, why no row of it was compared), expected changes left out."""
    reshaped: tuple[tuple[str, str], ...] = ()
    """(baseline's output, how its shape or form changed), expected changes left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Follow:
    """A differing feature that another one accounts for."""

    name: str
    """The later feature."""
    root: str
    """The earlier one."""
    proven: bool
    """The same function of the root on both sides; False: it only comes later in the graph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refit:
    """A fitted constant that is another one in the candidate."""

    tensor: str
    """Column that shows it: imputed[3]; for words the feature."""
    feature: str
    """The raw feature that it is about."""
    role: str
    """fill, offset, scale, vocabulary, order of columns, form: which curve of the feature is scaled, or
    values: what no constant explains."""
    baseline: float | str
    """In the feature's own unit; for a vocabulary its size in words; for an order what the columns hold;
    for a form the curve."""
    candidate: float | str
    """As `baseline`."""
    suspicious: str
    """Why it looks like a fault and not like a fit; "" = it does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureReport:
    """The features of both versions."""

    features: tuple[TensorReport, ...]
    """Per column: raw features in the graph's order, then fitted ones."""
    requests: int
    """Requests compared: both versions answered and both were traced."""
    whole_requests: int
    """Of these: every raw feature that counts was compared."""
    mismatched_requests: int
    """Of these: any raw feature, not listed as expected, beyond tolerance."""
    roots: tuple[str, ...]
    """Differing raw features that no earlier one accounts for."""
    follows: tuple[Follow, ...]
    """The other differing ones."""
    not_compared: tuple[str, ...]
    """Declared on one side only, or never traced: a sentence a reason."""
    unknown_expected: tuple[str, ...]
    """Names under expected_changes that no tensor has."""
    partly: tuple[str, ...] = ()
    """Features that some requests lack: a sentence each."""
    uneven: tuple[str, ...] = ()
    """Features whose shape changed within a batch, and kept them from being compared there."""
    unproven: tuple[tuple[str, str], ...] = ()
    """(raw feature of the baseline, why no row of it was compared), expected changes left out: the
    features' parity is not proven, whatever the others say."""
    refits: tuple[Refit, ...] = ()
    """Fitted constants that changed, as far as the values show them."""
    unread: tuple[str, ...] = ()
    """Fitted columns that changed, and whose values show no constant."""
    reshaped: tuple[tuple[str, str], ...] = ()
    """(feature, how its shape changed although its values were compared)."""
    retyped: tuple[tuple[str, str], ...] = ()
    """(feature, which float type became which)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaithfulReport:
    """Whether the replayed baseline answers as production did."""

    compared: int
    """Answered requests whose recorded tensors were compared."""
    mismatched: int
    """Of these: beyond tolerance."""
    baseline_failed: int
    """Requests production answered and the replayed baseline does not."""
    max_rel: float
    """Largest difference relative to the scale."""
    outputs: tuple[TensorReport, ...]
    """Per output column."""
    not_compared: tuple[str, ...]
    """Tensors that only one side has."""
    note: str
    """One sentence for the reader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedReport:
    """Features that production logged, against the baseline's."""

    features: tuple[TensorReport, ...]
    """Per column; `baseline` is what is recomputed, `candidate` what was served."""
    requests: int
    """Requests compared; 0 = none logged features."""
    mismatched_requests: int
    """Of these: any feature beyond tolerance."""
    not_compared: tuple[str, ...]
    """Logged features that the baseline does not show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserverReport:
    """Whether reading the intermediates changes the answers."""

    checked: int
    """Requests traced and answered, both versions together."""
    mismatched: int
    """Of these: traced outputs beyond tolerance from the plain ones."""
    max_rel: float
    """Largest difference relative to the scale."""
    outputs: tuple[TensorReport, ...]
    """Per output column, "name (baseline)" and "name (candidate)"."""
    note: str
    """One sentence for the reader."""


NO_ROWS = "no rows were compared"
"""Why a tensor has no verdict that both versions could have returned."""
_NAMED = 4
"""Tensors spelled out in one sentence."""


def by_random(who: str) -> str:
    """Why a tensor is not compared that a random operator is before.

    Args:
      who: as `Floor.random` has it: `the baseline's RandomNormal → n`.
    """
    return f"random: computed from {who}"


def small_words(small: int, rows: int) -> str:
    """What is said of differences within the tolerance that are large parts of their values.

    Args:
      small: rows with such a value.
      rows: compared.
    """
    return (
        f"small values are not comparable: {small:,} of {counted(rows, 'row')} differ by more than 0.1 % "
        "of the value, within a tolerance that the column's large values set"
    )


def lent_words(lent: int, rows: int) -> str:
    """As `small_words`, where a column's own tolerance covers less than the one that it is lent.

    Args:
      lent: rows with such a value.
      rows: compared.
    """
    return (
        f"small differences are not comparable: {lent:,} of {counted(rows, 'row')} differ by more than rounding "
        "of the column's own values, within a tolerance that the other columns' larger values set"
    )


def within_words(values: int) -> str:
    """What is said of so many values that a column's tolerance covers, although they moved by a large part."""
    return (
        f"{counted(values, 'value')} within the tolerance differ by more than 0.1 % of themselves"
    )


def units_words(absolute: float) -> str:
    """What is said of values so large that the tolerance covers whole units of them."""
    return f"values moved by up to {absolute:,.7g}, within the tolerance"


def sentences_about_small(reports: Sequence[TensorReport]) -> tuple[str, ...]:
    """Columns whose small values are not comparable, each with the count."""
    return tuple(f"{r.name}: {r.text}" for r in reports if r.verdict is ParityVerdict.SMALL_VALUES)


def sentences_about_uncompared(
    reports: Sequence[TensorReport], *, kind: bool = True
) -> tuple[str, ...]:
    """Tensors that were not compared, together by kind and reason, so that many read as one line.

    Args:
      reports: of any tensors; those that were compared are left out.
      kind: say first whether they are features or fitted tensors.
    """
    reasons: dict[tuple[str, str], list[str]] = {}
    for r in reports:
        if r.verdict is ParityVerdict.NOT_COMPARED:
            what = "fitted tensor" if r.kind == "fitted" else "feature"
            reasons.setdefault((what, r.text), []).append(r.name)
    return tuple(
        f"{what}{'s' if len(names) > 1 else ''} {named_together(names)}: {why}"
        if kind
        else f"{named_together(names)}: {why}"
        for (what, why), names in reasons.items()
    )


def named_together(names: Sequence[str]) -> str:
    """The first names and how many more there are, for a sentence."""
    shown = ", ".join(names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown


def not_compared(name: str, kind: str, why: str) -> TensorReport:
    """The report of a tensor that was not compared."""
    return TensorReport(
        name=name,
        kind=kind,
        about="",
        rows=0,
        requests=0,
        mismatched_requests=0,
        one_sided=0,
        max_abs=0.0,
        max_rel=0.0,
        tolerance=0.0,
        verdict=ParityVerdict.NOT_COMPARED,
        relation="",
        value=None,
        text=why,
        example=None,
        examples=(),
    )

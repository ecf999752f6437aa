"""Findings about fitted constants: told in one line where a retrain explains them, one by one where it does not."""

from __future__ import annotations

from harness.core.counted import counted
from harness.core.findings import Finding, Severity
from harness.diff.pairs import RelationKind
from harness.diff.refit_doubts import UNTOLD, is_no_fit
from harness.diff.refits import VALUES
from harness.diff.reports import FeatureReport, ParityVerdict, Refit, TensorReport
from harness.diff.sentences import REMEDIES, sentence, tensor_of

FEW = 4
"""Tensors named as the place of one finding."""


_SHOWN = 3
"""Columns spelled out in one finding."""


_REFIT_REMEDY = (
    "A retrain fits these anew, and its loss judges them; of the same model, refactored or exported anew, they "
    "are equal."
)


_DOUBTED_REMEDY = "Correct what is named before this first: these columns may only follow from it."
_ROUNDED = 1e-3
"""Part of a constant that float16 and bfloat16 leave uncertain, in the feature's own unit."""


def zero_filled(reports: list[TensorReport]) -> list[Finding]:
    """One finding a tensor, the column with the most requests first."""
    found = []
    for tensor in dict.fromkeys(tensor_of(r) for r in reports):
        columns = [r for r in reports if tensor_of(r) == tensor]
        columns.sort(key=lambda r: -r.mismatched_requests)
        parts = [sentence(r, named=not r.about) for r in columns[:_SHOWN]]
        if len(columns) > _SHOWN:
            left = sum(r.columns for r in columns[_SHOWN:])
            parts.append(f"and {counted(left, 'more column')}")
        found.append(
            Finding(
                kind="filled_with_zero",
                severity=Severity.WARNING,
                where=", ".join(r.about or r.name for r in columns),
                what=f"{tensor}: {'; '.join(parts)}",
                remedy=REMEDIES[RelationKind.FILLED_WITH_ZERO],
                relation=RelationKind.FILLED_WITH_ZERO.value,
                value=0.0,
                requests=columns[0].examples,
            )
        )
    return found


def is_zero_fill(report: TensorReport) -> bool:
    """Fitted tensors only: a raw feature filled with zero is already a changed feature."""
    return (
        report.verdict is ParityVerdict.REFITTED
        and report.relation == RelationKind.FILLED_WITH_ZERO
    )


def is_less_precise(report: TensorReport) -> bool:
    """Fitted tensors only, as for zeros: a retrain refits constants, and rounds nothing."""
    return report.verdict is ParityVerdict.REFITTED and report.relation == RelationKind.PRECISION


def less_precise(reports: list[TensorReport]) -> list[Finding]:
    """One finding for all: a smaller number type changes columns of many tensors."""
    if not reports:
        return []
    parts = []
    for text in dict.fromkeys(r.text for r in reports):
        names = [r.about or r.name for r in reports if r.text == text]
        more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
        columns = counted(sum(r.columns for r in reports if r.text == text), "column")
        parts.append(f"{text}, in {columns} ({', '.join(names[:FEW])}{more})")
    where = ", ".join(dict.fromkeys(map(tensor_of, reports)))
    return [
        Finding(
            kind="lower_precision",
            severity=Severity.WARNING,
            where=where,
            what=f"{where}: {'; '.join(parts)}",
            remedy=REMEDIES[RelationKind.PRECISION],
            relation=RelationKind.PRECISION.value,
            requests=reports[0].examples,
        )
    ]


def _rounded(refit: Refit) -> bool:
    """A constant that a smaller number type explains."""
    before, after = refit.baseline, refit.candidate
    if isinstance(before, str) or isinstance(after, str):
        return False
    return abs(after - before) <= _ROUNDED * abs(before)


def refitted(report: FeatureReport, *, doubted: bool) -> list[Finding]:
    """One line for all fitted constants: every retrain changes them.

    Args:
      report: the finished feature diff.
      doubted: something was found already that no retrain explains.
    """
    rounded = any(is_less_precise(r) for r in report.features)
    doubts = {name for refit in report.refits if refit.suspicious for name in _columns(refit)}
    changed = [
        r
        for r in report.features
        if r.verdict is ParityVerdict.REFITTED
        and not (is_zero_fill(r) or is_less_precise(r) or is_no_fit(r) or r.name in doubts)
    ]
    constants = [r for r in report.refits if not r.suspicious and not (rounded and _rounded(r))]
    if not changed and not constants:
        return []
    names = list(dict.fromkeys([*map(tensor_of, changed), *(r.tensor for r in constants)]))
    names = list(dict.fromkeys(name.split("[")[0] for name in names))
    some = f"{', '.join(names[:5])}{' …' if len(names) > 5 else ''}"  # noqa: PLR2004 - names shown
    parts = []
    if changed:
        parts.append(
            f"{counted(sum(r.columns for r in changed), 'column')} of {some} changed"
            + (
                " after that, too"
                if rounded and not constants
                else " with fitted constants (imputation, scaling)"
            )
        )
    if constants:
        listed = ", ".join(
            f"{r.feature} {r.role} {_constant(r.baseline)} → {_constant(r.candidate)}"
            for r in constants[:_SHOWN]
        )
        more = len(constants) - _SHOWN
        parts.append(
            f"refitted: {counted(len(constants), 'constant')} ({listed}{f' and {more} more' if more > 0 else ''})"
        )
    parts += _untold(report, changed, doubts)
    return [
        Finding(
            kind="refitted",
            severity=Severity.INFO,
            where=some,
            what="; ".join(parts),
            remedy=_DOUBTED_REMEDY if doubted else _REFIT_REMEDY,
        )
    ]


def _untold(report: FeatureReport, changed: list[TensorReport], doubts: set[str]) -> list[str]:
    """One sentence about columns whose values prove nothing, neither a fault nor a fit."""
    told = doubts | {r.name for r in report.features if is_less_precise(r) or is_zero_fill(r)}
    told |= {r.name for r in report.features if is_no_fit(r)}
    unread = [name for name in report.unread if name not in told]
    lines = [r.name for r in changed if r.text.endswith(UNTOLD) and r.name not in unread]
    reasons = [(unread, "no constant can be read off the values"), (lines, UNTOLD)]
    names = [*unread, *lines]
    if not names:
        return []
    why = ", or ".join(reason for columns, reason in reasons if columns)
    columns = counted(len(names), "column")
    return [f"a fault in {columns} ({_named(names)}) cannot be told from a refit: {why}"]


def suspicious(report: FeatureReport) -> list[Finding]:
    """What looks forgotten or distorted; zeros have a finding of their own where a column shows them."""
    zeros = [r for r in report.features if is_zero_fill(r)]
    told = {name for r in zeros for name in (r.name, r.about)}
    told |= {tensor_of(r) for r in zeros if r.columns > 1}
    # Of the same constants, what became of the values has its name from the baseline's.
    named = {r.name for r in report.features if is_no_fit(r) or is_less_precise(r)}
    rounded = [r.text for r in report.features if is_less_precise(r)]
    groups: dict[tuple[str, str, str], list[Refit]] = {}
    for refit in report.refits:
        if refit.role == VALUES and (
            refit.tensor in named or any(str(refit.candidate) in text for text in rounded)
        ):
            continue
        if refit.suspicious and not _told(refit, told):
            place = refit.tensor.split("[")[0], refit.role, refit.suspicious.partition(",")[0]
            groups.setdefault(place, []).append(refit)
    columns: dict[tuple[str, str], list[TensorReport]] = {}
    constants = {name for refits in groups.values() for r in refits for name in _columns(r)}
    for r in report.features:
        if is_no_fit(r) and r.name not in constants:
            columns.setdefault((tensor_of(r), r.text), []).append(r)
    return [
        *(_doubted(_named([r.feature for r in g]), _refit_words(g)) for g in groups.values()),
        *(
            _doubted(_named([r.about or r.name for r in g]), _column_words(g))
            for g in columns.values()
        ),
    ]


def _told(refit: Refit, told: set[str]) -> bool:
    """Whether a column's zeros, or its whole tensor's, have a finding that says this."""
    if refit.feature in told:
        return True
    return refit.role == "fill" and not told.isdisjoint((refit.tensor, refit.tensor.split("[")[0]))


def _columns(refit: Refit) -> list[str]:
    """The columns that show a constant."""
    return refit.tensor.split(", ")


def _doubted(where: str, what: str) -> Finding:
    return Finding(
        kind="suspicious_refit",
        severity=Severity.WARNING,
        where=where,
        what=what,
        remedy="Check that the preprocessing was fitted with the model and shipped with it.",
    )


def _named(names: list[str]) -> str:
    return ", ".join(names[:FEW]) + (f" and {len(names) - FEW} more" if len(names) > FEW else "")


def _refit_words(refits: list[Refit]) -> str:
    """One constant in full, and how many are like it."""
    first = refits[0]
    text = (
        f"{first.feature} {first.role} {_constant(first.baseline)} → {_constant(first.candidate)} "
        f"in {_named(_columns(first))}: {first.suspicious}"
    )
    return text if len(refits) == 1 else f"{text}; so are {counted(len(refits) - 1, 'more column')}"


def _column_words(reports: list[TensorReport]) -> str:
    """What no fit explains, and the columns that it is in."""
    columns = sum(r.columns for r in reports)
    return f"{_named([r.name for r in reports])}: {reports[0].text}, in {counted(columns, 'column')}; no fit explains it"


def _constant(value: float | str) -> str:
    """A fitted constant as text."""
    return value if isinstance(value, str) else f"{value:.5g}"

"""Reports → findings: where, how much, in which way, and what to do."""

from __future__ import annotations

from harness.core.counted import counted
from harness.core.findings import Finding, Severity
from harness.diff.floor import Floor
from harness.diff.pairs import RelationKind
from harness.diff.reports import (
    NO_ROWS,
    FaithfulReport,
    FeatureReport,
    ObserverReport,
    OutputReport,
    ParityVerdict,
    Refit,
    TensorReport,
    sentences_about_uncompared,
)

_REMEDIES: dict[str, str] = {
    RelationKind.SCALED: "Compare the units both versions use for this feature, and convert once.",
    RelationKind.AFFINE: "Compare the units both versions use for this feature, and convert once.",
    RelationKind.SHIFTED: "Look for a changed offset: time zone, epoch, index base.",
    RelationKind.CYCLIC_SHIFT: "Look for a changed time zone or first day: compute from local time on both sides.",
    RelationKind.PERMUTED: "Ship the baseline's vocabulary with the candidate instead of building a new one.",
    RelationKind.FILLED_WITH_ZERO: "Fill missing values as in training; a zero here is a value the model was never taught to read as missing.",
    RelationKind.FILLED_WITH_CONSTANT: "Check which constant stands for a missing value on both sides.",
    RelationKind.MISSING: "Find out why the candidate has no value: renamed field, failed join, wrong type.",
    RelationKind.SIGN: "Look for a reversed difference or a lost sign.",
    RelationKind.CLIPPED: "Look for a bound or a smaller number type in the candidate's preprocessing.",
    RelationKind.PRECISION: "Look for a cast to a smaller number type or an early rounding.",
    RelationKind.STALE: "Look for a cache or a join that reads the previous value.",
    RelationKind.OTHER_COLUMN: "Look for swapped columns or a wrong name in the candidate's preprocessing.",
}
_FEW = 4
"""Tensors named as the place of one finding."""
_SHOWN = 3
"""Columns spelled out in one finding."""
_UNPROVEN_REMEDY = (
    "Declare the feature in the candidate's metadata (harness.features) under the name of a tensor that its "
    "graph computes, map that name under mapping.tensors, or list the feature under expected_changes."
)
_LOST_REMEDY = "Declare the same features in both versions' metadata, or map their names."
_RESHAPED_REMEDY = (
    "Clients read the shape: give the candidate the baseline's, or, when they are ready for it, list the "
    "output under expected_changes of a guardrail about outputs."
)
_SMALL_REMEDY = (
    "Look at the requests with the smallest answers: rounding changes few of them by so much. What is meant "
    "to change belongs under expected_changes; a score in its logarithm is compared at every size."
)
_REFIT_REMEDY = "Expected after a retrain, and judged by its effect on the loss; of the same model these are equal."
_DOUBTED_REMEDY = "Correct what is named before this first: these columns may only follow from it."
_ROUNDED = 1e-3
"""Part of a constant that float16 and bfloat16 leave uncertain, in the feature's own unit."""
_OTHER_REMEDY = "Compare how both versions compute it, starting from the example request."


def findings_from_features(report: FeatureReport, margin: float | None) -> list[Finding]:
    """Feature differences, causes first.

    Args:
      report: the finished feature diff.
      margin: largest tolerated share of mismatching requests; None = features do not gate.
    """
    order = {name: i for i, name in enumerate((*report.roots, *(f.name for f in report.follows)))}
    # One that merely may follow is a change of its own until somebody has looked.
    followers = {f.name for f in report.follows if f.proven}
    raw = [r for r in report.features if r.verdict is ParityVerdict.DIFFERS]
    raw.sort(key=lambda r: order.get(_tensor(r), len(order)))
    found = [_changed(r, margin, follows=_tensor(r) in followers) for r in raw]
    found += _zero_filled([r for r in report.features if _is_zero_fill(r)])
    found += _less_precise([r for r in report.features if _is_less_precise(r)])
    found += _suspicious(report)
    found += _refitted(report, doubted=bool(found))
    found += [_reshaped(name, how) for name, how in report.reshaped]
    found += [_expected(r) for r in report.features if r.verdict is ParityVerdict.EXPECTED]
    found += [
        Finding(
            kind="expected_change_unknown",
            severity=Severity.WARNING,
            where=name,
            what=f"'{name}' is listed under expected_changes, and no compared feature has that name",
            remedy="Correct the name or take it out of the policy.",
        )
        for name in report.unknown_expected
    ]
    return found + _small(report.features) + _uncompared(report)


def findings_from_outputs(report: OutputReport, margin: float | None) -> list[Finding]:
    """Output differences.

    Args:
      report: the finished output diff.
      margin: largest tolerated share of mismatching requests; None = outputs do not gate, as for
        a retrained model, whose outputs are meant to move.
    """
    found = [
        Finding(
            kind="class_on_one_side",
            severity=Severity.INFO if margin is None else Severity.HARM,
            where=name,
            what=f"{name}: this class is named by one version only",
            remedy="Train both versions on the same classes, or map them.",
        )
        for name in report.one_sided_classes
    ]
    reshaped = {name for name, _ in report.reshaped}
    for output in report.outputs:
        if output.verdict is ParityVerdict.EXPECTED:
            found.append(_expected(output))
        elif output.verdict is ParityVerdict.DIFFERS:
            found.append(
                Finding(
                    kind="output_changed",
                    severity=_severity(
                        output,
                        margin,
                        quiet=Severity.WARNING if _tensor(output) in reshaped else Severity.INFO,
                    ),
                    where=output.name,
                    what=sentence(output),
                    remedy=_RESHAPED_REMEDY if _tensor(output) in reshaped else remedy_for(output),
                    relation=output.relation,
                    value=output.value,
                    requests=output.examples,
                )
            )
    return found + _small(report.outputs)


def _small(reports: tuple[TensorReport, ...]) -> list[Finding]:
    """Columns that no tolerance proves equal: their small values moved, and the large ones set it."""
    return [
        Finding(
            kind="small_values",
            severity=Severity.WARNING,
            where=report.name,
            what=f"{report.name}: {report.text}",
            remedy=_SMALL_REMEDY,
        )
        for report in reports
        if report.verdict is ParityVerdict.SMALL_VALUES
    ]


def findings_from_faithful(report: FaithfulReport) -> list[Finding]:
    """Whether the replay is production at all."""
    if report.mismatched == 0 and report.baseline_failed == 0 and report.compared:
        return []
    unknown = report.compared == 0 and report.baseline_failed == 0
    return [
        Finding(
            kind="replay_not_checked" if unknown else "unfaithful_replay",
            severity=Severity.WARNING,
            where="baseline",
            what=report.note,
            remedy=(
                "Record responses together with requests."
                if unknown
                else "Check that the baseline is the version that answered this traffic and that "
                "nothing before the model changed the request; until then read every difference with care."
            ),
            requests=tuple(i for r in report.outputs for i in r.examples)[:5],
        )
    ]


def findings_from_floor(floor: Floor) -> list[Finding]:
    """Columns in which the baseline differs from itself."""
    return [
        Finding(
            kind="nondeterministic",
            severity=Severity.WARNING,
            where=column.name,
            what=(
                f"{column.name}: the baseline differs from itself by up to {column.largest:.4g} "
                f"(unequal in {_percent(column.mismatch_share)} of {counted(column.rows, 'row')})"
            ),
            remedy="Fix the seed or take random operators out; until then only larger differences show.",
        )
        for column in floor.noisy()
    ]


def findings_from_observer(report: ObserverReport) -> list[Finding]:
    """Whether reading the intermediates changed the answers."""
    if report.mismatched == 0:
        return []
    return [
        Finding(
            kind="observer_effect",
            severity=Severity.WARNING,
            where="trace",
            what=report.note,
            remedy="Compare the versions with graph optimisation off to see whether the difference stays.",
            requests=tuple(i for r in report.outputs for i in r.examples)[:5],
        )
    ]


def _changed(report: TensorReport, margin: float | None, *, follows: bool) -> Finding:
    return Finding(
        kind="feature_follows" if follows else "feature_changed",
        severity=_severity(report, margin, quiet=Severity.WARNING),
        where=report.name,
        what=sentence(report),
        remedy=("Correct the feature it follows from first." if follows else remedy_for(report)),
        relation=report.relation,
        value=report.value,
        requests=report.examples,
    )


def _zero_filled(reports: list[TensorReport]) -> list[Finding]:
    """One finding a tensor, the column with the most requests first."""
    found = []
    for tensor in dict.fromkeys(_tensor(r) for r in reports):
        columns = [r for r in reports if _tensor(r) == tensor]
        columns.sort(key=lambda r: -r.mismatched_requests)
        parts = [sentence(r, named=not r.about) for r in columns[:_SHOWN]]
        if len(columns) > _SHOWN:
            parts.append(f"and {counted(len(columns) - _SHOWN, 'more column')}")
        found.append(
            Finding(
                kind="filled_with_zero",
                severity=Severity.WARNING,
                where=", ".join(r.about or r.name for r in columns),
                what=f"{tensor}: {'; '.join(parts)}",
                remedy=_REMEDIES[RelationKind.FILLED_WITH_ZERO],
                relation=RelationKind.FILLED_WITH_ZERO.value,
                value=0.0,
                requests=columns[0].examples,
            )
        )
    return found


def _is_zero_fill(report: TensorReport) -> bool:
    """Fitted tensors only: a raw feature filled with zero is already a changed feature."""
    return (
        report.verdict is ParityVerdict.REFITTED
        and report.relation == RelationKind.FILLED_WITH_ZERO
    )


def _is_less_precise(report: TensorReport) -> bool:
    """Fitted tensors only, as for zeros: a retrain refits constants, and rounds nothing."""
    return report.verdict is ParityVerdict.REFITTED and report.relation == RelationKind.PRECISION


def _less_precise(reports: list[TensorReport]) -> list[Finding]:
    """One finding for all: a smaller number type changes columns of many tensors."""
    if not reports:
        return []
    parts = []
    for text in dict.fromkeys(r.text for r in reports):
        names = [r.about or r.name for r in reports if r.text == text]
        more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
        columns = counted(len(names), "column")
        parts.append(f"{text}, in {columns} ({', '.join(names[:_FEW])}{more})")
    where = ", ".join(dict.fromkeys(map(_tensor, reports)))
    return [
        Finding(
            kind="lower_precision",
            severity=Severity.WARNING,
            where=where,
            what=f"{where}: {'; '.join(parts)}",
            remedy=_REMEDIES[RelationKind.PRECISION],
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


def _refitted(report: FeatureReport, *, doubted: bool) -> list[Finding]:
    """One line for all fitted constants: every retrain changes them.

    Args:
      report: the finished feature diff.
      doubted: something was found already that no retrain explains.
    """
    rounded = any(_is_less_precise(r) for r in report.features)
    changed = [
        r
        for r in report.features
        if r.verdict is ParityVerdict.REFITTED and not (_is_zero_fill(r) or _is_less_precise(r))
    ]
    constants = [r for r in report.refits if not r.suspicious and not (rounded and _rounded(r))]
    if not changed and not constants:
        return []
    names = list(dict.fromkeys([*map(_tensor, changed), *(r.tensor for r in constants)]))
    names = list(dict.fromkeys(name.split("[")[0] for name in names))
    some = f"{', '.join(names[:5])}{' …' if len(names) > 5 else ''}"  # noqa: PLR2004 - names shown
    parts = []
    if changed:
        parts.append(
            f"{counted(len(changed), 'column')} of {some} changed"
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
    return [
        Finding(
            kind="refitted",
            severity=Severity.INFO,
            where=some,
            what="; ".join(parts),
            remedy=_DOUBTED_REMEDY if doubted else _REFIT_REMEDY,
        )
    ]


def _reshaped(name: str, how: str) -> Finding:
    return Finding(
        kind="feature_reshaped",
        severity=Severity.WARNING,
        where=name,
        what=f"{name}: {how}; its values were compared as one column",
        remedy="Inside a model this changes nothing unless what reads the feature minds its shape.",
    )


def _suspicious(report: FeatureReport) -> list[Finding]:
    """Constants that look forgotten; zeros have a finding of their own where a column shows them."""
    told = {name for r in report.features if _is_zero_fill(r) for name in (r.name, r.about)}
    return [
        Finding(
            kind="suspicious_refit",
            severity=Severity.WARNING,
            where=refit.feature,
            what=f"{refit.feature} {refit.role} {_constant(refit.baseline)} → "
            f"{_constant(refit.candidate)} in {refit.tensor}: {refit.suspicious}",
            remedy="Check that the preprocessing was fitted with the model and shipped with it.",
        )
        for refit in report.refits
        if refit.suspicious and refit.feature not in told
    ]


def _constant(value: float | str) -> str:
    """A fitted constant as text."""
    return value if isinstance(value, str) else f"{value:.5g}"


def _expected(report: TensorReport) -> Finding:
    return Finding(
        kind="expected_change",
        severity=Severity.INFO,
        where=report.name,
        what=f"{sentence(report)}; listed under expected_changes",
        remedy="Check that it changed in the way that was meant.",
        relation=report.relation,
        value=report.value,
        requests=report.examples,
    )


def _uncompared(report: FeatureReport) -> list[Finding]:
    """Apart by what follows: unproven parity, then what only the candidate has or nobody counts."""
    if not report.features:
        return [
            Finding(
                kind="features_not_compared",
                severity=Severity.WARNING,
                where="features",
                what="neither version declares features: nothing upstream of the outputs was compared",
                remedy="Declare the same features in both versions' metadata.",
            )
        ]
    lost = [r for r in report.features if r.verdict is ParityVerdict.NOT_COMPARED]
    unproven = {name for name, _ in report.unproven}
    empty = [r for r in lost if r.text == NO_ROWS]
    lost = [r for r in lost if r.text != NO_ROWS]
    raw = [r for r in lost if r.name not in unproven and r.kind == "raw"]
    fitted = [r for r in lost if r.kind == "fitted"]
    parts = (
        ([r for r in lost if r.name in unproven], Severity.WARNING, _UNPROVEN_REMEDY),
        (raw, Severity.WARNING, _LOST_REMEDY),
        (fitted, Severity.INFO, _LOST_REMEDY),
        (empty, Severity.WARNING, "Give requests with rows that both versions answer."),
    )
    return [
        Finding(
            kind="features_not_compared",
            severity=severity,
            where=", ".join(names) if len(names) <= _FEW else "features",
            what="; ".join(sentences_about_uncompared(reports, kind=False)),
            remedy=remedy,
        )
        for reports, severity, remedy in parts
        if (names := [r.name for r in reports])
    ]


def _severity(report: TensorReport, margin: float | None, *, quiet: Severity) -> Severity:
    if margin is None:
        return quiet
    beyond = report.mismatched_requests > margin * report.requests
    return Severity.HARM if beyond else Severity.WARNING


def remedy_for(report: TensorReport) -> str:
    """What to do about a tensor that differs in this way."""
    return _REMEDIES.get(report.relation, _OTHER_REMEDY)


def sentence(report: TensorReport, *, named: bool = True) -> str:
    """Which tensor, in which way, in how many requests."""
    share = _percent(report.mismatched_requests / max(report.requests, 1))
    name = f"{report.name}: " if named else ""
    return f"{name}{report.text}, in {share} of {counted(report.requests)}"


def _percent(share: float) -> str:
    """100 % and 0 % only when exact."""
    if share in (0.0, 1.0):
        return f"{share:.0%}".replace("%", " %")
    for digits in (0, 1, 2, 3):
        text = f"{100 * share:.{digits}f}"
        if 0.0 < float(text) < 100.0:  # noqa: PLR2004 - per cent
            return f"{text} %"
    return "nearly 100 %" if share > 0.5 else "under 0.001 %"  # noqa: PLR2004 - the nearer end


def _tensor(report: TensorReport) -> str:
    return report.name.split("[")[0]

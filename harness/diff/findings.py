"""Reports → findings: where, how much, in which way, and what to do."""

from __future__ import annotations

from harness.core.counted import counted
from harness.core.findings import Finding, Severity
from harness.diff import remedies
from harness.diff.absences import UNTRACED
from harness.diff.features import ONLY_BASELINE
from harness.diff.floor import ROUNDED, SWALLOWED, Floor
from harness.diff.refit_findings import (
    FEW,
    is_less_precise,
    is_zero_fill,
    less_precise,
    refitted,
    suspicious,
    zero_filled,
)
from harness.diff.remedies import Asker
from harness.diff.reports import (
    NO_ROWS,
    FaithfulReport,
    FeatureReport,
    ObserverReport,
    OutputReport,
    ParityVerdict,
    TensorReport,
    sentences_about_uncompared,
)
from harness.diff.sentences import percent, remedy_for, sentence, tensor_of

_UNITS_REMEDY = (
    "Where one of these is an identifier, let both versions hand it on as it came, or keep it as int64 or text: "
    "then it is compared exactly."
)
_UNIT = 1.0


def findings_from_features(
    report: FeatureReport, margin: float | None, asker: Asker = Asker.GATE
) -> list[Finding]:
    """Feature differences, causes first.

    Args:
      report: the finished feature diff.
      margin: largest tolerated share of mismatching requests; None = features do not gate.
      asker: who compares, as remedies name what it can be told.
    """
    order = {name: i for i, name in enumerate((*report.roots, *(f.name for f in report.follows)))}
    # One that merely may follow is a change of its own until somebody has looked.
    followers = {f.name for f in report.follows if f.proven}
    raw = [r for r in report.features if r.verdict is ParityVerdict.DIFFERS]
    raw.sort(key=lambda r: order.get(tensor_of(r), len(order)))
    found = [_changed(r, margin, asker, follows=tensor_of(r) in followers) for r in raw]
    found += zero_filled([r for r in report.features if is_zero_fill(r)])
    found += less_precise([r for r in report.features if is_less_precise(r)])
    found += suspicious(report)
    found += refitted(report, doubted=bool(found))
    found += [_reshaped(name, how) for name, how in report.reshaped]
    found += _retyped(report)
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
    small = _small(report.features, asker)
    return [*found, *_units(report.features), *small, *_uncompared(report, asker)]


def findings_from_outputs(
    report: OutputReport, margin: float | None, asker: Asker = Asker.GATE
) -> list[Finding]:
    """Output differences.

    Args:
      report: the finished output diff.
      margin: largest tolerated share of mismatching requests; None = outputs do not gate, as for
        a retrained model, whose outputs are meant to move.
      asker: as for features.
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
                        quiet=Severity.WARNING if tensor_of(output) in reshaped else Severity.INFO,
                    ),
                    where=output.name,
                    what=sentence(output),
                    remedy=remedies.reshaped(asker)
                    if tensor_of(output) in reshaped
                    else remedy_for(output, asker),
                    relation=output.relation,
                    value=output.value,
                    requests=output.examples,
                )
            )
    return [*found, *_units(report.outputs), *_small(report.outputs, asker)]


def _small(reports: tuple[TensorReport, ...], asker: Asker) -> list[Finding]:
    """Columns that no tolerance proves equal: their small values moved, and the large ones set it."""
    return [
        Finding(
            kind="small_values",
            severity=Severity.WARNING,
            where=report.name,
            what=f"{report.name}: {report.text}",
            remedy=remedies.small(asker),
        )
        for report in reports
        if report.verdict is ParityVerdict.SMALL_VALUES
    ]


def _units(reports: tuple[TensorReport, ...]) -> list[Finding]:
    """One line about all numbers so large that whole units of them are within the tolerance, where they moved."""
    moved = [r for r in reports if r.verdict is ParityVerdict.EQUAL and r.max_abs >= _UNIT]
    if not moved:
        return []
    moved.sort(key=lambda r: -r.max_abs)
    where = _listed([r.name for r in moved])
    return [
        Finding(
            kind="whole_units",
            severity=Severity.INFO,
            where=where,
            what=(
                f"{where}: values moved by up to {moved[0].max_abs:,.7g} within the tolerance; nothing shows that "
                "rounding did not do it, so that other whole numbers so near are not told apart"
            ),
            remedy=_UNITS_REMEDY,
        )
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
    """Columns in which the baseline differs from itself, and what the order of its sums moves."""
    return [
        Finding(
            kind="nondeterministic",
            severity=Severity.WARNING,
            where=column.name,
            what=(
                f"{column.name}: the baseline differs from itself by up to {column.largest:.4g} "
                f"(unequal in {percent(column.mismatch_share)} of {counted(column.rows, 'row')})"
            ),
            remedy="Fix the seed or take random operators out; until then only larger differences show.",
        )
        for column in floor.noisy()
    ] + _other_orders(floor)


def _other_orders(floor: Floor) -> list[Finding]:
    """What the order of sums moves, where the candidate holds the same numbers in another arrangement."""
    orders = floor.orders
    if orders is None:
        return []
    columns = sorted((*floor.outputs, *floor.features), key=lambda c: -c.ordered)
    moved = [c for c in columns if c.ordered]
    if orders.problem:
        said = (
            f"how far the order of sums moves its answers was not measured ({orders.problem}), so that it "
            "is held to the usual tolerance"
        )
    elif moved:
        more = f", {len(moved) - 1:,} more by less" if len(moved) > 1 else ""
        allowed = (
            "the graphs are shown to compute the same but for that order, so that up to eight times as much is taken "
            f"for rounding, {percent(SWALLOWED)} of the scale at most"
            if orders.proven
            else f"up to eight times as much is taken for rounding, of columns where that is at most {ROUNDED:g} of "
            "the scale, and nothing is excused in others: nothing shows there that no weights changed places"
        )
        said = (
            f"sums in {orders.count} other orders move the baseline's own {moved[0].name} by up to "
            f"{moved[0].ordered:.2g} of its scale{more} (measured on {counted(orders.requests, 'request')}); "
            f"{allowed}"
        )
    else:
        # They move nothing of what was compared but what jumps: nothing is excused, nothing is to be told.
        return []
    return [
        Finding(
            kind="other_order",
            severity=Severity.WARNING if orders.problem else Severity.INFO,
            where="floor",
            what=f"{_ARRANGED if orders.proven else _HELD}: {said}",
            remedy=_UNMEASURED if orders.problem else _MEASURED,
        )
    ]


_ARRANGED = "the candidate holds the baseline's numbers in another arrangement"
_HELD = "the candidate holds the baseline's numbers in a graph that is not the baseline's"
_MEASURED = "No fault by itself: whatever differs by more than this is told by its own name."
_UNMEASURED = "Look at small differences that are told with this in mind: they may be the order of sums, which nothing shows."


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


def _changed(report: TensorReport, margin: float | None, asker: Asker, *, follows: bool) -> Finding:
    return Finding(
        kind="feature_follows" if follows else "feature_changed",
        severity=_severity(report, margin, quiet=Severity.WARNING),
        where=report.name,
        what=sentence(report),
        remedy=(
            "Correct the feature it follows from first." if follows else remedy_for(report, asker)
        ),
        relation=report.relation,
        value=report.value,
        requests=report.examples,
    )


def _reshaped(name: str, how: str) -> Finding:
    return Finding(
        kind="feature_reshaped",
        severity=Severity.WARNING,
        where=name,
        what=f"{name}: {how}; its values were compared as one column",
        remedy="Inside a model this changes nothing unless what reads the feature minds its shape.",
    )


def _retyped(report: FeatureReport) -> list[Finding]:
    """One line a change of type, about those that are equal all the same."""
    equal = {tensor_of(r) for r in report.features if r.verdict is ParityVerdict.EQUAL}
    equal -= {tensor_of(r) for r in report.features if r.verdict is not ParityVerdict.EQUAL}
    kinds: dict[str, list[str]] = {}
    for name, how in report.retyped:
        if name in equal:
            kinds.setdefault(how, []).append(name)
    return [
        Finding(
            kind="feature_retyped",
            severity=Severity.INFO,
            where=_listed(names),
            what=f"{_listed(names)}: {how}; compared with float32's tolerance",
            remedy="Inside a model fewer digits of a feature change little; identifiers lose theirs.",
        )
        for how, names in kinds.items()
    ]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:FEW]) + (f" and {len(names) - FEW} more" if len(names) > FEW else "")


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


def _uncompared(report: FeatureReport, asker: Asker) -> list[Finding]:
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
    declared = [r for r in lost if r.name in unproven]
    untraced = [r for r in declared if r.text in UNTRACED]
    undeclared = [r for r in declared if r.text == ONLY_BASELINE]
    random = [r for r in declared if r.text not in UNTRACED and r.text != ONLY_BASELINE]
    parts = (
        (undeclared, Severity.WARNING, remedies.undeclared([r.name for r in undeclared], asker)),
        (random, Severity.WARNING, remedies.by_chance(asker)),
        (untraced, Severity.WARNING, remedies.untraced(asker)),
        (raw, Severity.WARNING, remedies.one_sided(asker)),
        (fitted, Severity.INFO, remedies.one_sided(asker)),
        (empty, Severity.WARNING, "Give requests with rows that both versions answer."),
    )
    return [
        Finding(
            kind="features_not_compared",
            severity=severity,
            where=", ".join(names) if len(names) <= FEW else "features",
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

"""One tensor's difference in words: in which way, in how many requests, and what to do about it."""

from __future__ import annotations

from harness.core.counted import counted
from harness.diff.pairs import RelationKind
from harness.diff.remedies import Asker, rounding
from harness.diff.reports import TensorReport

REMEDIES: dict[str, str] = {
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
    RelationKind.OTHER_COLUMN: "Look for swapped columns or a wrong name in the candidate.",
}
_OTHER_REMEDY = "Compare how both versions compute it, starting from the example request."


def remedy_for(report: TensorReport, asker: Asker) -> str:
    """What to do about a tensor that differs in this way."""
    if report.relation == RelationKind.ROUNDING:
        return rounding(asker)
    return REMEDIES.get(report.relation, _OTHER_REMEDY)


def sentence(report: TensorReport, *, named: bool = True) -> str:
    """Which tensor, in which way, in how many requests."""
    share = percent(report.mismatched_requests / max(report.requests, 1))
    name = f"{report.name}: " if named else ""
    return f"{name}{report.text}, in {share} of {counted(report.requests)}"


def percent(share: float) -> str:
    """100 % and 0 % only when exact."""
    if share in (0.0, 1.0):
        return f"{share:.0%}".replace("%", " %")
    for digits in (0, 1, 2, 3):
        text = f"{100 * share:.{digits}f}"
        if 0.0 < float(text) < 100.0:  # noqa: PLR2004 - per cent
            return f"{text} %"
    return "nearly 100 %" if share > 0.5 else "under 0.001 %"  # noqa: PLR2004 - the nearer end


def tensor_of(report: TensorReport) -> str:
    """The tensor's name, without the column's."""
    return report.name.split("[")[0]

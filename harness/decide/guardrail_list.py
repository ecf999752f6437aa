"""A preset's guardrails and the file's own, as one list."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.core.errors import nearest
from harness.core.policies import (
    DecisionRule,
    Guardrail,
    Loss,
    Metric,
    Preset,
    Rule,
    WindowName,
)
from harness.decide.document import Section
from harness.decide.guardrails import read_guardrail
from harness.decide.presets import PRESETS

_NEEDS_DECISION = {
    Metric.DECISION_FLIP,
    Metric.DECISION_RATE_SHIFT,
    Metric.SCORE_SHIFT,
    Metric.LOSS_DIFFERENCE,
    Metric.EXCESS_FLIP,
    Metric.CALIBRATION_SHIFT,
}


_NEEDS_SCORE = {Metric.SCORE_SHIFT, Metric.CALIBRATION_SHIFT}


_NEEDS_LABELS = {Metric.LOSS_DIFFERENCE, Metric.CALIBRATION_SHIFT}


def expanded_guardrails(
    document: Section, preset: Preset, decision: DecisionRule | None
) -> tuple[Guardrail, ...]:
    """The preset's guardrails, some replaced or dropped, then the file's own."""
    own = own_guardrails(document, lambda section: _read_whole(section, preset))
    dropped = _dropped(document, preset, own)
    names = {guardrail.name for guardrail in PRESETS[preset]}
    expanded = [own.get(g.name, g) for g in PRESETS[preset] if g.name not in dropped]
    expanded += [guardrail for guardrail in own.values() if guardrail.name not in names]
    # What is only reported asks for no labels that nothing else needs.
    labelled = any(g.window is WindowName.MATURED and g.gating for g in expanded)
    expanded = [
        g for g in expanded
        if labelled or g.name in own or g.gating or g.window is not WindowName.MATURED
    ]  # fmt: skip
    kept = [
        guardrail
        for guardrail in expanded
        if guardrail.gating or guardrail.name in own or not _lacks(guardrail, decision)
    ]
    for guardrail in kept:
        lack = _lacks(guardrail, decision)
        if lack:
            what = f"guardrail '{guardrail.name}' ({guardrail.metric.value}) needs {lack}"
            remedy = f"Add it to `decision:`, or `drop: [{guardrail.name}]`."
            raise document.error("decision", what, remedy)
    some_decide(document, kept)
    return tuple(kept)


def own_guardrails(document: Section, read: Callable[[Section], Guardrail]) -> dict[str, Guardrail]:
    """The guardrails that the file itself lists, by name."""
    own: dict[str, Guardrail] = {}
    for section in document.sections("guardrails") if "guardrails" in document else ():
        guardrail = read(section)
        if guardrail.name in own:
            raise section.error("name", f"'{guardrail.name}' is used twice", "Rename one of them.")
        own[guardrail.name] = guardrail
    return own


def _read_whole(section: Section, preset: Preset) -> Guardrail:
    """A guardrail of the file; one with a preset's name stands in place of that, and is written in full."""
    name = section.maybe("name", section.text, "")
    usual = next((g for g in PRESETS[preset] if g.name == name), None)
    lacking = [key for key in ("metric", "margin") if key not in section]
    if usual is not None and lacking:
        scope = f", scope: {usual.scope.value}" if usual.scope else ""
        raise section.error(
            lacking[0],
            f"is missing: it stands in place of the preset's '{name}' and takes nothing from it",
            f"Write it in full, the preset's values with yours: {{name: {name}, metric: {usual.metric.value}{scope}, "
            f"margin: {usual.margin:g}, ...}}.",
        )
    return read_guardrail(section)


def some_decide(document: Section, guardrails: Sequence[Guardrail]) -> None:
    """Refuse a policy in which no guardrail decides."""
    if not any(guardrail.gating for guardrail in guardrails):
        raise document.error(
            "guardrails", "no guardrail decides: nothing could ever be promoted", "Add one."
        )


def _dropped(document: Section, preset: Preset, own: dict[str, Guardrail]) -> tuple[str, ...]:
    dropped = document.texts("drop") if "drop" in document else ()
    names = [guardrail.name for guardrail in PRESETS[preset]]
    for name in dropped:
        if name not in names:
            what = f"preset {preset.value} has no guardrail '{name}'"
            raise document.error("drop", what, f"Drop one it has; {nearest(name, names)}")
        if name in own:
            what = f"'{name}' is dropped and defined in one file"
            raise document.error("drop", what, "Defining it replaces the preset's already.")
    return dropped


def _lacks(guardrail: Guardrail, decision: DecisionRule | None) -> str:
    """What a guardrail needs and the policy does not say; "" when nothing."""
    if guardrail.metric not in _NEEDS_DECISION:
        return ""
    if decision is None:
        return "a decision rule"
    needs_score = guardrail.metric in _NEEDS_SCORE or guardrail.loss in (
        Loss.BRIER,
        Loss.ABSOLUTE,
    )
    if needs_score and decision.rule is Rule.NONE and decision.score is None:
        return "a score output"
    return ""

"""Kinds of change, as the guardrails a policy file leaves out."""

from __future__ import annotations

from harness.core.policies import (
    Direction,
    Guardrail,
    Loss,
    Metric,
    Preset,
    Scope,
    WindowName,
)

_FEATURES = Guardrail(
    name="features",
    metric=Metric.PARITY_MISMATCH,
    margin=0.001,
    effect=0.0,
    scope=Scope.FEATURES,
)
_FLIPS = Guardrail(name="flips", metric=Metric.DECISION_FLIP, margin=0.01, gating=False)

PRESETS: dict[Preset, tuple[Guardrail, ...]] = {
    Preset.NONE: (),
    Preset.REFACTOR: (
        Guardrail(
            name="outputs",
            metric=Metric.PARITY_MISMATCH,
            margin=0.001,
            effect=0.0,
            scope=Scope.OUTPUTS,
        ),
        _FEATURES,
        _FLIPS,
    ),
    Preset.RETRAIN: (
        _FEATURES,
        Guardrail(
            name="rate",
            metric=Metric.DECISION_RATE_SHIFT,
            margin=0.10,
            direction=Direction.BOTH,
        ),
        Guardrail(name="score", metric=Metric.SCORE_SHIFT, margin=0.05, direction=Direction.BOTH),
        Guardrail(
            name="loss",
            metric=Metric.LOSS_DIFFERENCE,
            margin=0.002,
            loss=Loss.BRIER,
            window=WindowName.MATURED,
        ),
        # Reported: a baseline that is off itself would block the candidate that repairs it, and a
        # candidate that is off by more than its rival loses under the loss above.
        Guardrail(
            name="calibration",
            metric=Metric.CALIBRATION_SHIFT,
            margin=0.05,
            direction=Direction.BOTH,
            window=WindowName.MATURED,
            gating=False,
        ),
        _FLIPS,
    ),
}
"""Preset → its guardrails; reported ones have gating=False."""

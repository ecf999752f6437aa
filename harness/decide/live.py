"""The `live` section of a policy: how running traffic is split, and what is tested on it."""

from __future__ import annotations

import itertools

from harness.core.live import Live, LiveGuardrail, LiveKind, LiveMetric, OnFailure, Ramp, UnitIn
from harness.core.policies import DecisionRule, Direction
from harness.decide.document import Section
from harness.decide.live_metrics import METRIC_KEYS, NEEDS_DECISION, read_source
from harness.decide.live_units import read_unit

_KEYS = (
    "steps",
    "stay",
    "budget",
    "unit",
    "unit_in",
    "on_failure",
    "patience",
    "maturity",
    "cycle",
    "quiet",
    "bursts",
    "sample_ratio",
    "guardrails",
)
_CANARY_KEYS = ("stay", "on_failure")
_RAIL_KEYS = (
    "name",
    "kind",
    "range",
    "margin",
    "ratio",
    "direction",
    "gating",
    "effect",
    "variance",
    "label_maturity",
    *METRIC_KEYS,
)


def read_live(
    section: Section, alphas: tuple[float, float], decision: DecisionRule | None = None
) -> Live:
    """Reads and checks the section.

    Args:
      section: its keys.
      alphas: (promotion, rollback) error rates of the policy.
      decision: the policy's, for metrics that need one.

    Raises:
      PolicyError: what is not understood, or could never be tested.
    """
    section.only(_KEYS)
    default = Live(guardrails=())
    steps = _steps(section)
    guardrails = _guardrails(section, shadow=not steps)
    for guardrail in guardrails:
        if decision is None and guardrail.metric in NEEDS_DECISION:
            what = f"'{guardrail.name}' ({guardrail.metric.value}) needs the policy's `decision`"
            raise section.error("guardrails", what, "Add `decision: {output: …, rule: …}`.")
    unit, block_s = read_unit(section, shadow=not steps)
    gap_s, longest_s = default.burst_gap_s, default.burst_longest_s
    if "bursts" in section:
        bursts = section.section("bursts")
        bursts.only(("gap", "longest"))
        gap_s = bursts.seconds("gap")
        longest_s = bursts.maybe("longest", bursts.seconds, longest_s)
        if longest_s < gap_s:
            raise bursts.error("longest", "is shorter than the gap", "Use gap ≤ longest.")
    return Live(
        guardrails=guardrails,
        steps=steps,
        unit=unit,
        block_s=block_s,
        maturity_s=section.maybe("maturity", section.seconds, default.maturity_s),
        cycle_s=section.maybe("cycle", section.seconds, default.cycle_s),
        quiet_s=_quiet(section),
        burst_gap_s=gap_s,
        burst_longest_s=longest_s,
        sample_ratio_alpha=_level(section, "sample_ratio", default.sample_ratio_alpha),
        alpha_promote=alphas[0],
        alpha_rollback=alphas[1],
        unit_in=_unit_in(section),
        ramp=_ramp(section, shadow=not steps),
        on_failure=section.maybe(
            "on_failure", lambda key: section.choice(key, OnFailure), default.on_failure
        ),
        patience_s=section.maybe("patience", section.seconds, default.patience_s),
        decision=decision,
    )


def _quiet(section: Section) -> float | None:
    """Longest silence of a cycle that counts."""
    if "quiet" not in section:
        return None
    quiet_s = section.seconds("quiet")
    cycle_s = section.maybe("cycle", section.seconds, 0.0)
    if not quiet_s < cycle_s:
        what = (
            f"a silence of {quiet_s:g} s in a cycle of {cycle_s:g} s would make an empty one whole"
        )
        raise section.error("quiet", what, "Give the longest silence of a usual `cycle`.")
    return quiet_s


def _unit_in(section: Section) -> UnitIn:
    if "unit_in" in section and "unit" not in section:
        what = "says where the unit is named, and there is none"
        raise section.error("unit_in", what, "Add `unit: <name>`, or leave it out.")
    return section.maybe("unit_in", lambda key: section.choice(key, UnitIn), UnitIn.METADATA)


def _ramp(section: Section, *, shadow: bool) -> Ramp:
    """Least stay at each step, and the budget."""
    for key in _CANARY_KEYS if shadow else ():
        if key in section:
            what = "is about split traffic, and there are no steps"
            raise section.error(key, what, "Add `steps`, or leave it out.")
    ramp = Ramp()
    stay_s, stay_requests = ramp.stay_s, ramp.stay_requests
    if "stay" in section:
        stay = section.section("stay")
        stay.only(("time", "requests"))
        stay_s = stay.maybe("time", stay.seconds, stay_s)
        stay_requests = stay.maybe("requests", lambda key: stay.integer(key, least=1), 0)
    budget_s: float | None = None
    budget_requests: int | None = None
    if "budget" in section:
        budget = section.section("budget")
        budget.only(("time", "requests"))
        budget_s = budget.seconds("time") if "time" in budget else None
        budget_requests = budget.integer("requests", least=1) if "requests" in budget else None
    return Ramp(
        stay_s=stay_s,
        stay_requests=stay_requests,
        budget_s=budget_s,
        budget_requests=budget_requests,
    )


def _steps(section: Section) -> tuple[float, ...]:
    """Shares of the candidate, ascending; none is shadow traffic, which both versions answer."""
    if "steps" not in section:
        return ()
    steps = section.numbers("steps")
    rising = all(a < b for a, b in itertools.pairwise(steps))
    if not steps or not rising or not 0.0 < steps[0] <= steps[-1] < 1.0:
        what = "needs shares of traffic that rise, each above 0 and below 1"
        raise section.error("steps", what, "Write `steps: [0.01, 0.1, 0.5]`.")
    return steps


def _level(section: Section, key: str, default: float) -> float:
    value = section.maybe(key, section.positive, default)
    if value >= 1.0:
        raise section.error(key, f"needs a level below 1, not {value:g}", "Use 0.001.")
    return value


def _guardrails(section: Section, *, shadow: bool) -> tuple[LiveGuardrail, ...]:
    found: dict[str, LiveGuardrail] = {}
    for rail in section.sections("guardrails") if "guardrails" in section else ():
        guardrail = _guardrail(rail, shadow=shadow)
        if guardrail.name in found:
            raise rail.error("name", f"'{guardrail.name}' is used twice", "Rename one of them.")
        found[guardrail.name] = guardrail
    if not any(guardrail.gating for guardrail in found.values()):
        raise section.error(
            "guardrails", "no guardrail decides: nothing could ever be promoted", "Add one."
        )
    return tuple(found.values())


def _guardrail(section: Section, *, shadow: bool) -> LiveGuardrail:
    section.only(_RAIL_KEYS)
    kind = section.choice("kind", LiveKind)
    if (kind is LiveKind.PAIRED) is not shadow:
        what = (
            "needs a split, and there are no steps: both versions answer each request"
            if shadow
            else "needs both answers to a request, and steps split traffic"
        )
        remedy = "Add `steps`, or use `kind: paired`." if shadow else "Use `kind: shift`."
        raise section.error("kind", f"'{kind.value}' {what}", remedy)
    name = section.text("name")
    gating = section.maybe("gating", section.flag, default=True)
    if kind is LiveKind.ERRORS:
        return _errors(section, name, gating=gating)
    if "ratio" in section:
        raise section.error("ratio", "belongs to kind errors", "Use `margin`.")
    source = read_source(section, kind)
    bounds = source.bounds
    direction = section.maybe(
        "direction", lambda key: section.choice(key, Direction), Direction.INCREASE
    )
    margin = _margin(section, kind, bounds, direction)
    gap, variance = _plan(section, direction, margin)
    squared = 0.0 if gap is None or kind is LiveKind.SHIFT else gap * gap
    return LiveGuardrail(
        name=name,
        kind=kind,
        margin=margin,
        bounds=bounds,
        direction=direction,
        gating=gating,
        gap=gap,
        second_moment=None if variance is None else variance + squared,
        label_maturity_s=section.maybe("label_maturity", section.seconds, None),
        metric=source.metric,
        loss=source.loss,
        slower_than_s=source.slower_than_s,
    )


def _errors(section: Section, name: str, *, gating: bool) -> LiveGuardrail:
    for key in (
        "range",
        "margin",
        "direction",
        "effect",
        "variance",
        "label_maturity",
        *METRIC_KEYS,
    ):
        if key in section:
            what = "has no meaning for errors: their rates' ratio is tested as they come"
            raise section.error(key, what, "Leave it out.")
    ratio = section.number("ratio")
    if ratio < 1.0:
        raise section.error("ratio", f"needs a ratio from 1, not {ratio:g}", "Write `ratio: 1.5`.")
    return LiveGuardrail(
        name=name,
        kind=LiveKind.ERRORS,
        margin=ratio,
        gating=gating,
        metric=LiveMetric.FAILURE,
    )


def _margin(
    section: Section, kind: LiveKind, bounds: tuple[float, float], direction: Direction
) -> float:
    """A margin that the mean (paired) or the difference of means (shift) can lie on either side of."""
    value = section.number("margin")
    lo, hi = bounds if kind is LiveKind.PAIRED else (bounds[0] - bounds[1], bounds[1] - bounds[0])
    most = {Direction.INCREASE: hi, Direction.DECREASE: -lo, Direction.BOTH: min(hi, -lo)}
    if not 0.0 < value < most[direction]:
        what = f"{value:g} is outside what values in [{bounds[0]:g}, {bounds[1]:g}] can reach"
        raise section.error("margin", what, f"Choose one above 0 and below {most[direction]:g}.")
    return value


def _plan(
    section: Section, direction: Direction, margin: float
) -> tuple[float | None, float | None]:
    """(distance of the expected mean from the margin, variance); both are said or neither is."""
    given = [key for key in ("effect", "variance") if key in section]
    if not given:
        return None, None
    if len(given) == 1:
        missing = "variance" if given == ["effect"] else "effect"
        what = f"plans nothing without `{missing}`"
        raise section.error(given[0], what, f"Add `{missing}`, from data that are not tested.")
    effect, variance = section.number("effect"), section.positive("variance")
    harm = {Direction.INCREASE: effect, Direction.DECREASE: -effect, Direction.BOTH: abs(effect)}
    gap = margin - harm[direction]
    if gap <= 0.0:
        what = f"{effect:g} is not within the margin: it is the mean a harmless candidate has"
        raise section.error("effect", what, "Give a value within it.")
    return gap, variance

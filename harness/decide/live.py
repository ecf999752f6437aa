"""The `live` section of a policy: how running traffic is split, and what is tested on it."""

from __future__ import annotations

import itertools

from harness.core.live import Live, LiveGuardrail, LiveKind
from harness.core.policies import Direction
from harness.decide.document import Section

_KEYS = ("steps", "unit", "maturity", "cycle", "bursts", "sample_ratio", "guardrails")
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
)
_ZERO_ONE = (0.0, 1.0)


def read_live(section: Section, alphas: tuple[float, float]) -> Live:
    """Reads and checks the section.

    Args:
      section: its keys.
      alphas: (promotion, rollback) error rates of the policy.

    Raises:
      PolicyError: what is not understood, or could never be tested.
    """
    section.only(_KEYS)
    default = Live(guardrails=())
    steps = _steps(section)
    guardrails = _guardrails(section, shadow=not steps)
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
        unit=section.maybe("unit", section.text, default.unit),
        maturity_s=section.maybe("maturity", section.seconds, default.maturity_s),
        cycle_s=section.maybe("cycle", section.seconds, default.cycle_s),
        burst_gap_s=gap_s,
        burst_longest_s=longest_s,
        sample_ratio_alpha=_level(section, "sample_ratio", default.sample_ratio_alpha),
        alpha_promote=alphas[0],
        alpha_rollback=alphas[1],
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
    bounds = section.interval("range")
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
    )


def _errors(section: Section, name: str, *, gating: bool) -> LiveGuardrail:
    for key in ("range", "margin", "direction", "effect", "variance", "label_maturity"):
        if key in section:
            what = "has no meaning for errors: their rates' ratio is tested as they come"
            raise section.error(key, what, "Leave it out.")
    ratio = section.number("ratio")
    if ratio < 1.0:
        raise section.error("ratio", f"needs a ratio from 1, not {ratio:g}", "Write `ratio: 1.5`.")
    return LiveGuardrail(name=name, kind=LiveKind.ERRORS, margin=ratio, gating=gating)


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

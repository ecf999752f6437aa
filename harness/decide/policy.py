"""A policy file → a Policy, strictly: what is not understood is an error, never a default."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from harness.core.errors import nearest
from harness.core.jsonable import sha256
from harness.core.policies import (
    Approval,
    Claim,
    DecisionRule,
    Guardrail,
    Loss,
    Mapping,
    Metric,
    Mode,
    Policy,
    Preset,
    Rule,
    SandboxPolicy,
    Weight,
    Windows,
)
from harness.decide.document import Section, read_document
from harness.decide.guardrails import read_guardrail, read_table_guardrail
from harness.decide.presets import PRESETS

VERSION = 1
"""The policy format that is read."""

TIERS = ("S0", "S1", "S2", "S3")
"""Isolation tiers, weakest first."""

_KEYS = (
    "version",
    "preset",
    "mode",
    "alpha",
    "claim",
    "weight",
    "unit",
    "decision",
    "windows",
    "guardrails",
    "drop",
    "sandbox",
    "approval",
    "mapping",
)
_LARGEST_ALPHA = 0.5
_NEEDS_DECISION = {
    Metric.DECISION_FLIP,
    Metric.DECISION_RATE_SHIFT,
    Metric.SCORE_SHIFT,
    Metric.LOSS_DIFFERENCE,
}


def policy_from_yaml(text: str, where: str) -> Policy:
    """Reads a policy and fills in what its preset says.

    Args:
      text: the file's text.
      where: the file, as the user knows it; part of every message.

    Returns:
      A policy whose digest covers everything that decides, presets expanded: two files that mean
      the same have the same digest.

    Raises:
      PolicyError: with file, line and key, what is wrong, and the nearest valid word.
    """
    document = _document(text, where)
    for key in ("unit", "weight"):
        if key in document and document.text(key) != Weight.REQUEST.value:
            raise document.error(
                key, "is not supported yet by a gate", "Leave it out, or judge a table."
            )
    preset = document.choice("preset", Preset, {"hotfix": "the preset for an open incident"})
    decision = _decision(document.section("decision")) if "decision" in document else None
    return _policy(document, preset, decision, _guardrails(document, preset, decision))


def table_policy_from_yaml(text: str, where: str) -> Policy:
    """Reads a policy for observations that are there already: `harness judge`.

    Only `version` and `guardrails` are needed; there is no preset, and no least number of rows
    unless `windows.min_requests` asks for one.

    Args:
      text: the file's text.
      where: the file, as the user knows it; part of every message.

    Returns:
      A policy every guardrail of which reads one column.

    Raises:
      PolicyError: as in `policy_from_yaml`; also a preset, whose guardrails need two models.
    """
    document = _document(text, where)
    if document.maybe("preset", lambda key: document.choice(key, Preset), Preset.NONE).value != (
        Preset.NONE.value
    ):
        raise document.error(
            "preset",
            "has guardrails that need two models, and a table has none",
            "Leave it out, and list the guardrails whose columns the table has.",
        )
    guardrails = _own_guardrails(document, read_table_guardrail)
    if not guardrails:
        raise document.error("guardrails", "is missing or empty", "List at least one.")
    _some_decide(document, tuple(guardrails.values()))
    policy = _policy(document, Preset.NONE, None, tuple(guardrails.values()))
    unit, weight = _unit(document, policy)
    policy = dataclasses.replace(policy, unit=unit, weight=weight, digest="")
    policy = dataclasses.replace(policy, digest=sha256(policy))
    asked = "windows" in document and "min_requests" in document.section("windows")
    if asked:
        return policy
    bare = dataclasses.replace(policy.windows, min_requests=1)
    policy = dataclasses.replace(policy, windows=bare, digest="")
    return dataclasses.replace(policy, digest=sha256(policy))


def any_policy_from_yaml(text: str, where: str) -> Policy:
    """Reads a policy for a gate or for a table, whichever it is.

    A gate's policy has a preset; a guardrail with a column or a range makes it a table's.

    Raises:
      PolicyError: as in `policy_from_yaml` and `table_policy_from_yaml`.
    """
    document = _document(text, where)
    rails = document.sections("guardrails") if "guardrails" in document else ()
    columns = any("column" in rail or "range" in rail for rail in rails)
    if columns or "preset" not in document:
        return table_policy_from_yaml(text, where)
    return policy_from_yaml(text, where)


def _document(text: str, where: str) -> Section:
    document = read_document(text, where)
    document.only(_KEYS)
    if document.integer("version", least=0) != VERSION:
        raise document.error("version", "is not 1", "Write `version: 1`.")
    return document


def _unit(document: Section, policy: Policy) -> tuple[str, Weight]:
    """The unit of a table's rows and what counts once; both are said or neither is."""
    weight = document.maybe("weight", lambda key: document.choice(key, Weight), Weight.REQUEST)
    if "unit" not in document:
        if weight is Weight.UNIT:
            raise document.error("weight", "'unit' needs a unit", "Add `unit:`, a column or 1h.")
        return "", weight
    unit = document.text("unit")
    if "weight" not in document:
        raise document.error(
            "unit",
            "leaves open which mean is meant",
            "Add `weight: unit` (each unit once) or `weight: request` (units by their size).",
        )
    sliced = [g.name for g in policy.guardrails if g.slice_by]
    if sliced:
        raise document.error(
            "unit",
            f"is not supported yet beside slice_by ('{sliced[0]}')",
            "Judge the slices as tables of their own.",
        )
    if weight is Weight.REQUEST and policy.claim is Claim.WINDOW:
        raise document.error(
            "claim",
            "'window' counts units once, and `weight: request` draws them with replacement",
            "Use `weight: unit`, or `claim: process`.",
        )
    return unit, weight


def _policy(
    document: Section,
    preset: Preset,
    decision: DecisionRule | None,
    guardrails: tuple[Guardrail, ...],
) -> Policy:
    """Everything besides preset, decision and guardrails, with its defaults."""
    alpha_promote, alpha_rollback = _alphas(document)
    policy = Policy(
        version=VERSION,
        preset=preset,
        mode=document.maybe("mode", lambda key: document.choice(key, Mode), Mode.ENFORCE),
        alpha_promote=alpha_promote,
        alpha_rollback=alpha_rollback,
        claim=_claim(document, guardrails),
        decision=decision,
        windows=document.maybe("windows", lambda key: _windows(document.section(key)), Windows()),
        guardrails=guardrails,
        sandbox=document.maybe(
            "sandbox", lambda key: _sandbox(document.section(key)), SandboxPolicy()
        ),
        approval=document.maybe(
            "approval", lambda key: _approval(document.section(key)), Approval()
        ),
        mapping=document.maybe("mapping", lambda key: _mapping(document.section(key)), Mapping()),
        digest="",
    )
    return dataclasses.replace(policy, digest=sha256(policy))


def _alphas(document: Section) -> tuple[float, float]:
    if "alpha" not in document:
        return 0.05, 0.05
    section = document.section("alpha")
    section.only(("promote", "rollback"))
    found = []
    for key in ("promote", "rollback"):
        value = section.maybe(key, section.positive, 0.05)
        if value >= _LARGEST_ALPHA:
            raise section.error(
                key, f"needs an error rate below {_LARGEST_ALPHA}, not {value:g}", "Use 0.05."
            )
        found.append(value)
    return found[0], found[1]


def _claim(document: Section, guardrails: tuple[Guardrail, ...]) -> Claim:
    """What the verdict is about; `window` only where every selected request has a value."""
    claim = document.maybe("claim", lambda key: document.choice(key, Claim), Claim.PROCESS)
    if claim is Claim.PROCESS:
        return claim
    for guardrail in guardrails:
        if guardrail.metric is Metric.LOSS_DIFFERENCE:
            raise document.error(
                "claim",
                f"'window' does not fit guardrail '{guardrail.name}': only requests with a label have "
                "a loss, so how many of the window's requests it is about is not known",
                f"Use `claim: process`, or `drop: [{guardrail.name}]`.",
            )
    return claim


def _decision(section: Section) -> DecisionRule:
    section.only(("output", "rule", "value", "score", "positive"))
    rule = section.choice("rule", Rule)
    if rule is Rule.THRESHOLD and "value" not in section:
        raise section.error("value", "is missing", "A threshold rule needs it: `value: 0.5`.")
    if rule is not Rule.THRESHOLD and "value" in section:
        raise section.error("value", f"has no meaning under rule '{rule.value}'", "Leave it out.")
    return DecisionRule(
        output=section.text("output"),
        rule=rule,
        value=section.number("value") if rule is Rule.THRESHOLD else None,
        score=section.text("score") if "score" in section else None,
        positive=section.maybe("positive", lambda key: section.integer(key, least=-1), -1),
    )


def _windows(section: Section) -> Windows:
    section.only(("newest", "matured", "min_requests", "max_requests", "cover", "planning"))
    default = Windows()
    days, maturity = default.newest_days, default.maturity_s
    if "newest" in section:
        newest = section.section("newest")
        newest.only(("days",))
        days = newest.maybe("days", newest.positive, days)
    if "matured" in section:
        matured = section.section("matured")
        matured.only(("maturity",))
        maturity = matured.maybe("maturity", matured.seconds, maturity)
    least = section.maybe(
        "min_requests", lambda key: section.integer(key, least=1), default.min_requests
    )
    most = section.maybe(
        "max_requests", lambda key: section.integer(key, least=1), default.max_requests
    )
    if most < least:
        raise section.error(
            "max_requests",
            f"{most:,} is below min_requests, {least:,}: every run would hold",
            "Raise it, or lower min_requests.",
        )
    planning = section.maybe("planning", lambda key: section.integer(key, least=0), 0)
    if planning + least > most:
        raise section.error(
            "planning",
            f"{planning:,} and min_requests, {least:,}, are more than max_requests, {most:,}",
            "Plan with fewer requests: a few hundred are enough.",
        )
    return Windows(
        newest_days=days,
        maturity_s=maturity,
        min_requests=least,
        max_requests=most,
        cover=section.maybe("cover", section.texts, ()),
        planning=planning,
    )


def _guardrails(
    document: Section, preset: Preset, decision: DecisionRule | None
) -> tuple[Guardrail, ...]:
    """The preset's guardrails, some replaced or dropped, then the file's own."""
    own = _own_guardrails(document, read_guardrail)
    dropped = _dropped(document, preset, own)
    names = {guardrail.name for guardrail in PRESETS[preset]}
    expanded = [own.get(g.name, g) for g in PRESETS[preset] if g.name not in dropped]
    expanded += [guardrail for guardrail in own.values() if guardrail.name not in names]
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
    _some_decide(document, kept)
    return tuple(kept)


def _own_guardrails(
    document: Section, read: Callable[[Section], Guardrail]
) -> dict[str, Guardrail]:
    """The guardrails that the file itself lists, by name."""
    own: dict[str, Guardrail] = {}
    for section in document.sections("guardrails") if "guardrails" in document else ():
        guardrail = read(section)
        if guardrail.name in own:
            raise section.error("name", f"'{guardrail.name}' is used twice", "Rename one of them.")
        own[guardrail.name] = guardrail
    return own


def _some_decide(document: Section, guardrails: Sequence[Guardrail]) -> None:
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
    needs_score = guardrail.metric is Metric.SCORE_SHIFT or guardrail.loss in (
        Loss.BRIER,
        Loss.ABSOLUTE,
    )
    if needs_score and decision.rule is Rule.NONE and decision.score is None:
        return "a score output"
    return ""


def _sandbox(section: Section) -> SandboxPolicy:
    section.only(("require", "memory", "batch_deadline", "load_deadline"))
    default = SandboxPolicy()
    tier = section.maybe("require", section.text, default.require)
    if tier not in TIERS:
        raise section.error(
            "require", f"'{tier}' is no isolation tier", f"Known: {', '.join(TIERS)}."
        )
    return SandboxPolicy(
        require=tier,
        memory_bytes=section.maybe("memory", section.size_bytes, default.memory_bytes),
        batch_deadline_s=section.maybe("batch_deadline", section.seconds, default.batch_deadline_s),
        load_deadline_s=section.maybe("load_deadline", section.seconds, default.load_deadline_s),
    )


def _approval(section: Section) -> Approval:
    section.only(("required", "approvers", "expires"))
    default = Approval()
    return Approval(
        required=section.maybe("required", section.flag, default.required),
        approvers=section.maybe(
            "approvers", lambda key: section.integer(key, least=1), default.approvers
        ),
        expires_s=section.maybe("expires", section.seconds, default.expires_s),
    )


def _mapping(section: Section) -> Mapping:
    section.only(("inputs", "outputs", "tensors"))
    return Mapping(
        inputs=section.maybe("inputs", section.pairs, ()),
        outputs=section.maybe("outputs", section.pairs, ()),
        tensors=section.maybe("tensors", section.pairs, ()),
    )

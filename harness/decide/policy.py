"""A policy file → a Policy, strictly: what is not understood is an error, never a default."""

from __future__ import annotations

import dataclasses

from harness.core.jsonable import sha256
from harness.core.live import Live
from harness.core.policies import (
    LATENCY_METRICS,
    Against,
    Approval,
    Claim,
    DecisionRule,
    GraphPolicy,
    Guardrail,
    LatencyPolicy,
    Mapping,
    Metric,
    Mode,
    Policy,
    Preset,
    SandboxPolicy,
    Weight,
    Windows,
)
from harness.decide.document import Section, read_document
from harness.decide.guardrail_list import (
    _NEEDS_LABELS,
    expanded_guardrails,
    own_guardrails,
    some_decide,
)
from harness.decide.guardrails import KEYS as GUARDRAIL_KEYS
from harness.decide.integrity import MOST_LOST
from harness.decide.live import read_live
from harness.decide.policy_sections import (
    KEYS,
    read_alphas,
    read_approval,
    read_decision,
    read_graph,
    read_latency,
    read_mapping,
    read_sandbox,
    read_windows,
)
from harness.decide.table_guardrails import read_table_guardrail, read_unpaired_guardrail

VERSION = 1
"""The policy format that is read."""
_MOST_WITHOUT_CLAIM = 0.2
"""A window of a few thousand requests has values that are rare for want of traffic; a fifth is much."""

_KEYS = (
    "version",
    "preset",
    "mode",
    "alpha",
    "claim",
    "weight",
    "unit",
    "most_without_claim",
    "most_baseline_failures",
    "unpaired",
    "anchor",
    "decision",
    "windows",
    "guardrails",
    "drop",
    "sandbox",
    "approval",
    "mapping",
    "latency",
    "graph",
    "live",
)
_FOR_A_CUTOFF = 500
"""Latencies of which five lie beyond the 99 % quantile."""


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
    if "unpaired" in document:
        raise document.error(
            "unpaired", "is not supported yet by a gate", "Leave it out, or judge a table."
        )
    if "preset" not in document:
        raise document.error(
            "preset",
            f"is missing, and a gate's policy says what kind of change it judges: {', '.join(Preset)}",
            "Write one of them, or give the policy to `harness judge` with a table.",
        )
    preset = document.choice("preset", Preset, {"hotfix": "the preset for an open incident"})
    decision = _decision(document)
    policy = _policy(document, preset, decision, expanded_guardrails(document, preset, decision))
    unit = _gate_unit(document, policy)
    policy = dataclasses.replace(policy, anchor=_anchor(document, policy), digest="")
    if unit:
        policy = dataclasses.replace(policy, unit=unit, weight=Weight.UNIT)
    policy = dataclasses.replace(policy, digest=sha256(policy))
    _can_fix_cutoffs(document, policy, "latency", policy.latency.planning)
    return policy


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
    unpaired = document.maybe("unpaired", document.flag, default=False)
    read = read_unpaired_guardrail if unpaired else read_table_guardrail
    if "anchor" in document:
        raise document.error("anchor", "is a version, and a table has none", "Leave it out.")
    guardrails = own_guardrails(document, read)
    if not guardrails:
        raise document.error("guardrails", "is missing or empty", "List at least one.")
    some_decide(document, tuple(guardrails.values()))
    policy = _policy(document, Preset.NONE, None, tuple(guardrails.values()))
    _can_fix_cutoffs(document, policy, "windows", policy.windows.planning)
    unit, weight = _unit(document, policy)
    policy = dataclasses.replace(policy, unit=unit, weight=weight, unpaired=unpaired, digest="")
    if unpaired:
        _fits_arms(document, policy)
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


def live_from_yaml(text: str, where: str) -> Live:
    """Reads what a policy says about running traffic: its `live` section and `alpha`.

    The other sections may be there, because one file serves replay, tables and live traffic; what
    they say is checked where it is used.

    Args:
      text: the file's text.
      where: the file, as the user knows it; part of every message.

    Raises:
      PolicyError: no live section, or something in it that is not understood.
    """
    document = _document(text, where)
    if "live" not in document:
        raise document.error("live", "is missing", "Say how traffic is split and what is tested.")
    return read_live(document.section("live"), read_alphas(document), _decision(document))


def _decision(document: Section) -> DecisionRule | None:
    return read_decision(document.section("decision")) if "decision" in document else None


def _anchor(document: Section, policy: Policy) -> str:
    """The anchor's reference; named where a guardrail reads it, and only there."""
    users = [g.name for g in policy.guardrails if g.against is Against.ANCHOR]
    if users and "anchor" not in document:
        raise document.error(
            "anchor",
            f"is missing, and guardrail '{users[0]}' is against it",
            "Name the version: `anchor: models:/name@anchor`, or a path.",
        )
    if "anchor" in document and not users:
        raise document.error(
            "anchor", "is read by no guardrail", "Add `against: anchor` to one, or leave it out."
        )
    return document.text("anchor") if users else ""


def _document(text: str, where: str) -> Section:
    document = read_document(text, where)
    document.only(_KEYS, _belonging())
    if document.integer("version", least=0) != VERSION:
        raise document.error("version", "is not 1", "Write `version: 1`.")
    return document


def _belonging() -> dict[str, str]:
    """Keys of the sections and of guardrails → where they belong."""
    places = dict.fromkeys(GUARDRAIL_KEYS, "to a guardrail, in the list under `guardrails:`")
    for key in dict.fromkeys(key for keys in KEYS.values() for key in keys):
        sections = [f"`{section}`" for section, keys in KEYS.items() if key in keys]
        places[key] = f"under {' or '.join(sections)}"
    return places


def _can_fix_cutoffs(document: Section, policy: Policy, section: str, planning: int) -> None:
    """Refuses a latency quantile whose cut-off nothing would fix before it is tested."""
    for guardrail in policy.guardrails:
        left = guardrail.metric is Metric.LATENCY_P99 and guardrail.cutoff_s is None
        if left and planning < _FOR_A_CUTOFF:
            raise document.error(
                section if section in document else "guardrails",
                f"'{guardrail.name}' has no cut-off, and {planning:,} requests that only plan "
                "cannot fix one",
                f"Add `cutoff:` in seconds, or `{section}: {{planning: {_FOR_A_CUTOFF}}}`.",
            )


def _fits_arms(document: Section, policy: Policy) -> None:
    """Refuses what has no meaning, or no test yet, where each row is one arm's."""
    if policy.claim is Claim.WINDOW:
        raise document.error(
            "claim", "'window' needs both answers to a request", "Use `claim: process`."
        )
    if policy.unit and policy.weight is Weight.REQUEST:
        raise document.error(
            "weight", "'request' is not supported yet for arms", "Use `weight: unit`."
        )


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
    binned = [g.name for g in policy.guardrails if g.metric is Metric.CALIBRATION_SHIFT]
    if binned:
        what = f"has no meaning for '{binned[0]}': a unit's rows lie in several bins"
        remedy = (
            f"Judge its calibration in a policy of its own, or `drop: [{binned[0]}]` a preset's."
        )
        raise document.error("unit", what, remedy)
    sliced = [g.name for g in policy.guardrails if g.slice_by]
    if sliced and weight is Weight.REQUEST:
        raise document.error(
            "unit",
            f"under `weight: request` cannot be sliced ('{sliced[0]}'): units are drawn by the size "
            "they have in the whole table",
            "Use `weight: unit`, or judge the slices as tables of their own.",
        )
    if weight is Weight.REQUEST and policy.claim is Claim.WINDOW:
        raise document.error(
            "claim",
            "'window' counts units once, and `weight: request` draws them with replacement",
            "Use `weight: unit`, or `claim: process`.",
        )
    return unit, weight


def _gate_unit(document: Section, policy: Policy) -> str:
    """What counts once in a gate; "" = each request."""
    unit, weight = _unit(document, policy)
    if unit and weight is Weight.REQUEST:
        raise document.error(
            "weight", "'request' is not supported yet by a gate", "Use `weight: unit`."
        )
    timed = [g.name for g in policy.guardrails if g.metric in LATENCY_METRICS]
    if unit and timed:
        what = f"has no meaning for '{timed[0]}': latency is measured on single requests"
        raise document.error("unit", what, "Judge latency in a policy of its own.")
    return unit


def _policy(
    document: Section,
    preset: Preset,
    decision: DecisionRule | None,
    guardrails: tuple[Guardrail, ...],
) -> Policy:
    """Everything besides preset, decision and guardrails, with its defaults."""
    alpha_promote, alpha_rollback = read_alphas(document)
    if "live" in document:
        # Read for its mistakes: a replay and a table have no live traffic.
        read_live(document.section("live"), (alpha_promote, alpha_rollback), _decision(document))
    policy = Policy(
        version=VERSION,
        preset=preset,
        mode=document.maybe("mode", lambda key: document.choice(key, Mode), Mode.ENFORCE),
        alpha_promote=alpha_promote,
        alpha_rollback=alpha_rollback,
        claim=_claim(document, guardrails),
        decision=decision,
        windows=document.maybe(
            "windows", lambda key: read_windows(document.section(key)), Windows()
        ),
        guardrails=guardrails,
        sandbox=document.maybe(
            "sandbox", lambda key: read_sandbox(document.section(key)), SandboxPolicy()
        ),
        approval=document.maybe(
            "approval", lambda key: read_approval(document.section(key)), Approval()
        ),
        mapping=document.maybe(
            "mapping", lambda key: read_mapping(document.section(key)), Mapping()
        ),
        most_without_claim=document.maybe(
            "most_without_claim", lambda key: _share(document, key), _MOST_WITHOUT_CLAIM
        ),
        most_baseline_failures=document.maybe(
            "most_baseline_failures", lambda key: _share(document, key), MOST_LOST
        ),
        latency=document.maybe(
            "latency", lambda key: read_latency(document.section(key)), LatencyPolicy()
        ),
        graph=document.maybe("graph", lambda key: read_graph(document.section(key)), GraphPolicy()),
        digest="",
    )
    return dataclasses.replace(policy, digest=sha256(policy))


def _share(document: Section, key: str) -> float:
    share = document.number(key)
    if not 0.0 <= share <= 1.0:
        raise document.error(key, f"is {share:g}", "Write a share of the requests, from 0 to 1.")
    return share


def _claim(document: Section, guardrails: tuple[Guardrail, ...]) -> Claim:
    """What the verdict is about; `window` only where every selected request has a value."""
    claim = document.maybe("claim", lambda key: document.choice(key, Claim), Claim.PROCESS)
    if claim is Claim.PROCESS:
        return claim
    for guardrail in guardrails:
        if guardrail.metric in _NEEDS_LABELS:
            raise document.error(
                "claim",
                f"'window' does not fit guardrail '{guardrail.name}': only requests with a label have "
                "a value, so how many of the window's requests it is about is not known",
                f"Use `claim: process`, or `drop: [{guardrail.name}]`.",
            )
    return claim

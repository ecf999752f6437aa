"""The parts of a policy file that are the same whatever is judged.

Every function reads one section strictly and raises PolicyError with the place of what is wrong.
"""

from __future__ import annotations

from harness.core.policies import (
    Approval,
    DecisionRule,
    GraphPolicy,
    LatencyPolicy,
    Mapping,
    Probes,
    Rule,
    SandboxPolicy,
    When,
    Windows,
)
from harness.decide.document import Section

TIERS = ("S0", "S1", "S2", "S3")
"""Isolation tiers, weakest first."""

KEYS: dict[str, tuple[str, ...]] = {
    "alpha": ("promote", "rollback"),
    "decision": ("output", "rule", "value", "score", "positive"),
    "windows": ("newest", "matured", "min_requests", "max_requests", "cover", "planning"),
    "windows.newest": ("days",),
    "windows.matured": ("maturity",),
    "sandbox": ("require", "memory", "start_deadline", "load_deadline", "batch_deadline", "probes"),
    "approval": ("required", "approvers", "expires"),
    "mapping": ("inputs", "outputs", "tensors", "narrower"),
    "latency": ("sample", "planning"),
    "graph": ("requests", "memory", "when", "deadline"),
}
"""Section → its keys."""
USUAL_SANDBOX = SandboxPolicy()
"""Of a policy that says nothing about it."""
_LARGEST_ALPHA = 0.5
_LEAST_MEMORY = 32 << 20
"""What no version's process starts in (numpy and onnxruntime take more than twice as much)."""


def read_alphas(document: Section) -> tuple[float, float]:
    """(promotion, rollback) error rates of the whole document."""
    if "alpha" not in document:
        return 0.05, 0.05
    section = document.section("alpha")
    section.only(KEYS["alpha"])
    found = []
    for key in ("promote", "rollback"):
        value = section.maybe(key, section.positive, 0.05)
        if value >= _LARGEST_ALPHA:
            raise section.error(
                key, f"needs an error rate below {_LARGEST_ALPHA}, not {value:g}", "Use 0.05."
            )
        found.append(value)
    return found[0], found[1]


def read_decision(section: Section) -> DecisionRule:
    """How the answer becomes a decision."""
    section.only(KEYS["decision"])
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


def read_windows(section: Section) -> Windows:
    """Which exchanges are judged."""
    section.only(KEYS["windows"])
    default = Windows()
    days, maturity = default.newest_days, default.maturity_s
    if "newest" in section:
        newest = section.section("newest")
        newest.only(KEYS["windows.newest"])
        days = newest.maybe("days", newest.positive, days)
    if "matured" in section:
        matured = section.section("matured")
        matured.only(KEYS["windows.matured"])
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


def read_sandbox(section: Section, default: SandboxPolicy = USUAL_SANDBOX) -> SandboxPolicy:
    """What the legs run in; `default` counts for what is left out."""
    section.only(KEYS["sandbox"])
    tier = section.maybe("require", section.text, default.require)
    if tier not in TIERS:
        raise section.error(
            "require", f"'{tier}' is no isolation tier", f"Known: {', '.join(TIERS)}."
        )
    memory_bytes = section.maybe("memory", section.size_bytes, default.memory_bytes)
    if memory_bytes < _LEAST_MEMORY:
        raise section.error(
            "memory", f"'{section.text('memory')}' is too little for any process to start in",
            "Give at least 256MiB.",
        )  # fmt: skip
    return SandboxPolicy(
        require=tier,
        memory_bytes=memory_bytes,
        batch_deadline_s=section.maybe("batch_deadline", section.seconds, default.batch_deadline_s),
        start_deadline_s=section.maybe("start_deadline", section.seconds, default.start_deadline_s),
        load_deadline_s=section.maybe("load_deadline", section.seconds, default.load_deadline_s),
        probes=section.maybe("probes", lambda key: section.choice(key, Probes), default.probes),
    )


def read_approval(section: Section) -> Approval:
    """Who must say yes."""
    section.only(KEYS["approval"])
    default = Approval()
    return Approval(
        required=section.maybe("required", section.flag, default.required),
        approvers=section.maybe(
            "approvers", lambda key: section.integer(key, least=1), default.approvers
        ),
        expires_s=section.maybe("expires", section.seconds, default.expires_s),
    )


def read_mapping(section: Section) -> Mapping:
    """Names that differ between the versions, and lengths that the candidate need not take."""
    section.only(KEYS["mapping"])
    return Mapping(
        inputs=section.maybe("inputs", section.pairs, ()),
        outputs=section.maybe("outputs", section.pairs, ()),
        tensors=section.maybe("tensors", section.pairs, ()),
        narrower=section.maybe("narrower", section.texts, ()),
    )


def read_latency(section: Section) -> LatencyPolicy:
    """How latency is measured."""
    section.only(KEYS["latency"])
    default = LatencyPolicy()
    sample = section.maybe("sample", lambda key: section.integer(key, least=1), default.sample)
    planning = section.maybe(
        "planning", lambda key: section.integer(key, least=0), default.planning
    )
    if planning >= sample:
        raise section.error(
            "sample",
            f"{sample:,} leaves nothing to judge beside planning, {planning:,}",
            "Measure more requests.",
        )
    return LatencyPolicy(sample=sample, planning=planning)


def read_graph(section: Section) -> GraphPolicy:
    """How the graphs are searched for the first place where they part."""
    section.only(KEYS["graph"])
    default = GraphPolicy()
    return GraphPolicy(
        requests=section.maybe(
            "requests", lambda key: section.integer(key, least=0), default.requests
        ),
        memory_bytes=section.maybe("memory", section.size_bytes, default.memory_bytes),
        when=section.maybe("when", lambda key: section.choice(key, When), default.when),
        deadline_s=section.maybe("deadline", section.seconds, default.deadline_s),
    )

"""A policy as typed values; `decide.policy` reads it from YAML."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass


class Preset(enum.StrEnum):
    """Kind of change."""

    REFACTOR = "refactor"
    """The same model: any difference above the floor counts."""
    RETRAIN = "retrain"
    """May differ, must not be worse."""
    NONE = "none"
    """Only the guardrails that the policy itself lists; what a policy for a table has."""


class Mode(enum.StrEnum):
    """Whether the exit code carries the decision."""

    ENFORCE = "enforce"
    """It does."""
    ADVISE = "advise"
    """Exit 0; the report says what enforce would have done."""


class Claim(enum.StrEnum):
    """What a verdict is about."""

    PROCESS = "process"
    """Traffic like this window."""
    WINDOW = "window"
    """Only these requests."""


class Weight(enum.StrEnum):
    """What counts once where requests depend on each other."""

    REQUEST = "request"
    """The mean over requests; with a unit, units are drawn with probability ∝ size."""
    UNIT = "unit"
    """The mean over units, each once."""


class Direction(enum.StrEnum):
    """Which side of the margin is harm."""

    INCREASE = "increase"
    """A mean above +margin."""
    DECREASE = "decrease"
    """A mean below −margin."""
    BOTH = "both"
    """Either."""


class Metric(enum.StrEnum):
    """Per-request quantities; values and bounds are in `judge.metrics`."""

    PARITY_MISMATCH = "parity_mismatch"
    FAILURE = "failure"
    NAN_RATE = "nan_rate"
    DECISION_FLIP = "decision_flip"
    DECISION_RATE_SHIFT = "decision_rate_shift"
    SCORE_SHIFT = "score_shift"
    LOSS_DIFFERENCE = "loss_difference"
    EXCESS_FLIP = "excess_flip"
    """Flips beyond the noise of two versions that do not always agree with themselves."""
    CALIBRATION_SHIFT = "calibration_shift"
    """Outcome minus the candidate's score, in bins of the baseline's score."""
    LATENCY_RATIO = "latency_ratio"
    """Log of candidate's over baseline's time of one request, clipped."""
    LATENCY_P99 = "latency_p99"
    """Requests slower than a fixed cut-off, against a baseline slowed by the margin."""
    RATIO = "ratio"
    """Sum of one column of a table over the sum of another."""
    COLUMN = "column"
    """A column of a table, in the range that the policy declares for it."""


METRIC_BOUNDS: dict[Metric, tuple[float, float]] = {
    Metric.PARITY_MISMATCH: (0.0, 1.0),
    Metric.FAILURE: (-1.0, 1.0),
    Metric.NAN_RATE: (-1.0, 1.0),
    Metric.DECISION_FLIP: (0.0, 1.0),
    Metric.DECISION_RATE_SHIFT: (-1.0, 1.0),
    Metric.SCORE_SHIFT: (-1.0, 1.0),
    Metric.LOSS_DIFFERENCE: (-1.0, 1.0),
    Metric.EXCESS_FLIP: (-1.0, 1.0),
    Metric.CALIBRATION_SHIFT: (-1.0, 1.0),
    Metric.LATENCY_RATIO: (-1.0, 1.0),
    Metric.LATENCY_P99: (-1.0, 1.0),
}
"""Mathematical bounds of one request's value; a test stakes its validity on them.

A table's column has none: the range that the policy declares for it is made true by clipping, as are
the bounds of the latency ratio's logarithm.
"""

CLIPPED = frozenset({Metric.LATENCY_RATIO, Metric.RATIO, Metric.COLUMN})
"""Metrics whose bounds are made true by cutting values to them."""


class Loss(enum.StrEnum):
    """Bounded losses for labelled requests."""

    BRIER = "brier"
    """(p − y)², y ∈ {0, 1}."""
    ZERO_ONE = "zero_one"
    """1[decision ≠ y]."""
    ABSOLUTE = "absolute"
    """|p − y|, y ∈ {0, 1}."""


class Scope(enum.StrEnum):
    """What a parity guardrail compares."""

    OUTPUTS = "outputs"
    FEATURES = "features"


class Against(enum.StrEnum):
    """Which older version a guardrail compares the candidate with."""

    BASELINE = "baseline"
    """The one it would replace."""
    ANCHOR = "anchor"
    """The policy's anchor, which stays the same over many releases: its margin is for their sum."""


class WindowName(enum.StrEnum):
    """The two windows one traffic source serves, and a table, which is its own."""

    NEWEST = "newest"
    """The last days: label-free guardrails."""
    MATURED = "matured"
    """After both training cut-offs, labels older than the maturity: loss guardrails."""
    TABLE = "table"
    """The rows that `harness judge` was given."""


class Rule(enum.StrEnum):
    """How an output becomes a decision."""

    THRESHOLD = "threshold"
    """1[output ≥ value]."""
    ARGMAX = "argmax"
    """Index of the largest class score."""
    NONE = "none"
    """The output is the decision itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guardrail:
    """A metric with a margin."""

    name: str
    """Unique within the policy."""
    metric: Metric
    """What is measured per request."""
    margin: float
    """Largest tolerated mean, in the metric's unit, > 0; for latencies a growth; 0 for ratio."""
    direction: Direction = Direction.INCREASE
    """Which side is harm."""
    window: WindowName = WindowName.NEWEST
    """Which requests it sees."""
    gating: bool = True
    """False: reported, never decides."""
    effect: float | None = None
    """The mean a harmless candidate is expected to have; plans the bets."""
    slice_by: tuple[str, ...] = ()
    """Context columns whose values are guardrails of their own, besides the whole."""
    slice_margin: float | None = None
    """Margin of slices and of the pooled rest; None = the guardrail's own."""
    min_slice: int = 500
    """Slices with fewer requests in the window are pooled as "rest"."""
    loss: Loss | None = None
    """For loss_difference."""
    scope: Scope | None = None
    """For parity_mismatch."""
    expected_changes: tuple[str, ...] = ()
    """Features or outputs that are meant to change: reported, not counted."""
    column: str = ""
    """Column of the table that `harness judge` reads; "" = the guardrail's name."""
    columns: tuple[str, ...] = ()
    """Columns of the table, for metrics that need several, in the order of `TABLE_COLUMNS`."""
    range: tuple[float, float] | None = None
    """For column: the declared (lo, hi) to which values are clipped; for ratio the numerator's."""
    denominator_range: tuple[float, float] | None = None
    """For ratio: the declared (lo, hi) of the denominator, lo ≥ 0."""
    ratio: float = 0.0
    """For ratio: the largest tolerated ratio of the sums."""
    cutoff_s: float | None = None
    """For latency_p99: seconds that count as slow; None = fixed by the planning part of the sample."""
    bins: int = 10
    """For calibration_shift: bins of the baseline's score."""
    against: Against = Against.BASELINE
    """Which older version its values are differences from."""

    def bounds(self) -> tuple[float, float]:
        """(lo, hi) in which every observation lies, by mathematics or by clipping."""
        if self.range is None:
            return METRIC_BOUNDS[self.metric]
        if self.denominator_range is None:
            return self.range
        low, high = self.denominator_range
        return self.range[0] - self.ratio * high, self.range[1] - self.ratio * low

    def tolerated_mean(self, margin: float) -> float:
        """Largest tolerated mean of the observations under a margin of this guardrail.

        The margin itself where it is absolute; a ratio is the null of the values that it makes.
        """
        match self.metric:
            case Metric.LATENCY_RATIO:
                return math.log1p(margin)
            case Metric.LATENCY_P99 | Metric.RATIO:
                return 0.0
            case _:
                return margin

    def reads(self) -> tuple[str, ...]:
        """Columns of a table that it needs."""
        return self.columns or (self.column,)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRule:
    """How the model's answer becomes the decision that production takes, and which output is the score."""

    output: str
    """Output tensor that carries the decision."""
    rule: Rule
    """How it becomes a decision."""
    value: float | None = None
    """Threshold, for Rule.THRESHOLD."""
    score: str | None = None
    """Output that is the score in [0, 1]; None = `output`, unless its rule is none."""
    positive: int = -1
    """Column of the positive class in a score with several columns; −1 = the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Which exchanges are judged."""

    newest_days: float = 60.0
    """Length of the newest window, back from the last exchange at --as-of."""
    maturity_s: float = 86400.0
    """Age at which a label counts; labels that arrive later do not."""
    min_requests: int = 2000
    """Fewer judged requests in a window that a guardrail needs is a HOLD."""
    max_requests: int = 200_000
    """Requests judged per window at most."""
    cover: tuple[str, ...] = ()
    """Context columns whose unseen values the report lists."""
    planning: int = 0
    """First requests of each window's drawn order that only plan the bets and are never evidence."""


class Probes(enum.StrEnum):
    """Which session answers where features are read."""

    AUTO = "auto"
    """The one that returns them, where it is shown to change no bit of an answer; else production's."""
    SEPARATE = "separate"
    """Production's, always; the other one beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxPolicy:
    """What the legs run in."""

    require: str = "S2"
    """Lowest acceptable isolation tier."""
    memory_bytes: int = 2 << 30
    """Address-space limit of a leg."""
    batch_deadline_s: float = 5.0
    """Time one batch may take."""
    start_deadline_s: float = 30.0
    """Time a process may take until its interpreter and runtime are ready."""
    load_deadline_s: float = 30.0
    """Time loading the model may take."""
    probes: Probes = Probes.AUTO
    """Which session answers where features are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """Who must say yes after a PROMOTE."""

    required: bool = False
    approvers: int = 1
    expires_s: float = 86400.0


TABLE_COLUMNS: dict[Metric, tuple[str, ...]] = {
    Metric.EXCESS_FLIP: ("flip", "baseline_flip", "candidate_flip"),
    Metric.CALIBRATION_SHIFT: ("label", "baseline", "candidate"),
    Metric.LATENCY_RATIO: ("baseline", "candidate"),
    Metric.LATENCY_P99: ("baseline", "candidate"),
    Metric.RATIO: ("numerator", "denominator"),
}
"""Keys of a table's guardrail that name a column each, for metrics made from several."""

LATENCY_METRICS = frozenset({Metric.LATENCY_RATIO, Metric.LATENCY_P99})
"""Measured on a sample that is replayed singly, not in the batches of the replay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyPolicy:
    """How latency is measured; only where a guardrail asks for it."""

    sample: int = 2000
    """Requests of the newest window that are replayed singly."""
    planning: int = 500
    """First of them that only fix the cut-off of latency_p99 and are no evidence."""


class When(enum.StrEnum):
    """When a gate looks into both versions' graphs."""

    DIFFERS = "differs"
    """A feature computed from raw fields differs, or an answer where both should answer alike."""
    ALWAYS = "always"
    """In every run."""
    NEVER = "never"
    """In none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPolicy:
    """How the graphs are searched for the first place where they part; it explains and never decides."""

    requests: int = 256
    """Requests that are traced: the first that differ, then others; 0 = none."""
    memory_bytes: int = 256 << 20
    """What the values of one batch of one version may take."""
    when: When = When.DIFFERS
    """When it is done."""
    deadline_s: float = 300.0
    """Time that it may take in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """What the versions may differ in and still be compared: names, baseline's → candidate's, and lengths."""

    inputs: tuple[tuple[str, str], ...] = ()
    outputs: tuple[tuple[str, str], ...] = ()
    tensors: tuple[tuple[str, str], ...] = ()
    narrower: tuple[str, ...] = ()
    """Baseline's inputs of which the candidate may take fewer lengths: declared where the baseline takes any."""

    def renames(self) -> bool:
        """Whether a name stands for another one."""
        pairs = (*self.inputs, *self.outputs, *self.tensors)
        return any(ours != theirs for ours, theirs in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Everything that decides how evidence becomes a decision."""

    version: int
    preset: Preset
    mode: Mode
    alpha_promote: float
    """P(promote while any gating guardrail is beyond its margin) ≤ this."""
    alpha_rollback: float
    """P(rollback while all are within) ≤ this."""
    claim: Claim
    decision: DecisionRule | None
    """None only when no guardrail needs a score or a decision."""
    windows: Windows
    guardrails: tuple[Guardrail, ...]
    sandbox: SandboxPolicy
    approval: Approval
    mapping: Mapping
    latency: LatencyPolicy = LatencyPolicy()
    """For latency guardrails."""
    graph: GraphPolicy = GraphPolicy()
    """How the graphs are searched."""
    digest: str
    """sha256 (hex) of the policy's canonical form (presets expanded)."""
    unit: str = ""
    """Column (user, session) or time block (1h) whose requests depend on each other; "" = none do."""
    weight: Weight = Weight.REQUEST
    """What counts once where there is a unit."""
    anchor: str = ""
    """Reference of the version that guardrails `against: anchor` compare with; a path is relative to the
    policy's file."""
    most_without_claim: float = 0.2
    """Largest share of a window's requests in slices too small for any test that a PROMOTE may leave."""
    most_baseline_failures: float = 0.05
    """Largest share of a window's requests that the baseline may fail under a PROMOTE."""
    unpaired: bool = False
    """A table whose rows carry one arm's outcome each, with the arm and its probability."""

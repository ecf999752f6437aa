"""What happened in a run besides the evidence: the decision needs it, the judge cannot see it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowFacts:
    """One window's counts."""

    name: str
    """newest or matured."""
    selected: int
    """Requests the policy selects from the traffic."""
    judged: int
    """Pairs the judge has seen."""
    min_requests: int
    """Fewer judged pairs are a HOLD."""
    planning: int = 0
    """Requests of it that only planned the bets."""
    reason: str = ""
    """Why it holds nothing or little: "no labels", "no traffic after 2013-11-01" …"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficFacts:
    """What became of the recorded exchanges."""

    sealed: int = 0
    """Exchanges that can be replayed."""
    not_sealed: tuple[tuple[str, int], ...] = ()
    """(reason, count) of those that were read and cannot."""
    not_recorded: tuple[tuple[str, int], ...] = ()
    """(reason, count) of requests that a recorder saw, should have recorded, and did not."""
    without_rows: int = 0
    """Sealed exchanges that ask for nothing: they are replayed, and nothing is compared or judged in them."""

    @property
    def recorded(self) -> int:
        """Exchanges that were read."""
        return self.sealed + self.lost

    @property
    def lost(self) -> int:
        """Exchanges that were read and cannot be replayed."""
        return sum(count for _, count in self.not_sealed)

    @property
    def unrecorded(self) -> int:
        """Requests that should have been recorded and were not."""
        return sum(count for _, count in self.not_recorded)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFacts:
    """What became of the labels, and of the requests that should have one."""

    window: str
    """Whose requests they belong to: matured."""
    matched: int
    """Labels known at --as-of whose request was recorded; corrections count, too."""
    unknown: int
    """Labels known at --as-of whose request is not in the traffic."""
    eligible: int
    """Requests after the training cut-offs whose maturity has passed."""
    labelled: int
    """Of these: with a label in time."""
    one_value: bool = False
    """All of them say the same, though the baseline's answers differ."""

    @property
    def missing(self) -> int:
        """Requests that should have a label and have none in time."""
        return self.eligible - self.labelled


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureCount:
    """Requests on which the candidate failed and the baseline answered."""

    kind: str
    """crash, timeout, error, invalid or nan."""
    count: int
    """Requests."""
    examples: tuple[str, ...] = ()
    """A few request ids."""
    left: bool = False
    """It failed once, and the baseline was not asked the same to its end: a leg had ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unclaimed:
    """Requests of slices that are too small for a test, even together."""

    guardrail: str
    """Deciding guardrail in the policy."""
    column: str
    """What it is sliced by."""
    share: float
    """Of the window's requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineFailures:
    """What the baseline did not answer in one window."""

    window: str
    """newest or matured."""
    failed: int
    """Requests that it fails; not those in `refused`."""
    asked: int
    """These, and those that it answers."""
    both: int = 0
    """Of those that it fails: the candidate fails them, too."""
    refused: int = 0
    """Requests that both versions refuse alike: they say nothing of the baseline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorFailures:
    """What a guardrail against the anchor could not read, as the anchor failed there."""

    guardrail: str
    """Its name in the policy."""
    failed: int
    """Requests that the candidate answers and the anchor fails."""
    asked: int
    """These, and those that entered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything but the evidence that a decision rests on."""

    windows: tuple[WindowFacts, ...]
    """The windows that were selected; a window that is left out counts as empty."""
    traffic: TrafficFacts = TrafficFacts()
    """How much of the recording could be used."""
    labels: LabelFacts | None = None
    """None where no guardrail needs labels."""
    baseline_load_failure: str = ""
    """Why the baseline did not load; "" = it did."""
    candidate_load_failure: str = ""
    """Why the candidate did not load; "" = it did."""
    anchor_load_failure: str = ""
    """Why the anchor did not load; "" = it did, or there is none."""
    load_limits: Mapping[str, str] = field(default_factory=dict)
    """Role → key of the policy whose limit kept that version from loading, where it was one."""
    not_tried: Collection[str] = ()
    """Roles of those that did not load whose process was late, or ended, before it was given the model."""
    baseline_not_golden: str = ""
    """How the baseline differs from its own golden rows; "" = it does not, or it has none."""
    candidate_not_golden: str = ""
    """The same for the candidate."""
    anchor_not_golden: str = ""
    """The same for the anchor."""
    candidate_only_failures: tuple[FailureCount, ...] = ()
    """By kind."""
    candidate_flaky: int = 0
    """Batches that failed in the candidate's process once and passed unchanged in the next one."""
    candidate_failed_trials: tuple[FailureCount, ...] = ()
    """What the candidate did not answer before or beside the replay, and the baseline did; examples are in words."""
    baseline_failures: tuple[BaselineFailures, ...] = ()
    """By window; none where it answered all that the candidate answers."""
    anchor_failures: tuple[AnchorFailures, ...] = ()
    """Of the guardrails against the anchor; none where it answered all."""
    legs_ended_early: tuple[tuple[str, str], ...] = ()
    """(leg, why) for legs that ended for another reason than the judge's answer."""
    floor_above_margin: tuple[str, ...] = ()
    """Guardrails whose margin lies below the baseline's difference from itself."""
    unfaithful_replay: str = ""
    """How the replayed baseline differs from what the same version answered in production, when that
    is more than rounding; "" = it does not, or it cannot be known."""
    observer_effect: str = ""
    """How answers given while features were read differ from production's own, where they were judged;
    "" = they do not, or production's were judged."""
    outputs_not_compared: tuple[tuple[str, str], ...] = ()
    """(output of the baseline, why no row of it was compared), expected changes left out."""
    outputs_reshaped: tuple[tuple[str, str], ...] = ()
    """(output of the baseline, how the candidate's shape or form is another), expected changes left out."""
    features_not_compared: tuple[tuple[str, str], ...] = ()
    """The same for the features that the baseline computes from raw fields."""
    interrupted: bool = False
    """A person or the scheduler ended the run."""
    attempt: int = 1
    """1 for the first gate over this candidate, baseline and policy."""
    exhausted: bool = False
    """All selected traffic has been read."""
    without_claim: tuple[Unclaimed, ...] = ()
    """What a promotion would be silent about."""
    not_compared: tuple[str, ...] = ()
    """What the gate did not look at, each as a sentence."""

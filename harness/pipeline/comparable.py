"""When a comparison is none: nothing was asked, a version stopped, no row came."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.counted import counted
from harness.core.errors import UsageError
from harness.core.findings import Finding, Severity
from harness.core.places import Place
from harness.decide.facts import TrafficFacts
from harness.decide.integrity import MOST_LOST, percent, reasons, unfit_traffic
from harness.diff.reports import FeatureReport, OutputReport
from harness.pipeline.alone import Alone
from harness.pipeline.batch_mates import Mixing
from harness.pipeline.candidate_failures import NAN, CandidateFailures
from harness.replay.legs import Leg
from harness.store.windows import SealedWindow

_MEND = (
    "Mend what is said of them. Each request needs as many rows in one input as in another; of an input whose rank no "
    "version declares, a list in .jsonl is one row: give one row a line there, or declare the rank."
)


def check_requests(window: SealedWindow, inputs: Sequence[Place]) -> None:
    """Refuses inputs without a request.

    Raises:
      UsageError: there is none, with why what they hold is none.
    """
    if window.info.count:
        return
    lost = not_sealed(window)
    why = "; ".join(lost)
    raise UsageError(
        ", ".join(map(str, inputs)),
        f"hold no request{f' ({why})' if why else ''}, so nothing can be compared",
        _MEND if lost else "Give inputs with at least one request of at least one row.",
    )


def not_sealed(window: SealedWindow) -> tuple[str, ...]:
    """What was given and cannot be replayed, as sentences."""
    return (
        *(f"{counted(n)} left out: {reason}" for reason, n in window.info.not_sealed),
        *(f"{counted(n)} never recorded: {reason}" for reason, n in window.info.not_recorded),
    )


def traffic_of(window: SealedWindow) -> TrafficFacts:
    """How much of what was given can be replayed; what no recorder kept was not given."""
    return TrafficFacts(
        sealed=window.info.count,
        not_sealed=window.info.not_sealed,
        without_rows=window.index().without_rows(),
    )


def lost_requests(traffic: TrafficFacts) -> list[Finding]:
    """Tells that requests were given and not compared, and whether they are too many for EQUAL."""
    unfit = unfit_traffic(traffic)
    if unfit is not None:
        return [
            Finding(
                kind="traffic_integrity", severity=Severity.WARNING, where="inputs",
                what=unfit.explanation, remedy=unfit.settle,
            )
        ]  # fmt: skip
    if not traffic.lost:
        return []
    return [
        Finding(
            kind="traffic_not_sealed", severity=Severity.WARNING, where="inputs",
            what=f"{traffic.lost:,} of {counted(traffic.recorded)} could not be sealed "
            f"({reasons(traffic.not_sealed)})",
            remedy="Repair the recorder or the export: these requests were given and not compared.",
        )
    ]  # fmt: skip


def rows_compared(outputs: OutputReport) -> int:
    """Rows of the answers that were compared."""
    return max((report.rows for report in outputs.outputs), default=0)


def requests_compared(outputs: OutputReport, features: FeatureReport) -> int:
    """Requests of which some tensor was compared: none without a row."""
    if outputs.outputs:
        return outputs.requests - outputs.without_rows
    return features.requests if any(report.rows for report in features.features) else 0


def without_values(outputs: OutputReport) -> list[Finding]:
    """Tells when no answer held a value; where no output is compared, rows are not known."""
    answered = outputs.requests - outputs.without_rows
    if not answered or not outputs.outputs or rows_compared(outputs):
        return []
    return [
        Finding(
            kind="nothing_compared", severity=Severity.WARNING, where="inputs",
            what=f"{counted(answered)} were answered without a single value: no value was compared",
            remedy="Give inputs to which both versions answer with values.",
        )
    ]  # fmt: skip


def alone_only(alone: Sequence[Alone]) -> tuple[str, ...]:
    """Versions that answered no batch of several requests, where none did: their requests run by themselves."""
    none = [one.role for one in alone if not one.requests and one.failed]
    return tuple(none) if len(none) == len(alone) else ()


def candidate_stopped(legs: tuple[Leg, Leg], failures: CandidateFailures) -> bool:
    """Whether the candidate gives no more answers where the baseline goes on.

    A cap that is reached says nothing where both fail the same requests: the baseline, which has run some
    of them for the floor before, reaches its own first, and either may when the machine is slow.
    """
    baseline, candidate = legs
    return bool(candidate.ended and not baseline.ended and not failures.both)


def rejected(failures: CandidateFailures, unknown: int) -> tuple[str, ...]:
    """Requests that both versions' runtimes refuse, as a sentence; arguments as in `never_known`."""
    refused = failures.both - unknown
    return (f"{counted(refused)} that both versions reject",) if refused else ()


def never_known(failures: CandidateFailures, unknown: int) -> tuple[str, ...]:
    """Requests that production may answer and that nobody could compare, as sentences: one is no EQUAL.

    Args:
      failures: what both versions failed.
      unknown: of these: not both runtimes refuse.
    """
    ended = unknown - failures.shapeless
    told = (
        (failures.shapeless, "answered by both versions without a row for each row of the inputs"),
        (
            ended,
            "that neither version answers and not both runtimes refuse (crash, deadline, memory, other rows)",
        ),
    )
    return tuple(
        f"{counted(n)} {what}: whether both answer alike is not known" for n, what in told if n
    )


def too_few_answered(
    traffic: TrafficFacts, asked: int, failures: CandidateFailures
) -> tuple[str, ...]:
    """Says that neither version answers so many requests, with what could not be asked, that the rest is not what was given.

    Args:
      traffic: what was given.
      asked: how many of it were asked, in an order drawn by chance.
      failures: what both versions failed of these.
    """
    bare = traffic.lost + traffic.without_rows
    unanswered = failures.both * traffic.sealed / max(asked, 1)
    if not failures.both or bare + unanswered <= MOST_LOST * traffic.recorded:
        return ()
    beside = (
        f", and {bare:,} of {counted(traffic.recorded)} have nothing to compare" if bare else ""
    )
    said = (
        f"neither version answers {failures.both:,} of {counted(asked)} with what can be compared "
        f"({percent(failures.both, asked)}){beside}: at most {100 * MOST_LOST:g} % may be like that"
    )
    return (said,)


def never_run(
    ended: Sequence[str], asked: int, compared: int, failures: CandidateFailures
) -> tuple[str, ...]:
    """How many requests a version that had stopped never ran, as a sentence."""
    alone = failures.count() - failures.kinds[NAN]
    left = asked - compared - failures.baseline - alone
    return (f"{counted(left)} that not both versions ran",) if ended and left else ()


def unbatched(mixing: Mixing) -> tuple[str, ...]:
    """What is said of a new version that answers none of the batches that the old one answers."""
    ran = {one.role: one.requests for one in mixing.alone}
    if ran.get("candidate", 1) or not ran.get("baseline"):
        return ()
    text = (
        "candidate: it answers no batch of several requests with as many rows as were asked for, as the "
        "baseline does: requests were compared one by one only"
    )
    return (text,)

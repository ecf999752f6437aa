"""When a comparison is none: nothing was asked, a version stopped, no row came."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.counted import counted
from harness.core.errors import UsageError
from harness.core.findings import Finding, Severity
from harness.core.places import Place
from harness.diff.reports import FeatureReport, OutputReport
from harness.pipeline.candidate_failures import NAN, CandidateFailures
from harness.replay.legs import Leg
from harness.store.windows import SealedWindow


def check_requests(window: SealedWindow, inputs: Sequence[Place]) -> None:
    """Refuses inputs without a request.

    Raises:
      UsageError: there is none, with why what they hold is none.
    """
    if window.info.count:
        return
    why = "; ".join(f"{counted(n)} left out: {reason}" for reason, n in window.info.not_sealed)
    raise UsageError(
        ", ".join(map(str, inputs)),
        f"hold no request{f' ({why})' if why else ''}, so nothing can be compared",
        "Give inputs with at least one request of at least one row.",
    )


def rows_compared(outputs: OutputReport) -> int:
    """Rows of the answers that were compared."""
    return max((report.rows for report in outputs.outputs), default=0)


def requests_compared(outputs: OutputReport, features: FeatureReport) -> int:
    """Requests of which some tensor was compared."""
    if outputs.outputs:
        return outputs.requests
    return features.requests if any(report.rows for report in features.features) else 0


def without_rows(outputs: OutputReport) -> list[Finding]:
    """Tells when requests came without a row; where no output is compared, rows are not known."""
    if not outputs.requests or not outputs.outputs or rows_compared(outputs):
        return []
    return [
        Finding(
            kind="nothing_compared", severity=Severity.WARNING, where="inputs",
            what=f"{counted(outputs.requests)} came without a single row: no value was compared",
            remedy="Give inputs with at least one row.",
        )
    ]  # fmt: skip


def candidate_stopped(legs: tuple[Leg, Leg], failures: CandidateFailures) -> bool:
    """Whether the candidate gives no more answers where the baseline goes on.

    A cap that is reached says nothing where both fail the same requests: the baseline, which has run some
    of them for the floor before, reaches its own first, and either may when the machine is slow.
    """
    baseline, candidate = legs
    return bool(candidate.ended and not baseline.ended and not failures.both)


def never_run(
    ended: Sequence[str], asked: int, compared: int, failures: CandidateFailures
) -> tuple[str, ...]:
    """How many requests a version that had stopped never ran, as a sentence."""
    alone = failures.count() - failures.kinds[NAN]
    left = asked - compared - failures.baseline - alone
    return (f"{counted(left)} that not both versions ran",) if ended and left else ()

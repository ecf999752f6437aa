"""What the rarer tests of a run prove, and what they leave open; shown only where a run has them."""

from __future__ import annotations

from collections.abc import Sequence

from harness.report.read import Doc
from harness.report.views import Cell, Column, Table
from harness.report.words import metric_from_word

_METRICS = {
    "excess_flip": (
        (
            "How much oftener the versions' decisions differ than each version differs from itself; for "
            "two classes this is the mean squared difference of their chances of a positive decision."
        ),
        (
            "Nothing where both versions are steady beyond plain flips; not which version is right; a "
            "request with several classes has no such reading. Needs both versions run twice."
        ),
    ),
    "calibration_shift": (
        (
            "In every bin of the baseline's score, the mean of outcome minus the candidate's score is "
            "within the margin."
        ),
        (
            "Nothing finer than a bin: errors of opposite sign inside one cancel. Nothing about ranking, "
            "about requests without a label, or about the first requests, which only fix the bins."
        ),
    ),
    "latency_ratio": (
        (
            "The typical growth of one request's time (mean of the logarithm, each pair cut to a factor "
            "of e), asked singly on this machine."
        ),
        (
            "Not the serving machine, load, batching or queues; not the slowest requests, which are cut. "
            "About serving, so never exactly this window."
        ),
    ),
    "latency_p99": (
        (
            "Whether the candidate is over a cut-off fixed before oftener than the baseline, slowed by "
            "the tolerated growth, would be."
        ),
        (
            "Not the 99 % quantile itself: with a cut-off far from it another quantile is compared. "
            "Not the serving machine or its load, nor how slow the slow requests are."
        ),
    ),
    "ratio": (
        "The ratio of the sums (ΣY/ΣW) is on the right side of the tolerated ratio.",
        (
            "Not the mean of the rows' own ratios, which is another number; rows with a large "
            "denominator count for more. A declared range cuts Y − r·W, and the cut mean is the subject."
        ),
    ),
}
"""Metric → (what a verdict proves, what it does not)."""
_ANCHOR = (
    (
        "The candidate against a version that stays the same, so that many small losses, each within its "
        "margin, cannot add up unseen."
    ),
    (
        "Only what the anchor is compared in, on today's traffic. Nothing about the releases between, "
        "and the anchor itself is believed."
    ),
)
_RESUMED = (
    (
        "Evidence of the attempt before goes on: however often one comes back, the error rates are those "
        "of one test."
    ),
    (
        "The earlier requests were judged as they came then: all windows together are taken for traffic "
        "of one kind. What was diffed and found in them is in the earlier run only."
    ),
)
_PLANNED_WINDOW = (
    (
        "The margin holds of exactly the window's requests, those that planned the bets among them: what "
        "they add up to is known from the start."
    ),
    (
        "Nothing about traffic like it. No bet is placed on the planning requests, so by themselves they "
        "prove nothing; they only leave less of the window unknown."
    ),
)


def proofs(rows: Sequence[Doc], decision: Doc, manifest: Doc) -> tuple[Table, ...]:
    """The table of the run's rarer tests; () where it has none.

    Args:
      rows: the run's Evidence values.
      decision: decision.json.
      manifest: manifest.json.
    """
    metrics = dict.fromkeys(row.at("metric").text() for row in rows)
    said = [(metric_from_word(m).title, *_METRICS[m]) for m in metrics if m in _METRICS]
    if decision.at("anchor"):
        said.append(("Against the anchor", *_ANCHOR))
    how = decision.at("again", "how") or manifest.at("again", "how")
    if how.text() == "resume":
        said.append(("Attempts that go on", *_RESUMED))
    planned = any(n.whole() for _, n in manifest.at("planning", "requests").fields())
    if planned and manifest.at("policy", "claim").text() == "window":
        said.append(("This window, with planning", *_PLANNED_WINDOW))
    if not said:
        return ()
    table = Table(
        title="What these tests prove",
        columns=(Column(label="Test"), Column(label="Proves"), Column(label="Does not prove")),
        rows=tuple(tuple(Cell(text=text) for text in row) for row in said),
        empty="",
    )
    return (table,)

"""What of the recording and its labels reached the gate: facts for the decision, findings for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.core.counted import counted
from harness.core.errors import TrafficError
from harness.core.findings import Finding, Severity
from harness.core.policies import Loss, Metric, Policy, WindowName
from harness.core.tensors import Bools, Floats
from harness.core.traffic import WindowInfo
from harness.decide.facts import LabelFacts, TrafficFacts
from harness.decide.integrity import reasons
from harness.store.label_joins import JoinedLabels
from harness.store.windows import WindowIndex

_PROBABILITY_LOSSES = {Loss.BRIER, Loss.ABSOLUTE}

ORDINARILY_MISSING = 0.1
"""Share of missing labels that is told without alarm: some events never happen (cancelled flights)."""

ORDINARILY_CORRECTED = 0.01
"""Share of labels corrected too late that is told without alarm."""


def check_one_model(info: WindowInfo, where: str) -> None:
    """Refuses traffic that was recorded for several models.

    Another model's requests may well decode as this one's, and then count as its traffic.

    Args:
      info: the sealed window.
      where: the traffic, as the user gave it.

    Raises:
      TrafficError: it names the models with their counts.
    """
    if len(info.models) > 1:
        named = ", ".join(f"'{name or 'unnamed'}' ({count:,})" for name, count in info.models)
        raise TrafficError(
            where,
            f"holds exchanges that were recorded for {len(info.models)} models: {named}",
            "Record or export the traffic of one model, and give that.",
        )


def check_label_values(
    policy: Policy, joined: JoinedLabels, index: WindowIndex, selected: Bools
) -> None:
    """Refuses labels that a loss of probabilities has no value for, before anything is replayed.

    Args:
      policy: its guardrails.
      joined: the labels by storage position.
      index: the window, for the request's id.
      selected: the requests whose labels count, shape (n,).

    Raises:
      TrafficError: a label that counts is neither 0 nor 1; it names the file and the request.
    """
    names = [
        g.name
        for g in policy.guardrails
        if g.loss in _PROBABILITY_LOSSES or (g.gating and g.metric is Metric.CALIBRATION_SHIFT)
    ]
    wrong = selected & ~np.isin(joined.label, (0.0, 1.0))
    if not names or not wrong.any():
        return
    at = int(np.flatnonzero(wrong)[0])
    raise TrafficError(
        str(joined.paths[joined.file[at]]),
        f"request '{index.request_ids()[at]}' has the label {joined.label[at]:g} where guardrail "
        f"'{names[0]}' takes 0 or 1 ({int(wrong.sum()):,} labels like it)",
        "Import 0/1 labels, or use `loss: zero_one`.",
    )


def labels_json(joined: JoinedLabels) -> dict[str, object]:
    """What the join says about itself, for the manifest."""
    return {
        "files": [list(pair) for pair in joined.files],
        "read": joined.read,
        "joined": int((~np.isnan(joined.label)).sum()),
        "matched": joined.read - joined.invalid - joined.after_as_of - joined.unknown,
        "unknown": joined.unknown,
        "late": joined.late_rows,
        "corrected": int(joined.corrected.sum()),
        "after_as_of": joined.after_as_of,
        "duplicates": joined.superseded,
        "invalid": joined.invalid,
    }


def traffic_facts(manifest: dict[str, Any]) -> TrafficFacts:
    """How much of the recording was sealed; nothing where no traffic was looked at."""
    window = manifest.get("window")
    if window is None:
        return TrafficFacts()
    return TrafficFacts(
        sealed=int(window["count"]),
        not_sealed=tuple((reason, int(count)) for reason, count in window["not_sealed"]),
        not_recorded=tuple((why, int(count)) for why, count in window.get("not_recorded", ())),
        without_rows=int(window.get("without_rows", 0)),
    )


def label_facts(manifest: dict[str, Any]) -> LabelFacts | None:
    """What became of the labels; None where no guardrail needs any."""
    labels = manifest.get("labels")
    if labels is None:
        return None
    matured = manifest["selection"][WindowName.MATURED.value]
    return LabelFacts(
        window=WindowName.MATURED.value,
        matched=int(labels["matched"]),
        unknown=int(labels["unknown"]),
        eligible=int(matured["eligible"]),
        labelled=int(matured["n"]),
    )


def one_valued(label: Floats, decision_rates: Sequence[float | None]) -> bool:
    """Whether all labels say the same though the baseline's answers differ; as `integrity_findings`."""
    always_the_same = set(decision_rates) in ({0.0}, {1.0})
    return bool(len(label)) and bool(label.min() == label.max()) and not always_the_same


def integrity_findings(
    manifest: dict[str, Any], label: Floats, decision_rates: Sequence[float | None]
) -> list[Finding]:
    """What is missing, each a warning: a person should know before approving.

    Args:
      manifest: the run's.
      label: of the requests that are judged by one, shape (n,).
      decision_rates: the baseline's share of positive decisions in each window, in [0, 1]; None where
        it takes none. Not only in the labelled one: who labels one outcome leaves the other out.
    """
    found = []
    traffic, labels = traffic_facts(manifest), label_facts(manifest)
    if traffic.lost:
        found.append(
            _warning(
                "traffic_not_sealed", "recorded traffic",
                f"{traffic.lost:,} of {traffic.recorded:,} recorded exchanges could not be sealed "
                f"({reasons(traffic.not_sealed)})",
                "Repair the recorder or the export: these requests were served and are not judged.",
            )
        )  # fmt: skip
    found += [*empty_requests(traffic, "recorded traffic"), *_of_recorders(manifest, traffic)]
    window = manifest.get("window") or {}
    rows, together, others = (
        int(window.get(name, 0)) for name in ("batch_rows", "together", "of_other_rows")
    )
    found += fixed_batches(rows, together, others, "recorded traffic")
    if labels is None:
        return found
    if labels.unknown:
        found.append(
            _warning(
                "labels_unknown", "labels",
                f"{labels.unknown:,} of {labels.unknown + labels.matched:,} labels known at that time have a "
                "request id that matches no recorded request",
                "Check that the labels are those of this traffic, under the recorder's request ids.",
            )
        )  # fmt: skip
    if labels.missing:
        few = labels.missing <= ORDINARILY_MISSING * labels.eligible
        found.append(
            Finding(
                kind="labels_incomplete", where="labels",
                severity=Severity.INFO if few else Severity.WARNING,
                what=f"{labels.missing:,} of {labels.eligible:,} requests that are old enough have no "
                "label in time",
                remedy="Find out which they are: labels that are missing may well differ from the others.",
            )
        )  # fmt: skip
    corrected = int(manifest["labels"].get("corrected", 0))
    if corrected:
        found.append(_corrected(corrected, labels.labelled))
    if one_valued(label, decision_rates):
        found.append(
            _warning(
                "labels_of_one_value", "labels",
                f"all {len(label):,} labels that count are {label[0]:g}, though the baseline's answers "
                "differ",
                "Import the labels of every outcome: a loss over one outcome rewards leaning to it.",
            )
        )  # fmt: skip
    return found


def empty_requests(traffic: TrafficFacts, where: str) -> list[Finding]:
    """Tells how many requests ask for nothing; whether they are too many is `unfit_traffic`'s to say.

    Args:
      traffic: what was given.
      where: it was given.
    """
    if not traffic.without_rows:
        return []
    return [
        Finding(
            kind="requests_without_rows", severity=Severity.INFO, where=where,
            what=f"{traffic.without_rows:,} of {counted(traffic.sealed)} have no row: "
            "both versions are asked them, and nothing is compared there",
            remedy="Nothing, where clients send such requests; else look at what empties them.",
        )
    ]  # fmt: skip


def fixed_batches(rows: int, together: int, others: int, where: str) -> list[Finding]:
    """Tells what batches of one size mean for what was given.

    Args:
      rows: that a batch must have for both versions; 0 = any.
      together: rows of a table that were put together to a request; 0 = none were.
      others: requests that have not just so many.
      where: they were given.
    """
    if not rows or not (together or others):
        return []
    taken = f"only batches of {counted(rows, 'row')} are taken by both versions"
    if together:
        return [
            Finding(
                kind="rows_put_together", severity=Severity.INFO, where=where,
                what=f"{taken}: each request is {together} rows of the table, one after the other, the last filled "
                "up with the table's first rows where it was short",
                remedy="Nothing, where any rows may share a batch; else record requests as production makes them.",
            )
        ]  # fmt: skip
    return [
        _warning(
            "rows_not_taken", where,
            f"{taken}, and {counted(others)} have other numbers of rows",
            f"Record what such a model itself is asked, {counted(rows, 'row')} a request, or give nothing but tables of "
            "single rows (.npz, a flat .parquet) without ids, times, context and lists of rows: they are put together "
            "to such requests, and beside any other table they are not.",
        )
    ]  # fmt: skip


def _of_recorders(manifest: dict[str, Any], traffic: TrafficFacts) -> list[Finding]:
    found = []
    if traffic.unrecorded:
        found.append(
            _warning(
                "traffic_not_recorded", "recorded traffic",
                f"recorders saw {traffic.unrecorded:,} more requests than they recorded "
                f"({reasons(traffic.not_recorded)})",
                "Give the recorder what these reasons ask for: these requests were served and are not judged.",
            )
        )  # fmt: skip
    beside = int((manifest.get("window") or {}).get("beside_sample", 0))
    if beside:
        found.append(
            _warning(
                "failures_beside_sample", "recorded traffic",
                f"{beside:,} requests were recorded only because they failed in production; the recorder's "
                "sample would have left them out, so failures weigh more here than they do there",
                "Where that matters, record with --sample 1.",
            )
        )  # fmt: skip
    return found


def _corrected(corrected: int, labelled: int) -> Finding:
    return Finding(
        kind="labels_corrected_late", where="labels",
        severity=Severity.INFO if corrected <= ORDINARILY_CORRECTED * labelled else Severity.WARNING,
        what=f"{corrected:,} requests had their label corrected after the maturity; the label that "
        f"arrived in time counts ({labelled:,} do)",
        remedy="Where corrections are the truth, raise windows.matured.maturity until they arrive in time.",
    )  # fmt: skip


def _warning(kind: str, where: str, what: str, remedy: str) -> Finding:
    return Finding(kind=kind, severity=Severity.WARNING, where=where, what=what, remedy=remedy)

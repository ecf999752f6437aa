"""A verdict on observations that are there already: no models, no replay, the same evidence."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.core.clock import iso, now_ns
from harness.core.errors import UsageError
from harness.core.findings import Finding
from harness.core.jsonable import jsonable
from harness.core.policies import Claim, Mode, Policy, Weight, WindowName
from harness.core.verdicts import Decision, DecisionRecord, Evidence
from harness.core.words import word_counts
from harness.decide.crossed import judged_as
from harness.decide.decision import decide
from harness.decide.facts import Facts, WindowFacts
from harness.decide.policy import table_policy_from_yaml
from harness.judge.combine import Judge
from harness.judge.metrics import Values
from harness.judge.plan import TestPlan, WindowCounts, plan_tests
from harness.judge.planned_bets import moments, planning_json, set_aside
from harness.judge.tables import ColumnValues, looks
from harness.judge.window_claim import Read
from harness.pipeline.environment import environment, package_version
from harness.pipeline.gate import EXIT_CODES
from harness.pipeline.judge_arms import judge_arms
from harness.pipeline.left_out import pooled_words, without_claim
from harness.pipeline.observed import ObservedTable
from harness.pipeline.policy_table import PolicyLike, observed_of, policy_text
from harness.pipeline.publish import Outcome, publish, write_reports
from harness.pipeline.table_findings import about_units, findings_of
from harness.pipeline.table_units import by_unit, columns_seen, seeds_of_draws, slices_of
from harness.store.files import machine_trouble_is_a_gate_error
from harness.store.runs import RunFolder

if TYPE_CHECKING:
    import pandas as pd

    from harness.pipeline.observed import TableLike

_WINDOW = WindowName.TABLE.value
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TableVerdict:
    """What a table proves under a policy."""

    record: DecisionRecord
    """The decision, its reason and what would settle a HOLD."""
    guardrails: tuple[Evidence, ...]
    """Per guardrail and slice: verdict, e-values, confidence sequence."""
    findings: tuple[Finding, ...]
    """Rows that were cut to a declared range, or that are missing."""
    mode: Mode
    """Under advise the exit code is 0 whatever the decision."""
    run: Path | None
    """Folder with evidence and report; None when none was asked for."""

    @property
    def decision(self) -> Decision:
        """PROMOTE, ROLLBACK or HOLD."""
        return self.record.decision

    @property
    def reason(self) -> str:
        """Stable word, e.g. all_guardrails_pass, guardrail_failed or not_enough_evidence."""
        return self.record.reason

    @property
    def exit_code(self) -> int:
        """0 PROMOTE, 1 ROLLBACK, 3 HOLD; 0 under advise."""
        return 0 if self.mode is Mode.ADVISE else EXIT_CODES[self.record.decision]

    def to_json(self) -> str:
        """The decision, every guardrail without its path, and the findings."""
        rows = [{k: v for k, v in row.items() if k != "path"} for row in jsonable(self.guardrails)]
        content = {
            **jsonable(self.record),
            "guardrails": rows,
            "findings": jsonable(self.findings),
            "run": str(self.run) if self.run else None,
            "exit_code": self.exit_code,
        }
        return json.dumps(content, indent=2)

    def to_text(self) -> str:
        """The command's last screen."""
        if self.run is not None:
            return write_reports(self.run, "terminal")
        lines = [f"{self.decision.value}: {self.record.explanation}"]
        for row in self.guardrails:
            lines.append(f"  {row.verdict.value:<13}{row.name}: {row.reason}")
            lines.append(f"  {'':<13}about the {row.subject}")
        lines += [f"- {finding.what}" for finding in self.findings]
        return "\n".join([*lines, f"Next: {self.record.next}"])

    def evidence_frame(self) -> pd.DataFrame:
        """One row a guardrail or slice, without the paths."""
        import pandas as pd

        rows = [{k: v for k, v in row.items() if k != "path"} for row in jsonable(self.guardrails)]
        return pd.DataFrame(rows)


def judge_table(
    table: TableLike,
    policy: PolicyLike,
    population: int | None = None,
    *,
    out: Path | None = None,
) -> TableVerdict:
    """Judges a table of observations, one row a request in arrival order.

    All rows are read. Harm that was proven at any look is a ROLLBACK; PROMOTE needs every gating
    guardrail proven where the table ends. Under `claim: process` the error rates are those of
    `judge.combine`, for traffic like the table's.

    The same observations give the same answer: units that are drawn by their size are drawn with
    seeds made from these, as fresh ones at each call would let an answer be waited for.

    Args:
      table: DataFrame, Arrow table, or path to a .parquet or .csv file; optional columns
        `request_id` (each once) and `ts_ns` or `ts` (ascending).
      policy: YAML file, mapping or Policy; needs only `version` and `guardrails`.
      population: the rows (with `weight: unit`, the units) are a random draw from a window of so
        many; under `claim: window` the verdict is about exactly those.
      out: folder to create for evidence.json, decision.json, report.html and junit.xml.

    Raises:
      UsageError: policy, table, population or folder cannot be used.
    """
    asked, text, where = read_table_policy(policy)
    _check_population(population)
    observed = observed_of(asked, table)
    seen = columns_seen(asked, observed)
    seeds = seeds_of_draws(asked, observed, {name: c.values for name, c in seen.items()})
    if asked.unpaired:
        outcome = _unpaired_outcome(asked, observed, seen, population)
    else:
        outcome = _paired_outcome(asked, observed, seen, population, seeds)
    if out is not None:
        request = {"policy": where, "population": population, "seeds": seeds}
        _write(out.resolve(), outcome, _manifest(asked, text, observed, request), asked)
    return TableVerdict(
        record=outcome.record, guardrails=outcome.evidence, findings=outcome.findings,
        mode=asked.mode, run=out.resolve() if out is not None else None,
    )  # fmt: skip


def _paired_outcome(
    policy: Policy,
    observed: ObservedTable,
    seen: dict[str, ColumnValues],
    population: int | None,
    seeds: dict[str, int],
) -> Outcome:
    judged = _judge(policy, observed, seen, population, seeds)
    rows = tuple(about_units(policy, row) for row in judged.judge.evidence())
    facts = _facts(policy, judged, population)
    return Outcome(
        record=decide(policy, judged.judge.status(), rows, facts),
        evidence=rows,
        findings=findings_of(policy, observed, seen),
        intermediates={},
        summary={"judged": judged.values},
        manifest={"planning": planning_json(judged.plan, {_WINDOW: judged.n_planning})},
        models=None,
        windows={_WINDOW: {"n": judged.n, "judged": judged.n - judged.n_planning, "reason": ""}},
        plan=judged.plan,
        status=judged.judge.status(),
    )


def _unpaired_outcome(
    policy: Policy,
    observed: ObservedTable,
    seen: dict[str, ColumnValues],
    population: int | None,
) -> Outcome:
    if population is not None:
        raise UsageError(
            "--population", "has no meaning where each row is one arm's", "Leave it out."
        )
    verdict = judge_arms(policy, observed, seen)
    return Outcome(
        record=verdict.record,
        evidence=verdict.evidence,
        findings=findings_of(policy, observed, seen),
        intermediates={},
        summary={"arms": list(verdict.fixed_sample)},
        manifest={},
        models=None,
        windows={_WINDOW: {"n": verdict.n, "judged": verdict.n, "reason": ""}},
        plan=None,
        status=None,
    )


def read_table_policy(policy: PolicyLike) -> tuple[Policy, str, str]:
    """(policy, its text, where it came from)."""
    if isinstance(policy, Policy):
        return policy, "", "policy"
    text, where = policy_text(policy)
    return table_policy_from_yaml(text, where), text, where


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """The judge after all rows."""

    judge: Judge
    plan: TestPlan
    n: int
    """What counts once: rows, or units."""
    n_planning: int
    """First of them that only planned the bets."""
    values: dict[str, Values]
    """What the tests saw."""


def _judge(
    policy: Policy,
    observed: ObservedTable,
    seen: dict[str, ColumnValues],
    population: int | None,
    seeds: dict[str, int],
) -> _Judged:
    values = by_unit(policy, observed, {name: c.values for name, c in seen.items()}, seeds)
    n = max(len(v.x) for v in values.values())
    _covers(population, n)
    slices = slices_of(policy, observed)
    n0 = min(policy.windows.planning, n)
    counts = WindowCounts(
        n=n - n0,
        slices={c: word_counts(v[n0:]) for c, v in slices.items()},
        population=n if population is None else population,
    )
    first = {name: np.where(v.failed, np.nan, v.x)[:n0] for name, v in values.items()}
    read = {name: Read.of(x) for name, x in first.items()}
    plan = plan_tests(policy, {_WINDOW: counts}, moments(policy.guardrails, first), read)
    judge = Judge(plan, policy.alpha_promote, policy.alpha_rollback)
    # A window that is all here is known at its end; before that its order would have to be random.
    whole = policy.claim is Claim.WINDOW and population in (None, n)
    cut = [(0, n - n0)] if whole and n > n0 else looks(n - n0)
    for start, stop in ((n0 + a, n0 + b) for a, b in cut):
        judge.update(
            _WINDOW,
            {
                name: Values(
                    x=v.x[start:stop],
                    failed=v.failed[start:stop],
                    score=None if v.score is None else v.score[start:stop],
                )
                for name, v in values.items()
            },
            {name: column[start:stop] for name, column in slices.items()},
        )
    tested = {name: Values(x=v.x[n0:], failed=v.failed[n0:]) for name, v in values.items()}
    return _Judged(judge=judge, plan=plan, n=n, n_planning=n0, values=tested)


def _check_population(population: object) -> None:
    if isinstance(population, bool) or not isinstance(population, Integral | None):
        what = f"{population!r} is no whole number"
        raise UsageError("population", what, "Give the size of the window, or None.")


def _covers(population: int | None, n: int) -> None:
    if population is not None and population < max(n, 1):
        raise UsageError(
            "--population",
            f"{population:,} is fewer than the table's {n:,} rows or units",
            "Give the number of requests that the rows were drawn from.",
        )


def _facts(policy: Policy, judged: _Judged, population: int | None) -> Facts:
    n0 = judged.n_planning
    planned = planned_words(policy, n0)
    units = f"dependence between units of {policy.unit}: they count as independent"
    if policy.weight is Weight.REQUEST:
        units = (
            f"other rows than this table's: its units of {policy.unit} were drawn by their size, with "
            "replacement, and what other units would say is not claimed"
        )
    depends = (
        units
        if policy.unit
        else "what a row depends on: rows of one user or session count as independent"
    )
    return Facts(
        windows=(
            WindowFacts(
                name=_WINDOW,
                selected=population or judged.n,
                judged=judged.n - n0,
                min_requests=policy.windows.min_requests,
                reason=planned if judged.n else "the table has no rows",
            ),
        ),
        exhausted=True,
        not_compared=(
            "where the rows come from: only the table was judged, no model was run",
            depends,
            *((planned,) if planned else ()),
            *pooled_words(judged.plan, "of the table"),
        ),
        without_claim=without_claim(policy, judged.plan),
    )


def planned_words(policy: Policy, n0: int) -> str:
    """What became of the first rows; "" where none planned."""
    what = judged_as(policy, n0)
    if not n0:
        return ""
    words = set_aside(policy.guardrails, f"the first {what}")
    if policy.claim is Claim.WINDOW:
        return words.replace("are no evidence", "count only by their sum")
    return words


def _manifest(
    policy: Policy, text: str, observed: ObservedTable, request: dict[str, Any]
) -> dict[str, Any]:
    now = iso(now_ns())
    return {
        "format": _FORMAT,
        "created_at": now,
        "as_of": now,
        "command": " ".join(sys.argv) if Path(sys.argv[0]).name == "harness" else "Python API",
        "table": {"name": Path(observed.name).name, "rows": observed.n, "unit": policy.unit,
                  "drawn": bool(policy.unit) and policy.weight is Weight.REQUEST, **request},
        "lineage": {"table": observed.digest(), "policy": policy.digest},
        "attempt": 1,
        "seed": ", ".join(f"{seed} ({name})" for name, seed in request["seeds"].items())
        or "none: rows were judged in the order given",
        "harness_version": package_version(),
        "policy": {
            "digest": policy.digest, "preset": policy.preset.value, "mode": policy.mode.value,
            "claim": policy.claim.value, "approval": jsonable(policy.approval), "text": text,
        },
        "isolation": {"tier": "none needed: no model was run", "required": "none"},
        "environment": environment(),
    }  # fmt: skip


def _write(
    path: Path,
    outcome: Outcome,
    manifest: dict[str, Any],
    policy: Policy,
) -> None:
    """The same files as a gate's, without models."""
    from harness.pipeline.fixed_sample import fixed_sample, fixed_sample_of_arms

    miss = policy.alpha_promote + policy.alpha_rollback
    intervals = (
        fixed_sample_of_arms(outcome.summary["arms"], miss)
        if policy.unpaired
        else fixed_sample(policy, outcome.summary["judged"])
    )
    with RunFolder.create(path) as run, machine_trouble_is_a_gate_error(path):
        publish(
            run,
            replace(
                outcome,
                manifest={"run_id": path.name, **manifest, **outcome.manifest},
                summary={"n": manifest["table"]["rows"], "fixed_sample": intervals},
            ),
        )

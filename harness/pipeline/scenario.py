"""Scenarios: planted faults with known answers, each a folder with a scenario.yaml."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from harness.core.errors import (
    EnvironmentUnavailableError,
    HarnessError,
    SignatureError,
    UsageError,
    nearest,
)
from harness.core.jsonable import jsonable
from harness.pipeline.assets import assets_root
from harness.pipeline.gate import GateResult, run_gate
from harness.pipeline.progress import Listener, silent


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ExpectedFinding(_Strict):
    """A finding that must be among a run's findings; fields left out match anything."""

    kind: str
    where: str | None = None
    relation: str | None = None
    value: float | None = None


class Expectation(_Strict):
    """What must come out."""

    exit: int
    decision: str | None = None
    """None: the gate refuses before any run (exit 2)."""
    reason: str | None = None
    binding: str | None = None
    findings: tuple[ExpectedFinding, ...] = ()
    absent: tuple[str, ...] = ()
    """Kinds of finding that must not be there."""


class Models(_Strict):
    """The two versions, as paths below the project."""

    baseline: str
    candidate: str


class Scenario(_Strict):
    """One scenario.yaml."""

    title: str
    models: Models
    traffic: tuple[str, ...]
    policy: str
    as_of: str
    expect: Expectation


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioOutcome:
    """How one scenario ended."""

    name: str
    expected: str
    """Decision and exit code in short."""
    got: str
    problems: tuple[str, ...]
    """What was not as expected; empty when all was."""
    seconds: float
    run: str
    """Run folder; "" when the gate refused before one was made."""
    skipped: str = ""
    """Why it could not be run on this machine; "" when it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioOutcomes:
    """How a set of scenarios ended."""

    outcomes: tuple[ScenarioOutcome, ...]

    @property
    def all_as_expected(self) -> bool:
        """Whether every scenario that could be run ended as expected."""
        return not any(o.problems for o in self.outcomes)

    def to_json(self) -> str:
        """All outcomes as JSON."""
        return json.dumps(jsonable(self.outcomes), indent=2)

    def to_text(self) -> str:
        """One line a scenario, with what was not as expected below it."""
        width = max((len(o.name) for o in self.outcomes), default=0)
        lines = []
        for o in self.outcomes:
            mark = "NOT EXPECTED" if o.problems else "skipped     " if o.skipped else "as expected "
            lines.append(f"{mark}  {o.name:<{width}}  {o.got:<28} {o.seconds:5.1f} s")
            lines += [f"    {p}" for p in (*o.problems, o.skipped) if p]
        good = sum(not (o.problems or o.skipped) for o in self.outcomes)
        skipped = sum(bool(o.skipped) for o in self.outcomes)
        told = f", {skipped} skipped" * bool(skipped)
        return "\n".join([*lines, f"{good} of {len(self.outcomes)} as expected{told}"])


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioList:
    """Every scenario there is."""

    scenarios: tuple[tuple[str, Scenario], ...]
    """(name, content), sorted by name."""

    def to_json(self) -> str:
        """Names and contents as JSON."""
        return json.dumps({n: s.model_dump() for n, s in self.scenarios}, indent=2)

    def to_text(self) -> str:
        """One line a scenario."""
        width = max((len(n) for n, _ in self.scenarios), default=0)
        return "\n".join(
            f"{name:<{width}}  {_in_short(s.expect):<12} {s.title}" for name, s in self.scenarios
        )


def _in_short(expect: Expectation) -> str:
    return expect.decision or f"exit {expect.exit}"


def load_scenario(path: Path) -> Scenario:
    """Reads one scenario.yaml strictly.

    Raises:
      UsageError: unreadable, unknown key, wrong type.
    """
    try:
        return Scenario.model_validate(yaml.safe_load(path.read_text()))
    except (yaml.YAMLError, ValidationError, OSError) as error:
        first = str(error).replace("\n", "; ")
        raise UsageError(
            str(path), first, "Compare it with the other folders in scenarios/."
        ) from error


def list_scenarios() -> ScenarioList:
    """Every folder of scenarios/ that holds a scenario.yaml."""
    found = sorted((assets_root() / "scenarios").glob("*/scenario.yaml"))
    return ScenarioList(scenarios=tuple((p.parent.name, load_scenario(p)) for p in found))


def run_scenarios(
    names: Sequence[str] = (),
    *,
    out: Path | None = None,
    cache_dir: Path | None = None,
    listener: Listener = silent,
) -> ScenarioOutcomes:
    """Runs scenarios and checks what they expect.

    Args:
      names: which; empty = all.
      out: where the run folders go; None = runs/scenarios.
      cache_dir: where sealed windows are kept.
      listener: hears progress.

    Raises:
      UsageError: an unknown name.
    """
    known = dict(list_scenarios().scenarios)
    for name in names:
        if name not in known:
            raise UsageError(f"scenario {name}", "there is no such scenario", nearest(name, known))
    folder = out or Path("runs/scenarios")
    stamp = time.strftime("%Y%m%dT%H%M%S")
    return ScenarioOutcomes(
        outcomes=tuple(
            _run_one(name, known[name], folder / f"{name}-{stamp}", cache_dir, listener)
            for name in (names or sorted(known))
        )
    )


def _run_one(
    name: str, scenario: Scenario, run: Path, cache_dir: Path | None, listener: Listener
) -> ScenarioOutcome:
    root = assets_root()
    start = time.perf_counter()
    problems: tuple[str, ...]
    try:
        result = run_gate(
            str(root / scenario.models.baseline),
            str(root / scenario.models.candidate),
            traffic=[root / t for t in scenario.traffic],
            policy=root / scenario.policy,
            as_of=scenario.as_of,
            out=run,
            cache_dir=cache_dir,
            # A scenario is asked again and again on purpose; each time it is a question of its own.
            state_dir=run.parent / ".attempts" / run.name,
            listener=listener,
        )
    except EnvironmentUnavailableError as error:
        return ScenarioOutcome(
            name=name, expected=_in_short(scenario.expect), got="not run", problems=(),
            seconds=time.perf_counter() - start, run="", skipped=f"{error.what}. {error.remedy}",
        )  # fmt: skip
    except HarnessError as error:
        code = 2 if isinstance(error, UsageError) else 4
        got = f"exit {code}" + (" (signature)" if isinstance(error, SignatureError) else "")
        problems = _exit_problem(scenario.expect, code, str(error))
        where = ""
    else:
        got = f"{result.record.decision} (exit {result.exit_code})"
        problems = check(scenario.expect, result)
        where = str(result.run)
    return ScenarioOutcome(
        name=name, expected=_in_short(scenario.expect), got=got, problems=problems,
        seconds=time.perf_counter() - start, run=where,
    )  # fmt: skip


def _exit_problem(expect: Expectation, code: int, detail: str = "") -> tuple[str, ...]:
    if code == expect.exit:
        return ()
    return (f"exit code {code}, expected {expect.exit}{': ' + detail if detail else ''}",)


def check(expect: Expectation, result: GateResult) -> tuple[str, ...]:
    """Compares a gate's result with what a scenario expects.

    Returns:
      What is not as expected, a sentence each.
    """
    problems = list(_exit_problem(expect, result.exit_code))
    record = result.record
    pairs: tuple[tuple[str, str | None, str], ...] = (
        ("decision", expect.decision, record.decision.value),
        ("reason", expect.reason, record.reason),
        ("binding guardrail", expect.binding, record.binding_guardrail),
    )
    problems += [
        f"{what} {got!r}, expected {want!r}" for what, want, got in pairs if want not in {None, got}
    ]
    for wanted in expect.findings:
        if not any(_matches(wanted, f) for f in jsonable(result.findings)):
            problems.append(f"no finding {wanted.model_dump(exclude_none=True)}")
    there = {f.kind for f in result.findings}
    problems += [f"unexpected finding {kind}" for kind in expect.absent if kind in there]
    return tuple(problems)


def _matches(wanted: ExpectedFinding, finding: dict[str, Any]) -> bool:
    if wanted.kind != finding["kind"] or wanted.where not in {None, finding["where"]}:
        return False
    if wanted.relation not in {None, finding["relation"]}:
        return False
    value = finding["value"]
    return wanted.value is None or (
        value is not None and abs(value - wanted.value) <= 1e-3 * abs(wanted.value)
    )
